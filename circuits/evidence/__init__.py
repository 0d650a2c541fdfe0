"""The measures of a circuit's report card: one file per group of criteria, each a function of model, masks and pairs.

| file | asks |
|---|---|
| nulls | does the same search find circuits where there is nothing to find? (critique 1, 2) |
| effect | what happens when parts of the circuit, or of what lies outside it, are taken away? |
| partial | does the behaviour survive what lies between the circuit and the model? (critique 4) |
| roles | do the circuit's nodes and heads do in the circuit what they do in the model? (critique 5) |
| agreement | does the circuit answer as the model does, errors included? (critique 6) |
| specificity | what else breaks without it? (critique 8) |
| ablations | do other ways to delete give the same circuit? Resampling, scrubbing, two-valued nodes (critique 9) |
| curve | CPR and CMD: how fast does the behaviour return as edges are added? |
| hypotheses | the tests of Shi et al. 2024 |

Critique 3 (random circuits) and 7 (seeds) need nothing beyond `circuits.evidence.random_circuits`. `circuits.evidence.card` judges.
"""
