"""Which training recipe is better: capability and circuit size of a run on validation pairs, and the frontier of a search over recipes."""
