"""From numbers to intervals, correlations and decision words; knows numbers only.

1. Estimates are over items (windows), never over level means: a correlation over five means is about .9 where the same
   data give .1 per item.
2. Every interval is a percentile bootstrap over items (`intervals.bootstrap`, the only one), with the seed given by the caller.
3. Confounds (loss, entropy, logit norm, length, position) enter as covariates of a partial rank correlation.
4. A rule is written down before the data are seen; `decisions.decide` turns rule and estimate into one of three words.
"""
