"""Studies of context against prior: a pretrained language model and its facts (`real`), small models of a made world (`trained`), and what both ask (`shared`)."""
