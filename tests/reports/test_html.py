"""The page about a run: everything inside, nothing from elsewhere, comparisons only where allowed."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from markupsafe import escape

pytest.importorskip("matplotlib")
pytest.importorskip("pycocotools")

import evaluations
from waiting import HANGS

from convnext_dense.reports.curves import Log
from convnext_dense.reports.gallery import best_and_worst
from convnext_dense.reports.html import Group, RunReport, build_page

LOG = Log({"loss": ([1, 2], [2.0, 1.0])}, {"all": ([1, 2], [0.1, 0.01])}, {})
GROUPS = [Group("0", 4, 1234567, 1e-4, 1e-6, 0.05, "stem"), Group("1", 2, 10, 2e-4, 2e-6, 0.0, "<heads>")]


def page(evaluation=None, log=LOG, notes=()) -> str:
    recipe = [("model", "MaskRCNN & <friends>"), ("data", "/data/'coco'")]
    report = RunReport("my <run>", recipe, "x = '<y>'", GROUPS, log, evaluation, [("torch", "2")], notes)
    return build_page(report)


class Elements(HTMLParser):
    """Tags with attributes, and text, of a page; fails at tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def detected(tmp_path_factory):
    return evaluations.detection(tmp_path_factory.mktemp("d") / "e")


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    return evaluations.segmentation(tmp_path_factory.mktemp("s") / "e")


@pytest.fixture(scope="module", params=["detected", "segmented"])
def text(request) -> str:
    return page(request.getfixturevalue(request.param))


def test_nothing_comes_from_elsewhere(text):
    elements = Elements(text)
    assert elements.open == []
    for tag, attributes in elements.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            if name in ("src", "href", "srcset", "poster", "action", "data"):
                assert value.startswith(("data:image/", "#")), value[:60]
    style = re.search(r"<style>(.+?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)


def test_every_picture_is_a_picture(text):
    sources = [a["src"] for tag, a in Elements(text).tags if tag == "img"]
    assert len(sources) >= 24
    for source in sources:
        data = np.frombuffer(base64.b64decode(source.partition("base64,")[2]), np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR) is not None
    assert all(a.get("alt") for tag, a in Elements(text).tags if tag == "img")


def test_the_sections_are_there_and_linked(text):
    elements = Elements(text)
    links = [a["href"].removeprefix("#") for tag, a in elements.tags if tag == "a"]
    names = [a["id"] for tag, a in elements.tags if tag == "section"]
    assert links == names
    assert names == ["recipe", "rates", "curves", "figures", "classes", "predictions", "environment"]
    assert ("meta", dict(name="viewport", content="width=device-width, initial-scale=1")) in elements.tags
    assert "1,234,567" in text


def test_names_cannot_break_the_page(detected):
    text = page(detected)
    for written in ("my <run>", "MaskRCNN & <friends>", "x = '<y>'", "<heads>", evaluations.CLASSES[1]):
        assert str(escape(written)) in text
        assert written not in text


def test_twelve_best_and_twelve_worst(detected, segmented):
    for evaluation in (detected, segmented):
        best, worst = best_and_worst(evaluation)
        assert len(best) == len(worst) == 12
        assert not {card.name for card in best} & {card.name for card in worst}
        assert [c.quality for c in best] == sorted((c.quality for c in best), reverse=True)
        assert [c.quality for c in worst] == sorted(c.quality for c in worst)
        assert best[-1].quality >= worst[-1].quality
    # the detections of the first image are exact, each next one lies further off
    best, worst = best_and_worst(detected, 2)
    assert [card.name for card in best] == ["000.png", "001.png"]
    assert best[0].quality == pytest.approx(100)
    assert {card.quality for card in worst} == {0.0}


def test_few_images_are_shared_out(tmp_path):
    best, worst = best_and_worst(evaluations.segmentation(tmp_path / "e", images=5))
    assert [card.name for card in best] == ["0.png", "1.png"]
    assert [card.name for card in worst] == ["4.png", "3.png"]
    best, worst = best_and_worst(evaluations.segmentation(tmp_path / "one", images=1))
    assert [card.name for card in best] == ["0.png"] and worst == []


def test_other_data_is_not_compared_and_says_so(detected, tmp_path):
    part = page(detected)
    assert "nothing is compared with the paper" in part
    assert "46.2" not in part and ">paper</th>" not in part
    whole = page(evaluations.detection(tmp_path / "e", full=True))
    # Table 3, Mask R-CNN, ConvNeXt-T: box AP 46.2
    assert "nothing is compared" not in whole
    assert "46.2" in whole and "outside the tolerance" in whole


def test_what_is_missing_is_said():
    text = page(None, log=None, notes=["No checkpoint in this folder yet."])
    assert Elements(text).open == []
    assert "No checkpoint in this folder yet." in text
    assert text.count("No checkpoint was tested.") == 3 and "Nothing was logged." in text


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_scrolling_sideways(segmented, tmp_path, width):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    text = page(segmented)
    # a phone's width as a frame, because a window of Chromium is never that narrow
    probe = """<script>document.fonts.ready.then(() => {
      const frame = document.querySelector('iframe');
      frame.onload = () => {
        const page = frame.contentDocument, root = page.documentElement;
        const loaded = [...page.images].every(image => image.complete && image.naturalWidth > 0);
        document.title = (root.scrollWidth - root.clientWidth) + ' ' + loaded;
      };
      frame.src = 'page.html'; })</script>"""
    (tmp_path / "page.html").write_text(text.replace(' loading="lazy"', ""))
    frame = f'<iframe style="width:{width}px;height:900px;border:0"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!doctype html><title>-</title><body>{frame}{probe}")
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--dump-dom",
        f"--window-size={width + 200},1000", (tmp_path / "frame.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    title = re.search(r"<title>(.*?)</title>", done.stdout)[1]
    assert title == "0 true", done.stderr[-500:]
