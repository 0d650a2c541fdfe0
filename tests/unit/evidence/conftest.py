"""The examination that the tests of all measures share."""

from random_exam import circuit, exam, model

__all__ = ["circuit", "exam", "model"]
