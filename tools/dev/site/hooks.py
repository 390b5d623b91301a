"""What mkdocs calls while it builds the site (``hooks`` in mkdocs.yml): pages made from the code, and checks.

A page of ``OPTIONAL`` is in the navigation when its file exists. A tutorial is a file in ``docs/tutorials``.
Everything that is logged as a warning here fails the build, because it is strict.
"""

import logging
import re
from pathlib import Path

import error_pages
import public_names
import repository_pages
from mkdocs.structure.files import File

log = logging.getLogger("mkdocs.convnext_dense")  # below "mkdocs": strict counts its warnings

OPTIONAL = ("compatibility.md",)
"""Pages that another command writes, or that come with a part of the package that may be absent."""


def on_config(config):
    """Fill in the tutorials, and leave out optional pages that do not exist."""
    docs = Path(config.docs_dir)
    config.nav = _resolved(config.nav, docs)
    config.watch += [str(repository_pages.ROOT / path) for path in repository_pages.COPIES.values()]
    return config


def _resolved(nav, docs):
    """The navigation with its patterns and optional pages replaced by files."""
    found = []
    for entry in nav:
        title, value = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(value, list):
            value = _resolved(value, docs)
        elif "*" in value:
            value = sorted(path.relative_to(docs).as_posix() for path in docs.glob(value))
        elif value in OPTIONAL and not (docs / value).is_file():
            continue
        if value:
            found.append(value if title is None else {title: value})
    return found


def on_files(files, config):
    """Add the pages that are made from the code."""
    made = {"errors.md": error_pages.page()}
    for page, source in repository_pages.COPIES.items():
        file = repository_pages.ROOT / source
        made[page] = repository_pages.site_links(file, page, file.read_text(encoding="utf-8"))
    docs = Path(config.docs_dir)
    pages = [(path, path.read_text(encoding="utf-8")) for path in sorted(docs.rglob("*.md"))]
    copies = [repository_pages.ROOT / source for source in repository_pages.COPIES.values()]
    pages += [(path, path.read_text(encoding="utf-8")) for path in copies]
    for path in repository_pages.linked_sources(pages):
        made[repository_pages.source_page(path)] = repository_pages.source_text(path)
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files outside ``docs/`` as links to their pages."""
    if page.file.generated_by:
        if page.file.src_uri.startswith("source/"):
            page.meta["search"] = {"exclude": True}
        return markdown
    return repository_pages.site_links(Path(page.file.abs_src_path), page.file.src_uri, markdown)


_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):(?=<code)")


_LOST_ITEM = re.compile(r"<p>(?:(?!</p>).)*?\n(?:- |\d+\. |\|)(?P<item>[^\n<]{0,60})", re.DOTALL)


def on_page_content(html, page, config, files):
    """Fail on a list or table that became a paragraph; show names that docstrings give by Sphinx's roles."""
    if lost := _LOST_ITEM.search(html):
        log.warning(
            "%s: a list or table needs an empty line before it, and four spaces inside an item: %r",
            page.file.src_uri,
            lost["item"],
        )
    if page.file.src_uri == "errors.md":  # hundreds of messages are found by the search, not by a table
        for section in page.toc:
            for part in section.children:
                part.children = []
    return _ROLE.sub("", html)


def on_post_build(config):
    """Fail where a public name is on no page or undocumented, or a page loads from another host."""
    _check_names(Path(config.site_dir))
    _check_network(Path(config.site_dir))


def _check_names(site):
    import zlib

    content = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    documented = {line.split()[0] for line in zlib.decompress(content).decode().splitlines()}
    public = public_names.exported() | {name: name for name in public_names.registered()}
    for name, origin in public.items():
        if not {name, origin} & documented:
            log.warning("%s is public and on no page of docs/api", name)
    for name in public_names.without_docstring():
        log.warning("%s is public and has no docstring", name)


_LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=["']?(?:https?:)?//|"""
    r"""<link\b(?![^>]*rel=["']?(?:canonical|next|prev))[^>]*?\bhref=["']?(?:https?:)?//|"""
    r"""url\(["']?(?:https?:)?//|@import\s+["'](?:https?:)?//"""
)


def _check_network(site):
    """Pages and styles must load nothing from another host: the site is read without a network."""
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        if match := _LOADS.search(path.read_text(encoding="utf-8")):
            log.warning("%s loads from another host: %s", path.relative_to(site), match[0][:120])
        if path.suffix == ".html" and 'class="mermaid"' in path.read_text(encoding="utf-8"):
            log.warning(
                "%s has a mermaid diagram, whose script is loaded from another host", path.relative_to(site)
            )
