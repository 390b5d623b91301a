"""Damage a config at random and build all that training needs of it: no mistake may end in a traceback.

Each mutation is one mistake of a user: a key that is deleted or misspelled, a value of another kind, a type
that is misspelled, a value that belongs elsewhere.
"""

import contextlib
import copy
import io
import random
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, PARAM_SCHEDULERS, VISUALIZERS, init_default_scope
from mmengine.runner import Runner

from convnext_dense.errors import DenseError
from convnext_dense.mm.apis.train import TrainOptions, training_config
from convnext_dense.mm.blame import one_line, place
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.errors import explain
from convnext_dense.mm.models.meta_device import build_on_meta

Verdict = Literal["accepted", "explained", "unexplained"]
VALUES = ("text", 3, -1, 0, 2.5, None, True, [], {}, [1, 2], "3")  # of another kind than what they replace


@dataclass
class Findings:
    """What became of the mutations of one or more configs.

    Attributes:
        counts: how many were accepted, explained in one line, and not explained.
        unexplained: mutation and error of those that a user sees as a failure of the code.
        explained: mutation and line of the others.
    """

    counts: Counter = field(default_factory=Counter)
    unexplained: list[tuple[str, str]] = field(default_factory=list)
    explained: list[tuple[str, str]] = field(default_factory=list)

    def add(self, what: str, verdict: Verdict, line: str) -> None:
        """Count one mutation."""
        self.counts[verdict] += 1
        if verdict != "accepted":
            getattr(self, verdict).append((what, line))


def places(node: object, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all entries below ``node``: keys of mappings and indices of lists."""
    inner = (
        node.items()
        if isinstance(node, Mapping)
        else enumerate(node)
        if isinstance(node, list | tuple)
        else ()
    )
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def misspelled(text: str, draw: random.Random) -> str:
    """One letter left out or two exchanged, as in ``ConvNetX``."""
    if len(text) < 3:
        return f"{text}x"
    at = draw.randrange(1, len(text) - 1)
    if draw.random() < 0.5:
        return text[:at] + text[at + 1 :]
    return text[: at - 1] + text[at] + text[at - 1] + text[at + 1 :]


def mutate(whole: dict, draw: random.Random) -> tuple[dict, str]:
    """A copy of a config with one mistake in it, and what the mistake is."""
    mutated = _with_lists(copy.deepcopy(whole))
    known = list(places(mutated))
    path = draw.choice([path for path in known if isinstance(_at(mutated, path[:-1]), dict | list)])
    owner, key = _at(mutated, path[:-1]), path[-1]
    kind = draw.choice(["delete", "kind", "name", "value", "spelling"])
    shown = ".".join(map(str, path))
    if kind == "name" and isinstance(key, str):
        owner[new := misspelled(key, draw)] = owner.pop(key)
        return mutated, f"{shown} -> {new}"
    if kind == "spelling":
        texts = [p for p in known if isinstance(_at(mutated, p), str) and p[-1] == "type"]
        path = draw.choice(texts)
        _at(mutated, path[:-1])[path[-1]] = new = misspelled(_at(mutated, path), draw)
        return mutated, f"{'.'.join(map(str, path))} = {new!r}"
    if kind == "delete":
        del owner[key]
        return mutated, f"no {shown}"
    other = _at(mutated, draw.choice(known)) if kind == "value" else draw.choice(VALUES)
    owner[key] = copy.deepcopy(other)
    return mutated, f"{shown} = {str(other)[:60]!r}"


def _with_lists(node: object) -> object:
    """Lists for tuples of mappings, so that these can change; others stay, as some transforms insist."""
    if isinstance(node, Mapping):
        return {key: _with_lists(value) for key, value in node.items()}
    if isinstance(node, list) or (isinstance(node, tuple) and any(isinstance(v, Mapping) for v in node)):
        return [_with_lists(value) for value in node]
    return node


def _at(node: object, path: tuple) -> object:
    for key in path:
        node = node[key]
    return node


def build_all(source: str, options: TrainOptions) -> None:
    """Read a config as training does and build its parts, the model on the meta device.

    Raises:
        Exception: whatever the config causes.
    """
    cfg, _ = training_config(source, options)
    init_default_scope(cfg.get("default_scope") or "mmengine")
    model = build_on_meta(cfg)
    wrapper = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
    for scheduler in cfg.get("param_scheduler") or []:
        PARAM_SCHEDULERS.build(
            copy.deepcopy(scheduler), default_args=dict(optimizer=wrapper, epoch_length=10)
        )
    for split in ("train", "val", "test"):
        if loader := cfg.get(f"{split}_dataloader"):
            Runner.build_dataloader(copy.deepcopy(loader), seed=0)
    for split in ("val", "test"):
        if evaluator := cfg.get(f"{split}_evaluator"):
            Evaluator(copy.deepcopy(evaluator))
    VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None, name=str(time.monotonic())))  # one per name
    for hook in [*(cfg.get("default_hooks") or {}).values(), *(cfg.get("custom_hooks") or [])]:
        if hook is not None:
            HOOKS.build({key: value for key, value in hook.items() if key != "priority"})


def try_mutations(recipe: str, count: int, data_root: str, folder: Path, seed: int = 0) -> Findings:
    """Build ``count`` mutations of a recipe.

    Args:
        recipe: name, or path of a config.
        count: mutations to draw.
        data_root: folder of data that the recipe reads.
        folder: for the mutated config and for work folders.
        seed: of the mistakes.
    """
    draw = random.Random(f"{recipe} {seed}")
    cfg = load_config(recipe)
    whole, found = cfg.to_dict(), Findings()
    whole["custom_imports"] = dict(imports=["convnext_dense.mm"], allow_failed_imports=False)
    for _ in range(count):
        mutated, what = mutate(whole, draw)
        path = folder / "mutated.py"
        path.write_text(
            "".join(f"{key} = {value!r}\n" for key, value in mutated.items() if key.isidentifier())
        )
        options = TrainOptions(
            data_root=data_root, work_dir=str(folder / "run"), device="cpu", pretrained="none"
        )
        found.add(what, *verdict_of(str(path), options))
    return found


def verdict_of(source: str, options: TrainOptions) -> tuple[Verdict, str]:
    """What a user would see for a config: nothing, one line about the config, or a failure of the code."""
    silent = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
        ):
            warnings.simplefilter("ignore")
            build_all(source, options)
    except Exception as error:
        line = str(error) if isinstance(error, DenseError) else explain(error)
        return ("explained", line) if line else ("unexplained", f"{one_line(error)} ({place(error)})")
    return "accepted", ""
