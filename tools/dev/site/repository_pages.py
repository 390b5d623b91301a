"""Pages of the site for files outside ``docs/``: two READMEs, and sources that pages link to."""

import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"

COPIES = {"commands.md": "tools/README.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages that are files of the repository, which stay where its readers look for them."""

_LINK = re.compile(r"(?P<open>\]\()(?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?(?=[)\s])")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_LANGUAGES = {".py": "python", ".sh": "bash", ".json": "json", ".toml": "toml", ".txt": "text"}


def source_page(path: str) -> str:
    """The page of a source file in the site: ``configs/a.py`` -> ``source/configs/a.py.md``."""
    return f"source/{path}.md"


def source_text(path: str) -> str:
    """A file as a page: its path as the title, and its text as code."""
    text = (ROOT / path).read_text(encoding="utf-8").rstrip("\n")
    return f"# {path}\n\n````{_LANGUAGES.get(Path(path).suffix, 'text')}\n{text}\n````\n"


def linked_sources(pages: Iterable[tuple[Path, str]]) -> set[str]:
    """Files of the repository outside ``docs/`` that pages, given as path and text, link to."""
    found = set()
    for file, text in pages:
        for match in _LINK.finditer(_CODE.sub("", text)):
            path = _in_repository(file, match["path"])
            if path and not path.startswith("docs/") and path not in COPIES.values():
                found.add(path)
    return found


def site_links(file: Path, page: str, text: str) -> str:
    """Rewrite links between files of the repository as links between pages of the site.

    Args:
        file: the file that ``text`` was read from, to which its links are relative.
        page: where it is in the site, such as ``tutorials/01.md``.
        text: Markdown.
    """
    pages = {source: copy for copy, source in COPIES.items()}

    def target(match: re.Match[str]) -> str:
        path = _in_repository(file, match["path"])
        if path is None:
            return match[0]
        place = path.removeprefix("docs/") if path.startswith("docs/") else pages.get(path, source_page(path))
        up = "../" * page.count("/")
        return f"{match['open']}{up}{place}{match['anchor'] or ''}"

    return _outside_code(text, lambda part: _LINK.sub(target, part))


def _outside_code(text: str, change) -> str:
    parts, end = [], 0
    for code in re.finditer(r"```.*?```", text, re.DOTALL):
        parts += [change(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(text[end:])])


def _in_repository(file: Path, link: str) -> str | None:
    """``../configs/a.py`` in ``docs/models.md`` -> ``configs/a.py``; ``None`` if there is no such file."""
    path = (file.parent / link).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_file() and path.is_relative_to(ROOT) else None
