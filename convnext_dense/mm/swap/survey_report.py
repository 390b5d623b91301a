"""The survey of all configs of mmdet and mmseg as a page."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, get_args

from convnext_dense.mm.swap.structures import Structure
from convnext_dense.mm.swap.survey import COLUMNS, Column
from convnext_dense.mm.swap.survey_key import changed
from convnext_dense.mm.swap.verdict import Outcome, Verdict
from convnext_dense.support.text_tables import markdown

# Backbones that are neither 2-D convolutional nor pyramids of windows: plain transformers,
# a diffusion model; "-" stands for models without a backbone.
OTHER_BACKBONES = ("-", "VisionTransformer", "BEiT", "MAE", "VPD")


_HEAD = """# ConvNeXt in every config of mmdet and mmseg

Every config that the wheels of mmdet and mmseg carry was taken, one per structure: configs whose models
differ at most in weights, number of classes and padding. Its backbone was swapped for a ConvNeXt (`atto`:
this tests the structure) as `tools/swap_backbone.py` does. The result was built, trained for one step and
asked for a prediction, on the CPU. Models that are equal after the swap were tried once. `fails as it is`
means that the config also fails here with its own backbone.

A verdict holds for one key: the code of this package that decides it, and the versions in the table.
`make zoo` judges what has no verdict of the present code, and writes this page."""


class Count(NamedTuple):
    """A number of structures, and of the configs that have them."""

    structures: int
    configs: int

    def __str__(self) -> str:
        return f"{self.structures} / {self.configs}"


def count(structures: Sequence[Structure]) -> Count:
    """How many structures, and how many configs have them."""
    return Count(len(structures), sum(len(structure.members) for structure in structures))


def eligible(structure: Structure, verdict: Verdict) -> bool:
    """Whether a structure has a 2-D convolutional or Swin-like backbone."""
    return structure.backbone not in OTHER_BACKBONES and "patches of 16 pixels" not in verdict.reason


def runs_here(verdict: Verdict) -> bool:
    """Whether the config works with its own backbone, as far as is known."""
    return verdict.outcome != "fails as it is" and "which is not installed" not in verdict.reason


def judged(column: Column, outcome: Outcome | None = None) -> list[Structure]:
    """Structures with a verdict, or with that verdict."""
    found = [s for s in column.structures if s.digest in column.verdicts]
    return [s for s in found if outcome in (None, column.verdicts[s.digest].outcome)]


def pass_rate(column: Column) -> tuple[Count, Count] | None:
    """Eligible structures that pass, and those that can run at all; ``None`` if verdicts are missing."""
    if not column.complete:
        return None
    able = [s for s in judged(column) if eligible(s, column.verdicts[s.digest])]
    able = [s for s in able if runs_here(column.verdicts[s.digest])]
    return count([s for s in able if column.verdicts[s.digest].outcome == "passes"]), count(able)


def survey_page(columns: Sequence[Column], code: Mapping[str, str]) -> str:
    """The page for what was measured with the present code; other verdicts are not reported.

    Args:
        columns: of the record.
        code: checksums of the present code that decides a verdict.
    """
    present = [column for column in columns if column.verdicts and not changed(column.code, code)]
    parts = [_HEAD, state_table(columns, code)]
    if present:
        parts += ["Numbers are structures / configs.", count_table(present)]
        parts += ["\n".join(map(_rate_line, present)), *_reasons(present[0])]
    for other in present[1:]:
        parts += _reasons(_differing(other, present[0]), f" (otherwise than with {present[0].name})")
    parts.append("Every structure with its configs and its verdict: [`zoo.json`](zoo.json).")
    return "\n\n".join(parts) + "\n"


def _differing(column: Column, first: Column) -> Column:
    """The column with only those structures on which ``first`` has no verdict or another one."""
    known = {digest: (verdict.outcome, verdict.reason) for digest, verdict in first.verdicts.items()}
    new = {d for d, verdict in column.verdicts.items() if known.get(d) != (verdict.outcome, verdict.reason)}
    left_out = [row for row in column.left_out if row not in first.left_out]
    return column._replace(structures=[s for s in column.structures if s.digest in new], left_out=left_out)


def state_table(columns: Sequence[Column], code: Mapping[str, str]) -> str:
    """For how many structures and configs there is a verdict of the present code, for all four columns."""
    rows = [("toolboxes", "verdicts of the present code", "date", "versions", "key")]
    known = {column.name: column for column in columns}
    for name in COLUMNS:
        column = known.get(name)
        if column is None:
            rows.append((name, "not measured", "", "", ""))
            continue
        state = f"{count(judged(column))} of {count(column.structures)}"
        if different := changed(column.code, code):
            state = f"none: {_changes(different)} changed since"
        about = {
            k: v for k, v in column.environment.items() if k not in ("line", "operators", "mmcv operators")
        }
        versions = ", ".join(f"{key} {value}" for key, value in about.items())
        rows.append((name, state, column.date, versions, f"`{column.key}`"))
    return markdown(rows).rstrip()


def _changes(names: Sequence[str]) -> str:
    some = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    return f"{len(names)} module{'s'[: len(names) > 1]} ({some})"


def count_table(columns: Sequence[Column]) -> str:
    """Structures and configs by package and outcome."""
    outcomes = get_args(Outcome)
    rows = [("configs, toolboxes", *outcomes, "no verdict", "all")]
    for column in columns:
        for package in ("mmdet", "mmseg"):
            mine = column._replace(
                structures=[s for s in column.structures if s.name.startswith(f"{package}::")]
            )
            found = [count(judged(mine, outcome)) for outcome in outcomes]
            missing = count([s for s in mine.structures if s.digest not in column.verdicts])
            rows.append((f"{package}, {column.name}", *map(str, [*found, missing, count(mine.structures)])))
    return markdown(rows, "lr").rstrip()


def _rate_line(column: Column) -> str:
    rate = pass_rate(column)
    trials = len({v.trial for v in column.verdicts.values() if v.trial})
    what = "with a 2-D convolutional or Swin-like backbone that can run here"
    if rate is None:
        known, whole = count(judged(column)), count(column.structures)
        said = f"no percentage: {known.structures} of {whole.structures} structures have a verdict"
    else:
        passed, able = rate
        said = (
            f"{passed.structures} of {able.structures} structures {what} pass "
            f"({passed.structures / max(able.structures, 1):.1%}), "
            f"{passed.configs} of {able.configs} configs ({passed.configs / max(able.configs, 1):.1%})"
        )
    return f"- {column.name}: {said}; {trials} distinct models after the swap"


def _reasons(column: Column, how: str = "") -> Iterator[str]:
    yield f"## Reasons with {column.name}{how}"
    for outcome in ("refused", "fails", "fails as it is"):
        yield f"### {outcome.capitalize()}\n\n{_reason_table(column, judged(column, outcome))}"
    yield f"### Files without a model, or that cannot be read here\n\n{_left_out_table(column.left_out)}"


def _reason_table(column: Column, structures: Sequence[Structure]) -> str:
    if not structures:
        return "None."
    groups: dict[tuple[str, str], list[Structure]] = {}
    for structure in structures:
        groups.setdefault((column.verdicts[structure.digest].reason, structure.backbone), []).append(
            structure
        )
    rows = [("structures / configs", "backbone", "reason", "for example")]
    for (reason, backbone), same in sorted(groups.items(), key=lambda item: -len(item[1])):
        rows.append((str(count(same)), backbone, _plain(reason), f"`{same[0].name}`"))
    return markdown(rows, "rl").rstrip()


def _left_out_table(left_out: Sequence[tuple[str, str]]) -> str:
    if not left_out:
        return "None."
    found = Counter(reason for _, reason in left_out)
    rows = [("files", "reason", "for example")]
    for reason, number in found.most_common():
        example = next(name for name, said in left_out if said == reason)
        rows.append((str(number), _plain(reason), f"`{example}`"))
    return markdown(rows, "rl").rstrip()


def _plain(reason: str) -> str:
    """A reason as Markdown, which takes ``<`` for the start of a tag."""
    return reason.replace("<", "&lt;")
