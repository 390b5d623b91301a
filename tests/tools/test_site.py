"""The site: error messages and public names read from the code, links, pictures; `make docs` builds it."""

import ast
import importlib
import importlib.util
import itertools
import re
import sys
import tokenize

import pytest
from repository import ROOT

SITE = ROOT / "tools/dev/site"
PACKAGE = ROOT / "convnext_dense"


@pytest.fixture(scope="module")
def site():
    """The modules of the site's build, which find each other beside themselves."""
    sys.path.insert(0, str(SITE))
    names = ("error_walk", "error_pages", "public_names", "repository_pages")
    try:
        yield type("Site", (), {name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(SITE))
        for name in names:
            sys.modules.pop(name, None)


# ---- error messages


def raises(classes: set[str]) -> set[tuple[str, int, str]]:
    """Module, line and class of each ``raise ... CLASS(``, by the tokens of the files."""
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        with path.open("rb") as file:
            tokens = [
                t for t in tokenize.tokenize(file.readline) if t.type not in (tokenize.NL, tokenize.COMMENT)
            ]
        for n, token in enumerate(tokens):
            if token.type != tokenize.NAME or token.string != "raise":
                continue
            line = itertools.takewhile(lambda t: t.type != tokenize.NEWLINE, tokens[n:])
            for name, bracket in itertools.pairwise(line):
                if name.string in classes and bracket.string == "(":
                    found.add((path.relative_to(PACKAGE).as_posix(), name.start[0], name.string))
    return found


def test_no_message_of_the_code_is_forgotten(site):
    classes = set(site.error_walk.error_classes())
    entries = [entry for entry in site.error_walk.entries() if entry.error in classes]
    listed = [(entry.module, entry.line, entry.error) for entry in entries]
    wanted = raises(classes)
    assert len(wanted) > 300
    assert set(listed) == wanted
    assert len(listed) == len(set(listed))


def test_the_page_has_every_entry_with_a_remedy(site):
    entries = site.error_walk.entries()
    page = site.error_pages.page(entries)
    passing_on = [entry for entry in entries if not site.error_pages.has_words(entry)]
    assert len(passing_on) < len(entries) / 10
    entries = [entry for entry in entries if entry not in passing_on]
    names = re.findall(r'<h3 id="([^"]+)"', page)
    assert len(names) == len(set(names)) == len(entries), "each has a place that a link can name"
    assert page.count('<div class="error"') == len(entries)
    assert page.count("**Remedy:**") + page.count("<b>Remedy:</b>") >= len(entries)
    for entry in entries:
        for message in entry.messages:
            assert all(site.error_pages.shown(part) in page for part in site.error_pages.split(message))


def test_every_remedy_by_words_has_a_message(site):
    texts = [
        part for e in site.error_walk.entries() for m in e.messages for part in m if isinstance(part, str)
    ]
    unused = [
        words for words in site.error_pages.MESSAGE_REMEDIES if not any(words in text for text in texts)
    ]
    assert unused == []


@pytest.mark.parametrize(
    ("message", "cause", "remedy"),
    [
        (("no name: use one",), "no name", "use one"),
        (("no name; it has two",), "no name; it has two", ""),
        (("no set (give --root F); expected: two",), "no set; expected: two", "give --root F"),
        (("a name that is not there; --names lists them",), "a name that is not there", "--names lists them"),
    ],
)
def test_a_remedy_begins_with_what_to_do(site, message, cause, remedy):
    assert tuple(map(site.error_pages.shown, site.error_pages.split(message))) == (cause, remedy)


def test_the_faults_of_annotations_are_those_of_the_code(site):
    from convnext_dense.data.coco_repair import KINDS

    assert site.error_walk.annotation_faults() == [(kind.what, kind.done) for kind in KINDS.values()]


def test_a_new_room_or_class_needs_a_title_and_a_remedy(site):
    entry = site.error_walk.Entry("garage/cars.py", 1, "UserError", "", (("x",),))
    with pytest.raises(LookupError, match="garage"):
        site.error_pages.page([entry])
    assert site.error_walk.error_classes().keys() - site.error_pages.REMEDIES.keys() <= {"DenseError"}


MODULE = '''
LIMIT = "at most 3"

def check(name, files, size=None):
    """Check.

    Raises:
        UserError: the name is bad
            in some way.
    """
    if not name:
        raise UserError(f"no name among {', '.join(sorted(files))}: {LIMIT}; use {name!r}")

def other(a, error):
    text = "both" if a else f"neither of {len(a)}"
    raise errors.DataError(text) from error

def third(path):
    raise DataError(because(path) or "unknown") if path else OtherError("too bad", 3)

def because(path):
    return f"{path.name} is a ({'file' if path.x else 'folder'})"
'''


def test_messages_become_patterns(site):
    entries = site.error_walk.entries_of("data/made.py", ast.parse(MODULE))
    texts = [[site.error_pages.shown(message) for message in entry.messages] for entry in entries]
    assert texts == [
        ["no name among <i>files</i>: at most 3; use <i>name</i>"],
        ["both", "neither of <i>number</i>"],
        ["<i>path</i> is a ((file|folder))", "unknown"],
        ["too bad"],
    ]
    assert entries[0].when == "the name is bad in some way."
    assert [entry.function for entry in entries] == ["check", "other", "third", "third"]
    cause, remedy = map(site.error_pages.shown, site.error_pages.split(entries[0].messages[0]))
    assert (cause, remedy) == ("no name among <i>files</i>: at most 3", "use <i>name</i>")


# ---- public names


def test_public_names_are_found_and_have_docstrings(site):
    exported = site.public_names.exported()
    assert exported["convnext_dense.ConvNeXt"] == "convnext_dense.models.convnext.ConvNeXt"
    assert "convnext_dense.mm.models.backbones.ConvNeXt" in site.public_names.registered()
    assert site.public_names.without_docstring() == []


def test_public_names_are_on_the_pages(site):
    pages = "".join(path.read_text() for path in (ROOT / "docs/api").glob("*.md"))
    named = set(re.findall(r"^::: (\S+)", pages, re.MULTILINE))
    public = site.public_names.exported() | {name: name for name in site.public_names.registered()}
    missing = [name for name, origin in public.items() if not {name, origin} & named]
    assert missing == []


# ---- links and pages


def test_links_out_of_docs_become_pages(site):
    pages = site.repository_pages
    text = "[a](../configs/cascade/convnext_t_3x.py) `[b](../Makefile)` [c](faq.md#x) [d](../CONTRIBUTING.md) [e](https://x.y/z)"
    seen = pages.site_links(ROOT / "docs/models.md", "models.md", text)
    assert "[a](source/configs/cascade/convnext_t_3x.py.md)" in seen
    assert "[c](faq.md#x)" in seen and "[d](contributing.md)" in seen and "[e](https://x.y/z)" in seen
    deep = pages.site_links(
        ROOT / "docs/api/index.md", "api/index.md", "[a](../../configs/cascade/convnext_t_3x.py)"
    )
    assert deep == "[a](../source/configs/cascade/convnext_t_3x.py.md)"
    assert pages.linked_sources([(ROOT / "docs/a.md", text)]) == {"configs/cascade/convnext_t_3x.py"}


def test_every_page_is_in_the_navigation():
    config = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name in config or name.startswith("tutorials/"), name


# ---- pictures


def test_the_pictures_are_drawn(tmp_path, capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("pictures_of_the_site", ROOT / "tools/dev/pictures.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, "argv", ["pictures.py", "--out", str(tmp_path)])
    tool.main()
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    assert drawn == {f"{name}.svg" for name in tool.PICTURES}
    assert drawn == {path.name for path in (ROOT / "docs/images").glob("*.svg")}
