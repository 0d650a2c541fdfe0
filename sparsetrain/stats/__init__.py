"""From numbers to intervals, correlations and decision words; knows numbers only.

1. Estimates are over items (windows), never over level means: a correlation over five means is about .9 where the same
   data give .1 per item.
2. Intervals over items are percentile bootstraps (`intervals.bootstrap`, the only one), with the seed given by the caller; those over a
   few runs, or over items crossed with runs (`crossed`), are Student's t. `coverage` counts how often they hold what they promise.
3. Confounds (loss, entropy, logit norm, length, position) enter as covariates of a partial rank correlation.
4. A rule is written down before the data are seen; `decisions.decide` turns rule and estimate into one of three words.
"""
