"""One export from beginning to end: build, trace, write, check."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from convnext_dense.errors import DenseError, UserError
from convnext_dense.export.engines import open_model
from convnext_dense.export.outputs import find_images
from convnext_dense.mm.config.edit import set_pretrained
from convnext_dense.mm.datasets.paths import datasets_of
from convnext_dense.mm.export.check import compare, example_inputs
from convnext_dense.mm.export.differences import first_difference
from convnext_dense.mm.export.load import HW, Exportable, load
from convnext_dense.mm.export.quantise import in_half, spread, to_int8
from convnext_dense.mm.export.write import save, to_onnx, values_by_module
from convnext_dense.mm.models.onnx_model import SUFFIX, is_exported
from convnext_dense.support.files import replacing


@dataclass(frozen=True)
class Request:
    """What to export, and how.

    Attributes:
        recipe: name for the metadata.
        checkpoint: file that training wrote.
        out: file to write.
        fixed_hw: the only size of input; ``None`` for any.
        labels: a segmentor returns class numbers in place of logits.
        half: weights and products in float16.
        int8: weights and activations of 8 bits.
        calibration: folder of pictures for ``int8``; ``None`` takes those of the config's training set.
        pictures: how many of them.
        check: compare the file with PyTorch before it gets its name.
    """

    recipe: str
    checkpoint: str
    out: Path
    fixed_hw: HW | None = None
    labels: bool = False
    half: bool = False
    int8: bool = False
    calibration: str | None = None
    pictures: int = 64
    check: bool = True


def export(cfg: Config, request: Request) -> Iterator[str]:
    """Export a model; the file appears when it is complete and has passed.

    Args:
        cfg: config of the model, which is changed.
        request: what to export.

    Yields:
        a line for each step.

    Raises:
        UserError: a config, a path or an option that cannot be exported, or a file that differs.
        CheckpointError: a checkpoint that cannot be read or does not fit.
        MissingPackageError: a package that is not installed.
    """
    check_path(request.out)
    pictures = calibration_pictures(cfg, request) if request.int8 else []
    set_pretrained(cfg, "none")
    model = load(cfg, request.checkpoint, request.recipe, request.fixed_hw, request.labels)
    yield f"{request.recipe}, {model.metadata.kind}: tracing, which takes half a minute or more"
    traced = in_half(model) if request.half else model
    proto = to_onnx(traced)
    produced = values_by_module(proto)
    with writing(request.out) as partial:
        save(proto, partial)
        del proto
        if request.int8:
            yield f"int8: measuring ranges on {len(pictures)} pictures"
            with tempfile.TemporaryDirectory() as folder:
                quantised = Path(folder) / "int8.onnx"
                to_int8(partial, quantised, pictures)
                partial.write_bytes(quantised.read_bytes())
        if request.check:
            exact = not (request.half or request.int8)
            if request.half:  # compared with the weights in float32
                model = load(cfg, request.checkpoint, request.recipe, request.fixed_hw, request.labels)
            yield from checked(model, partial, produced, exact)
    size = request.out.stat().st_size / 2**20
    yield f"wrote {request.out}: {size:.1f} MiB, ONNX opset {model.metadata.opset}"


@contextlib.contextmanager
def writing(out: Path) -> Iterator[Path]:
    """The file to write to, which gets its name when it is complete.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with replacing(out, sync=True) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from None


def checked(model: Exportable, path: Path, produced: dict[str, list[str]], exact: bool) -> Iterator[str]:
    """Compare a file with PyTorch on several inputs.

    Args:
        model: what PyTorch runs.
        path: the file.
        produced: module -> values that its nodes compute.
        exact: whether a difference is an error; else it is only reported.

    Yields:
        a line for each input.

    Raises:
        UserError: the outputs differ; names the first module whose output does.
    """
    engine = open_model(path, "onnxruntime")
    inputs = example_inputs(model.metadata)
    for images, verdict in zip(inputs, compare(model, engine, inputs), strict=True):
        n, height, width = verdict.shape
        line = f"check {n} x {height} x {width}: {verdict.text}"
        if exact and not verdict.passed:
            with tempfile.TemporaryDirectory() as folder:
                module = first_difference(model, path, produced, images, Path(folder))
            where = f"the first module that differs is {module}" if module else "each module alone agrees"
            raise UserError(f"{line}; {where}. Nothing was written; --no-check writes the file all the same")
        yield line


def check_path(out: Path) -> None:
    """Make the folder of the file.

    Raises:
        UserError: it cannot be written to, or the file has another suffix, such as a checkpoint's.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder; give a file, such as {out / 'model.onnx'}")
    if not is_exported(out):
        raise UserError(f"{out}: exported files are known by their suffix; give {out.with_suffix(SUFFIX)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {out.parent}: {error.strerror}") from None
    try:
        tempfile.TemporaryFile(dir=out.parent).close()  # asks the disk, as permissions do not say it all
    except OSError as error:
        raise UserError(f"cannot write to {out.parent} ({error.strerror}); give another folder") from None


def calibration_pictures(cfg: Config, request: Request) -> list[Path]:
    """Pictures to measure the ranges of activations on.

    Raises:
        UserError: none are there.
    """
    if request.calibration:
        return spread(find_images([request.calibration]), request.pictures)
    init_default_scope(cfg.get("default_scope") or "mmengine")
    try:
        dataset = DATASETS.build({**datasets_of(cfg, ("train",))[0], "pipeline": [], "lazy_init": False})
        paths = [Path(dataset.get_data_info(index)["img_path"]) for index in range(len(dataset))]
    except (OSError, DenseError, IndexError, KeyError) as error:
        raise UserError(
            f"int8 measures ranges on the training pictures, which cannot be read ({error}); "
            "give --data-root, or --calibration FOLDER of pictures"
        ) from None
    return spread(paths, request.pictures)
