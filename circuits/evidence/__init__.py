"""The questions asked of a circuit, a file per family: each criterion with its threshold's name and its measurement.

| file | asks |
|---|---|
| effect | does the circuit carry the behaviour, whole and in parts? |
| random_circuits | is it better than random circuits of its size and place? (critique 3) |
| searches | does the same search find circuits where there is nothing to find, and the same from other seeds? (critique 1, 2, 7) |
| partial | does the behaviour survive what lies between the circuit and the model? (critique 4) |
| roles | do the circuit's nodes and heads do in the circuit what they do in the model (critique 5), can they be switches? |
| agreement | does the circuit answer as the model does, errors included? (critique 6) |
| specificity | what else breaks without it? (critique 8) |
| deletions | do other ways to delete give the same circuit? (critique 9); causal scrubbing |
| curve | CPR and CMD: how fast does the behaviour return as edges are added? |
| hypotheses | the tests of Shi et al. 2024 |

`examination` holds what several of them share, `thresholds` every threshold and size, `card` the order of the questions. A new
criterion is a function with `@criterion(...)` in its family's file, a threshold, and a line in `card.CRITERIA`.
"""
