"""tools/dev/tutorials.py: pages that are run; `make tutorials` runs those of the site."""

import importlib.util
import sys

import pytest
from PIL import Image
from repository import ROOT

SPEC = importlib.util.spec_from_file_location("tutorials_tool", ROOT / "tools/dev/tutorials.py")
PAGE = """---
check:
  "number = 5": "number = 2"
---
# A page

<!-- conditions -->
(not run yet)

```bash
echo "number = 5" > a.txt
cat a.txt; pwd; ls
```

<!-- output: grep number -->

```text
old
```

```bash
python -c "
from PIL import Image
Image.new('RGB', (2000, 100)).save('wide.png')"
```

![wide](images/wide.png)<!-- from: wide.png -->

```
never run
```
"""


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """The module, with its pages in a folder of the test."""
    tool = importlib.util.module_from_spec(SPEC)
    monkeypatch.setitem(sys.modules, SPEC.name, tool)  # dataclasses look their module up
    SPEC.loader.exec_module(tool)
    tool.PAGES = tmp_path / "pages"
    tool.PAGES.mkdir()
    return tool


def test_outputs_and_pictures_are_written_into_the_page(tool):
    page = tool.PAGES / "01_a.md"
    page.write_text(PAGE)
    assert tool.work([page], check=False, keep=None) == 0
    text = page.read_text()
    assert "```text\nnumber = 5\n```" in text and "old" not in text
    assert "Run on " in text and "not run yet" not in text
    with Image.open(tool.PAGES / "images/wide.png") as picture:
        assert picture.width == tool.WIDTH


def test_a_check_is_shorter_and_writes_nothing(tool, tmp_path):
    page = tool.PAGES / "01_a.md"
    page.write_text(PAGE)
    assert tool.work([page], check=True, keep=tmp_path / "kept") == 0
    assert page.read_text() == PAGE and not (tool.PAGES / "images").exists()
    assert (tmp_path / "kept/01_a/a.txt").read_text() == "number = 2\n"
    assert (tmp_path / "kept/01_a/tools").resolve() == ROOT / "tools"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cat a.txt; pwd", "cat b.txt", "b.txt"),
        ("grep number", "grep letter", "no line is left"),
        ("from: wide.png", "from: tall.png", "wrote no tall.png"),
        ('"number = 5": "n', '"letter": "n', "which the front matter replaces"),
    ],
)
def test_a_page_that_does_not_hold_fails(tool, capsys, old, new, said):
    page = tool.PAGES / "01_a.md"
    page.write_text(PAGE.replace(old, new))
    before = page.read_text()
    assert tool.work([page], check=False, keep=None) == 1
    assert said in capsys.readouterr().out and page.read_text() == before


def test_lines_are_selected_and_cleaned(tool, tmp_path):
    raw = f"a 1\n\n  5%|x\r100%|y\x1b[0m\n11/26 17:18:31 - mmengine - INFO - {tmp_path}/b 2 in {tmp_path}\n"
    lines = tool.cleaned(raw, tmp_path)
    assert tool.selected(lines, "all") == ["a 1", "100%|y", "INFO - b 2 in ."]
    assert tool.selected(lines, "tail 2 | head 1") == ["100%|y"]
    assert tool.selected(lines, "grep ^a|b 2") == ["a 1", "INFO - b 2 in ."]
    assert tool.selected(lines, "only (a|b) .*(\\d)") == ["a  1", "b  2"]
    with pytest.raises(tool.TutorialError, match="use all, head"):
        tool.selected(lines, "sort")


TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_the_tutorials_were_run(tool, path):
    page = tool.Page.read(path)
    assert page.shorter and page.blocks(check=True)
    assert "not run yet" not in page.text and "```text\n```" not in page.text
    for match in tool.PICTURE.finditer(page.text):
        assert (path.parent / match["to"]).is_file(), match["to"]


def test_the_pictures_of_the_tutorials_are_small():
    pictures = list((ROOT / "docs/tutorials/images").iterdir())
    assert sum(path.stat().st_size for path in pictures) < 3e6
    shown = "".join(path.read_text() for path in TUTORIALS)
    assert all(f"images/{path.name}" in shown for path in pictures)
