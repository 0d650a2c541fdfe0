"""How sparse representations are: measured on fixed splits, while a model trains and after.

`measures.py` pure functions; `accumulate.py` streaming sums; `positions.py` which tokens are read; `evaluate.py` one evaluation: hook
points x splits; `table.py` evaluations as a csv; `tracker.py` an evaluation every n steps of a training; `controls.py` other ways to
look at an activation; `survey.py` single examples under all controls; `trends.py` what they say; `section.py` the report's section;
`active.py` the number of active channels, measured and set.
"""
