"""The studies of context against prior: small models trained in a made world of known exposures, and models that are trained already."""
