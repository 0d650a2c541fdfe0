"""`open=true` of scripts/report.py: a browser with windows, or none."""

import webbrowser
from pathlib import Path

import pytest

from scripts import report


@pytest.mark.parametrize("display, opened", [("", []), (":0", ["file:///page.html"])])
def test_a_page_is_opened_where_there_are_windows(display, opened, monkeypatch):
    seen: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(seen.append(address)) or True)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    assert report.shown(Path("/page.html")) == bool(opened) and seen == opened
