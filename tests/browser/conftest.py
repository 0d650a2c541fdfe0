"""Chromium for the browser tests: the system's own, network cut, its requests and complaints kept."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 60_000  # milliseconds; a busy machine draws slowly
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@dataclass
class Watched:
    """A page and what it did."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; tests are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Watched]]:
    """Opens a file with the network cut and returns it with its requests and complaints."""
    contexts = []

    def open_file(path: Path, width: int = 1240, scheme: str = "light") -> Watched:
        viewport = {"width": width, "height": 900}
        context = browser.new_context(offline=True, viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        contexts.append(context)
        watched = Watched(page=context.new_page())
        watched.page.set_default_timeout(TIMEOUT)
        watched.page.on("request", lambda request: watched.requests.append(request.url))
        watched.page.on("console", lambda line: watched.complaints.append(f"{line.type}: {line.text}"))
        watched.page.on("pageerror", lambda error: watched.complaints.append(f"error: {error}"))
        watched.page.on("dialog", lambda dialog: (watched.complaints.append("dialog"), dialog.dismiss()))
        watched.page.goto(path.as_uri())
        return watched

    yield open_file
    for context in contexts:
        context.close()
