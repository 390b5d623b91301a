"""Survey: swap the backbone of every config in mmdet and mmseg, and try the result."""

import contextlib
import hashlib
import importlib
import io
import json
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from mmengine.config import Config
from tqdm import tqdm

from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.swap.backbone import swap_backbone
from convnext_dense.mm.swap.probe import RefusedError
from convnext_dense.mm.swap.smoke_test import try_model
from convnext_dense.support.nested import rebuilt

# "fails as it is": also with its own backbone (a missing package or op, or a broken config)
Outcome = Literal["passes", "refused", "fails as it is", "fails"]

ARCH = "atto"  # this tests the structure, not the size
TIMEOUT = 600  # seconds for one model
# entries of a model that are not structure
_NO_STRUCTURE = ("init_cfg", "pretrained", "train_cfg", "test_cfg")


class Structure(NamedTuple):
    """Configs with the same model.

    Attributes:
        name: ``mmdet::folder/file.py`` of the first one.
        backbone: type of its backbone, or ``-``.
        digest: digest of its model without weights and schedules.
        members: number of configs with this model.
    """

    name: str
    backbone: str
    digest: str
    members: int


class Verdict(NamedTuple):
    """Result for one structure."""

    name: str
    backbone: str
    members: int
    outcome: Outcome
    reason: str
    seconds: float


def config_files(package: str) -> list[Path]:
    """The config files in the wheel of ``mmdet`` or ``mmseg``, without the bases."""
    root = config_root(package)
    return [path for path in sorted(root.rglob("*.py")) if "_base_" not in path.relative_to(root).parts]


def config_root(package: str) -> Path:
    """Where the wheel of a package keeps its configs."""
    return Path(importlib.import_module(package).__file__).parent / ".mim" / "configs"


def structures(package: str) -> tuple[list[Structure], list[tuple[str, str]]]:
    """Distinct models of a package, and files that are not a config of one model, with the reason."""
    found: dict[str, Structure] = {}
    left_out = []
    for path in tqdm(config_files(package), desc=f"reading {package}", unit="config"):
        name = f"{package}::{path.relative_to(config_root(package)).as_posix()}"
        try:
            with quiet():
                model = Config.fromfile(path).get("model")
        except Exception as error:  # a config can run any code
            left_out.append((name, " ".join(str(error).split())[:120]))
            continue
        if not model:
            left_out.append((name, "has no model"))
            continue
        digest = model_digest(model.to_dict())
        before = found.get(digest)
        if before:
            found[digest] = before._replace(members=before.members + 1)
        else:
            backbone = (model.get("backbone") or {}).get("type", "-")
            found[digest] = Structure(name, str(backbone), digest, 1)
    return list(found.values()), left_out


def model_digest(model: dict) -> str:
    """Checksum of a model's config without weights and schedules."""
    structure = rebuilt(model, keep=lambda key, value: key not in _NO_STRUCTURE)
    return hashlib.sha256(json.dumps(structure, sort_keys=True, default=repr).encode()).hexdigest()[:16]


# Backbones of several depths become one model; each process tries it once.
_TRIED: dict[str, str] = {}


def survey_one(structure: Structure) -> Verdict:
    """Swap and try one structure; every outcome is a verdict."""
    start = time.monotonic()
    outcome, reason = _judge(structure.name)
    seconds = round(time.monotonic() - start, 1)
    return Verdict(structure.name, structure.backbone, structure.members, outcome, reason, seconds)


def _judge(name: str) -> tuple[Outcome, str]:
    package, _, path = name.partition("::")
    try:
        with quiet(), _time_limit(TIMEOUT):
            cfg = load_config(str(config_root(package) / path))
            swap = swap_backbone(cfg, ARCH, pretrained="none")
            digest = model_digest(swap.cfg.model.to_dict())
            if digest not in _TRIED:
                _TRIED[digest] = _failure(swap.cfg)
            reason = _TRIED[digest]
            if not reason:
                return "passes", ""
            if own := _failure(cfg):
                return "fails as it is", own
            return "fails", reason
    except RefusedError as error:
        return "refused", str(error)
    except Exception as error:  # a config can run any code
        return "fails", " ".join(str(error).split())[:300]


def _failure(cfg: Config) -> str:
    """Error message of a model that fails, or an empty string."""
    try:
        try_model(cfg)
    except Exception as error:
        return " ".join(str(error).split())[:300]
    return ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the output of third-party models while they are built."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def expire(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read_verdicts(path: Path) -> list[Verdict]:
    """Verdicts of a running or finished survey; a line cut off by an interruption is skipped."""
    verdicts = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, TypeError):
            verdicts.append(Verdict(**json.loads(line)))
    return verdicts


def counts(verdicts: Sequence[Verdict]) -> dict[Outcome, int]:
    """Structures by outcome."""
    return {outcome: sum(v.outcome == outcome for v in verdicts) for outcome in get_args(Outcome)}
