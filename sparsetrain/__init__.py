"""Train weight-sparse transformers and watch how sparse their representations are."""

__version__ = "0.1.0"
