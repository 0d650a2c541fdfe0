"""The one progress bar outside training, where Lightning draws its own."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def progress_bar(shown: bool) -> Progress:
    """A bar on stderr that goes when it is done; a context manager whose tasks are added by `add_task`."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True)
