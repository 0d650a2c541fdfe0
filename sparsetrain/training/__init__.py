"""Training once: objectives, the fit, and what happens around its steps."""
