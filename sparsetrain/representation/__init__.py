"""How sparse are activations, in and out of the training distribution?

`measures.py` pure functions; `accumulate.py` streaming sums; `watch.py` one evaluation of a model on fixed splits;
`record.py` the table of evaluations; `tracker.py` the evaluation every n steps of a training; `trends.py` statistics.
"""
