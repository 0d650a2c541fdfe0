"""Studies that train models of their own: one file per study, all run by `run_study`.

A study is a function of the run's config that gives a plan, stages, and what to make of their results (`study.py`).
"""
