"""The configs of mmdet and mmseg, and which of them have the same model."""

import contextlib
import hashlib
import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from tqdm import tqdm

from convnext_dense.errors import UserError
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings, rebuilt
from convnext_dense.toolboxes import package_folder

PACKAGES = ("mmdet", "mmseg")
# entries of a model that are weights: they change neither what is built nor what it computes
_WEIGHTS = ("init_cfg", "pretrained")


class Structure(NamedTuple):
    """Configs with the same model.

    Attributes:
        digest: of all that the swap reads, see :func:`digest_of`.
        backbone: type of its backbone, also of one inside an inner model, or ``-``.
        members: ``mmdet::folder/file.py`` of all configs with this model.
    """

    digest: str
    backbone: str
    members: tuple[str, ...]

    @property
    def name(self) -> str:
        """The first config with this model."""
        return self.members[0]


def config_root(package: str) -> Path:
    """Where the wheel of a package keeps its configs; raises ``UserError`` if there is no such package."""
    folder = package_folder(package)
    if folder is None:
        raise UserError(f"{package} is not installed, so that its configs cannot be surveyed")
    return folder / ".mim" / "configs"


def config_names(package: str) -> list[str]:
    """``mmdet::folder/file.py`` of each config file in the wheel, without the bases."""
    root = config_root(package)
    paths = [path.relative_to(root) for path in sorted(root.rglob("*.py"))]
    return [f"{package}::{path.as_posix()}" for path in paths if "_base_" not in path.parts]


def read_structures() -> tuple[list[Structure], list[tuple[str, str]]]:
    """Distinct models of both toolboxes, and the files that are no config of a model, with the reason."""
    found: dict[str, Structure] = {}
    left_out = []
    for name in tqdm([n for package in PACKAGES for n in config_names(package)], unit="config"):
        try:
            with quiet():
                cfg = load_config(name)
            if not cfg.get("model"):
                left_out.append((name, "has no model"))
                continue
            digest, backbone = digest_of(cfg), backbone_type(cfg.model)
        except Exception as error:  # a config can run any code
            left_out.append((name, one_line(error)))
            continue
        before = found.get(digest, Structure(digest, backbone, ()))
        found[digest] = before._replace(members=(*before.members, name))
    return list(found.values()), left_out


def backbone_type(model: Mapping) -> str:
    """Type of the outermost backbone in a model, or ``-``."""
    parts = [part["backbone"] for _, part in mappings(model) if isinstance(part.get("backbone"), Mapping)]
    return type_name(parts[0]) or "-" if parts else "-"


def digest_of(cfg: Config) -> str:
    """Checksum of what decides how a config is swapped and tried.

    That is its model, its scope, the modules that it imports, and the type of its optimizer, which the swap
    replaces; for the model see :func:`without_indifferent`.
    """
    parts = [
        without_indifferent(cfg.model.to_dict()),
        cfg.get("default_scope"),
        cfg.get("custom_imports"),
        type_name(cfg.get("optim_wrapper")),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:16]


def without_indifferent(model: Mapping) -> dict:
    """A model's config without what changes no verdict.

    - Weights are left out: a trial has random ones.
    - The size to which images are padded and augmented counts only as given: a trial has its own images.
    - The number of classes becomes a name, ``"classes 0"`` for the first that occurs and so on: it only
      widens last layers. One and two classes stay, which losses treat apart.
    """
    model = rebuilt(model, keep=lambda key, value: key not in _WEIGHTS)
    for _, node in mappings(model):
        preprocessor = node.get("data_preprocessor") or {}
        preprocessor.pop("batch_augments", None)
        if preprocessor.get("size"):
            preprocessor["size"] = "given"
    return _classes_by_name(model, {})


def _classes_by_name(node: object, names: dict[int, str]) -> object:
    if isinstance(node, list):
        return [_classes_by_name(value, names) for value in node]
    if not isinstance(node, dict):
        return node
    new = {}
    for key in sorted(node, key=str):
        value = node[key]
        if key == "num_classes" and isinstance(value, int) and value > 2:
            new[key] = names.setdefault(value, f"classes {len(names)}")
        else:
            new[key] = _classes_by_name(value, names)
    return new


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the output of third-party models while they are built."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def one_line(error: Exception, most: int = 300) -> str:
    """An error's message in one line, with files by their names: folders differ between machines."""
    said = " ".join(str(error).split()) or type(error).__name__
    said = said.partition(", the current sys.path is")[0]  # mmengine lists it
    return re.sub(r"(?<![\w:/.])/(?:[^\s/'\"]+/)+", "", said)[:most]
