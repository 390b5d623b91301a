"""The survey of the config zoos as a page and as JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import get_args

import torch

from convnext_dense.mm.swap.survey import Outcome, Verdict, counts
from convnext_dense.support.text_tables import markdown
from convnext_dense.toolboxes import toolbox_line

# Backbones that are neither 2-D convolutional nor pyramids of windows: plain transformers,
# a diffusion model; "-" stands for wrapper models without their own backbone.
OTHER_BACKBONES = ("-", "VisionTransformer", "BEiT", "MAE", "VPD")


def eligible(verdict: Verdict) -> bool:
    """Whether a structure has a 2-D convolutional or Swin-like backbone that reads only an image."""
    return verdict.backbone not in OTHER_BACKBONES and not any(
        words in verdict.reason for words in ("reads text", "clips of video", "patches of 16 pixels")
    )


def pass_rate(verdicts: Sequence[Verdict]) -> tuple[int, int]:
    """Number of eligible structures that pass, and number of those that can run at all."""
    able = [v for v in verdicts if eligible(v) and v.outcome != "fails as it is"]
    return sum(v.outcome == "passes" for v in able), len(able)


def survey_page(surveys: Mapping[str, Sequence[Verdict]], note: str = "") -> str:
    """The page for the verdicts with one or several sets of ops.

    Args:
        surveys: label such as ``compiled ops`` -> verdicts; reasons are listed for the first.
        note: how the records were made, if not as the page says.
    """
    label, verdicts = next(iter(surveys.items()))
    members = sum(v.members for v in verdicts)
    parts = [
        "# ConvNeXt in every config of mmdet and mmseg",
        f"Every config that the wheels of {toolbox_line()} carry ({members} with a model) was taken, one per "
        f"distinct model ({len(verdicts)}: the model's config without weights and schedules). Its backbone "
        "was swapped for a ConvNeXt (`atto`: this tests the structure) as `tools/swap_backbone.py` does. "
        "The result was built, trained for one step and asked for a prediction, on the CPU. Models that are "
        f"equal after the swap were tried once. torch {torch.__version__}. To repeat: `make zoo`.",
        note,
        _count_table(surveys),
        _rates(surveys),
        f"`fails as it is`: the config also fails here with its own backbone. Reasons, with {label}:",
        _reason_table([v for v in verdicts if v.outcome == "refused"], "Refused"),
        _reason_table([v for v in verdicts if v.outcome == "fails"], "Fails"),
        _reason_table([v for v in verdicts if v.outcome == "fails as it is"], "Fails as it is"),
        "Every structure with its verdict: `zoo.json`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _count_table(surveys: Mapping[str, Sequence[Verdict]]) -> str:
    outcomes = get_args(Outcome)
    rows = [("configs, ops", *outcomes, "all")]
    for label, verdicts in surveys.items():
        for package in ("mmdet", "mmseg"):
            mine = [v for v in verdicts if v.name.startswith(f"{package}::")]
            found = counts(mine)
            cells = [str(found[outcome]) for outcome in outcomes]
            rows.append((f"{package}, {label}", *cells, str(len(mine))))
    return markdown(rows).rstrip()


def _rates(surveys: Mapping[str, Sequence[Verdict]]) -> str:
    lines = []
    for label, verdicts in surveys.items():
        passed, able = pass_rate(verdicts)
        lines.append(
            f"- {label}: {passed} of {able} structures with a 2-D convolutional or Swin-like backbone that "
            f"can run here pass ({passed / max(able, 1):.1%})"
        )
    return "\n".join(lines)


def _reason_table(verdicts: Sequence[Verdict], title: str) -> str:
    if not verdicts:
        return f"## {title}\n\nNone."
    found = Counter((v.reason, v.backbone) for v in verdicts)
    rows = [("structures", "backbone", "reason", "for example")]
    for (reason, backbone), count in found.most_common():
        example = next(v.name for v in verdicts if (v.reason, v.backbone) == (reason, backbone))
        safe = reason.replace("<", "&lt;")  # or Markdown takes the rest for a tag
        rows.append((str(count), backbone, safe, f"`{example.split('::')[1]}`"))
    return f"## {title}\n\n{markdown(rows, 'rl')}".rstrip()
