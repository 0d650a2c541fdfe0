"""Pictures in a report: every renderer shows or names them, and nothing but a PNG is let in."""

import base64
from dataclasses import dataclass
from io import BytesIO

import pytest
import wandb
from PIL import Image
from report_example import example_report

from sparsetrain.report import Report, SectionKind
from sparsetrain.report.blocks import Block, Details, Picture, Pictures, walk
from sparsetrain.report.document import assemble
from sparsetrain.report.html import to_html
from sparsetrain.report.markdown import to_markdown
from sparsetrain.report.render import render
from sparsetrain.report.wandb_log import log_report


def _png() -> str:
    out = BytesIO()
    Image.new("RGB", (3, 2), (255, 0, 0)).save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode()


SHOWN = Picture(label="a<b", alt='red "field"', png=_png(), width=30, height=20, file="pictures/a.png")


@dataclass(frozen=True, kw_only=True)
class Hung:
    """A section."""

    n: int = 1


def _view(section: Hung) -> list[Block]:
    return [Details(summary="wall", blocks=(Pictures(title="Two", items=(SHOWN,) * (1 + section.n), note="oil"),))]


KINDS = {"hung": SectionKind(schema=Hung, view=_view)}


@pytest.fixture
def report() -> Report:
    return Report(run=example_report().run, sections={"hung": Hung()})


def test_the_page_holds_the_picture_itself(report):
    page = to_html(assemble(report, KINDS))
    assert page.count(f'<img src="data:image/png;base64,{SHOWN.png}"') == 2
    assert 'alt="red &#34;field&#34;"' in page and 'width="30" height="20"' in page
    assert "<figcaption>a&lt;b</figcaption>" in page and "image-rendering: pixelated" in page
    assert "img-src data:;" in page, "the policy lets in images of the page itself, and no others"


def test_markdown_names_the_file(report):
    text = to_markdown(assemble(report, KINDS))
    assert text.count('- a&lt;b: red "field" (`pictures/a.png`)') == 2 and "**Two**" in text and "*oil*" in text
    assert SHOWN.png not in text


def test_wandb_gets_images(report, tmp_path):
    class Recorder:
        id = "abc"

        def __init__(self):
            self.summary, self.media = {}, {}

        def log(self, media):
            self.media.update(media)

        def log_artifact(self, artifact):
            pass

    paths = render(report, KINDS, tmp_path)
    run = Recorder()
    log_report(run, report, KINDS, paths["html"])
    images = [value for value in run.media.values() if isinstance(value, wandb.Image)]
    assert len(images) == 2 and images[0].image is not None and images[0].image.size == (3, 2)


def test_they_are_found_inside_others():
    assert sum(isinstance(block, Pictures) for block in walk(_view(Hung()))) == 1


@pytest.mark.parametrize("png", ["", "aGVsbG8=", '"><script>', _png() + '"'])
def test_nothing_but_a_png(png):
    with pytest.raises(AssertionError, match="no PNG"):
        Picture(label="x", alt="", png=png, width=1, height=1)
