"""What circuits contribute to the report: the task table, a drawing of each circuit, and each small one in words.

The entry point hands `VIEWS` to the report beside those of `sparsetrain.report.sections`.
"""

from circuits.sections.tasks import circuits
from sparsetrain.report.blocks import View

VIEWS: dict[str, View] = {"circuits": circuits}

__all__ = ["VIEWS", "circuits"]
