"""Run the tutorials of docs/tutorials and write their real outputs and pictures into them: `make tutorials`.

    python tools/dev/tutorials.py                       # all pages
    python tools/dev/tutorials.py 02_segmentation       # one of them
    python tools/dev/tutorials.py --check               # shorter runs; writes nothing, fails like the others

A page is run in a temporary folder that looks like the root of a clone. These marks are read:

    ```bash ... ```                   commands, run in their order; one that fails ends the page
    <!-- output: tail 5 -->           the next block of text is lines of the commands' output above it:
                                      all, head N, tail N, grep PATTERN, only PATTERN (the groups of each
                                      line that has it), or several of them with " | " between
    ![...](images/a.png)<!-- from: work_dirs/a.png -->      a copy of a file that the commands wrote
    <!-- conditions -->               the next line says when and where the page was run, and how long it took
    check: in the front matter        replacements, OLD: NEW, that make the commands shorter for --check
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import yaml
from PIL import Image

from convnext_dense.support.files import replacing, write_text

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "tutorials"
WIDTH = 1100  # pixels of the widest picture

COMMANDS = re.compile(r"^```bash\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
OUTPUT = re.compile(
    r"(?P<mark><!-- output: (?P<lines>.+?) -->\n\n?)```text\n.*?^```$", re.DOTALL | re.MULTILINE
)
PICTURE = re.compile(r"!\[[^\]]*\]\((?P<to>images/[^)]+)\)<!-- from: (?P<source>\S+) -->")
CONDITIONS = re.compile(r"(?P<mark><!-- conditions -->\n).*")
_TIME = re.compile(r"^\d\d/\d\d \d\d:\d\d:\d\d - mmengine - ")


class TutorialError(Exception):
    """A page whose commands fail, or do not write what the page shows."""


@dataclass(frozen=True)
class Page:
    """A tutorial: its text, and the replacements that make it shorter."""

    name: str
    text: str
    shorter: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Page":
        """The page of a file, with the front matter left in its text."""
        text = path.read_text(encoding="utf-8")
        found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        front = yaml.safe_load(found[1]) if found else {}
        return cls(path.stem, text, {str(old): str(new) for old, new in front.get("check", {}).items()})

    def blocks(self, check: bool) -> list[tuple[int, str]]:
        """Where each block of commands ends in the text, and its commands."""
        blocks = [(match.end(), match["code"]) for match in COMMANDS.finditer(self.text)]
        unused = {old for old in self.shorter if not any(old in code for _, code in blocks)}
        if unused:
            raise TutorialError(
                f"{self.name}: no command has {sorted(unused)}, which the front matter replaces"
            )
        if not check:
            return blocks
        return [(end, _replaced(code, self.shorter)) for end, code in blocks]


def _replaced(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


def make_root(folder: Path) -> None:
    """What a reader has in the root of a clone, as links."""
    for name in ("tools", "configs"):
        (folder / name).symlink_to(ROOT / name)


def run(code: str, folder: Path) -> str:
    """The output of commands, both streams together.

    Raises:
        TutorialError: a command failed; the message has the end of the output.
    """
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    python = str(Path(sys.executable).parent)
    env = {
        **os.environ,
        "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": paths,
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "COLUMNS": "160",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise TutorialError(f"status {done.returncode} of\n{code}\n{done.stdout[-3000:]}")
    return cleaned(done.stdout, folder)


def cleaned(output: str, folder: Path) -> str:
    """Output without progress bars, colours, dates and the temporary folder."""
    output = re.sub(r"\x1b\[[0-9;]*m", "", output)
    output = output.replace(f"{folder}/", "").replace(str(folder), ".")
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in output.split("\n")]
    return "\n".join(_TIME.sub("", line) for line in lines)


def selected(output: str, wanted: str) -> list[str]:
    """The lines that a page shows, by ``tail 5``, ``grep AP | head 2``, ...

    Raises:
        TutorialError: nothing is left, or an unknown word.
    """
    steps: dict[str, Callable[[list[str], str], list[str]]] = {
        "all": lambda lines, _: lines,
        "head": lambda lines, n: lines[: int(n)],
        "tail": lambda lines, n: lines[-int(n) :],
        "grep": lambda lines, pattern: [line for line in lines if re.search(pattern, line)],
        "only": lambda lines, pattern: [
            "  ".join(filter(None, match.groups())) for line in lines if (match := re.search(pattern, line))
        ],
    }
    lines = [line for line in output.split("\n") if line.strip()]
    for step in wanted.split(" | "):
        word, _, argument = step.strip().partition(" ")
        if word not in steps:
            raise TutorialError(f"output: {wanted}; use {', '.join(steps)}")
        lines = steps[word](lines, argument)
    if not lines:
        raise TutorialError(f"output: {wanted}; no line is left of\n{output[-2000:]}")
    return lines


def copy_picture(source: Path, to: Path) -> None:
    """A picture at most ``WIDTH`` pixels wide; PNG with 256 colours, or JPEG."""
    with Image.open(source) as image:
        image = image.convert("RGB")
        if image.width > WIDTH:
            image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
        to.parent.mkdir(parents=True, exist_ok=True)
        with replacing(to) as partial:
            if to.suffix == ".png":
                image.quantize(256).save(partial, "PNG", optimize=True)
            else:
                image.save(partial, "JPEG", quality=85)


def conditions(seconds: float) -> str:
    """When and where a page was run."""
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "mmengine", "mmdet", "mmsegmentation")
    )
    return f"Run on {date.today()}: one CPU thread, {seconds:.0f} s of CPU time in all; {versions}."


def follow(page: Page, folder: Path, check: bool) -> tuple[str, dict[Path, Path]]:
    """Run a page in ``folder``.

    Returns:
        its text with the new outputs, and its pictures: where each goes, and the file that it is made from.

    Raises:
        TutorialError: a command fails, or a line or a picture of the page is not there.
    """
    before = _cpu_seconds()
    outputs = []
    for end, code in page.blocks(check):
        print(f"  {code.strip().splitlines()[0][:100]}", flush=True)
        outputs.append((end, run(code, folder)))

    def output(match: re.Match[str]) -> str:
        above = [text for end, text in outputs if end <= match.start()]
        lines = "\n".join(selected(above[-1], match["lines"]))
        return f"{match['mark']}```text\n{lines}\n```"

    text = OUTPUT.sub(output, page.text)
    pictures = {PAGES / match["to"]: folder / match["source"] for match in PICTURE.finditer(text)}
    if missing := sorted(
        str(source.relative_to(folder)) for source in pictures.values() if not source.is_file()
    ):
        raise TutorialError(f"the commands wrote no {', '.join(missing)}")
    took = conditions(_cpu_seconds() - before)
    return CONDITIONS.sub(lambda match: match["mark"] + took, text), pictures


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def work(paths: Sequence[Path], check: bool, keep: Path | None) -> int:
    """Run pages one after the other, and return how many failed."""
    failed = 0
    for path in paths:
        print(f"== {path.stem}", flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            folder = (keep / path.stem if keep else Path(temporary)).resolve()
            folder.mkdir(parents=True, exist_ok=bool(not keep))
            make_root(folder)
            try:
                text, pictures = follow(Page.read(path), folder, check)
            except TutorialError as error:
                print(f"FAIL {path.stem}: {error}", flush=True)
                failed += 1
                continue
            if not check:
                for to, source in pictures.items():
                    copy_picture(source, to)
                write_text(path, text)
            print(f"ok   {path.stem}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all pages")
    parser.add_argument("--check", action="store_true", help="shorter runs, and write nothing")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="run there, and keep the files")
    args = parser.parse_args()
    pages = {path.stem: path for path in sorted(PAGES.glob("*.md"))}
    if unknown := sorted(set(args.names) - pages.keys()):
        parser.error(f"no pages {unknown}; there are {', '.join(pages)}")
    return 1 if work([pages[name] for name in args.names or pages], args.check, args.keep) else 0


if __name__ == "__main__":
    sys.exit(main())
