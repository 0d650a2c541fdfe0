"""From numbers to intervals, correlations and decision words; knows numbers only."""
