"""The command ``convnext-dense SUBCOMMAND``: the commands of ``tools/`` from an installed wheel."""

import difflib
import importlib
import sys

from convnext_dense import __version__
from convnext_dense.errors import MissingPackageError
from convnext_dense.support.command_line import SCRIPT
from convnext_dense.toolboxes import advice, read_toolboxes

COMMANDS = {  # subcommand -> module of convnext_dense.commands, and its purpose
    "list": ("list_recipes", "print the names of the recipes"),
    "copy": ("copy_recipe", "write a recipe to a file to edit"),
    "train": ("train", "train a detector or segmentor"),
    "test": ("test", "evaluate a checkpoint: COCO AP or mIoU, and pictures"),
    "predict": ("predict", "predict on your own images"),
    "benchmark": ("benchmark", "measure recipes beside the paper's tables"),
    "plot": ("plot", "curves, charts and pictures of runs and results"),
    "swap": ("swap", "replace the backbone of any mmdet or mmseg config by a ConvNeXt"),
    "convert": ("convert", "write a checkpoint in the names of another code base"),
    "export": ("export", "write a trained model as one ONNX file, compared with PyTorch"),
    "explain-lr": ("explain_lr", "show parameter groups and learning rates of a recipe"),
    "doctor": ("doctor", "report versions, devices and operators, with a remedy for what is missing"),
    "ops": ("ops", "compile mmcv's operators for this environment"),
    "demo": ("demo", "train, evaluate and draw a small detector and a small segmentor"),
}
_STACK = {"mmengine", "mmcv", "mmdet", "mmseg", "pycocotools"}


def usage() -> str:
    """The text of ``convnext-dense --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: convnext-dense SUBCOMMAND ...",
            "",
            "Dense prediction with ConvNeXt: train, evaluate and measure the recipes of the paper.",
            "",
            *lines,
            "",
            "convnext-dense SUBCOMMAND --help has the options of each.",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Run a subcommand; ``argv`` are the arguments after the program's name.

    Raises:
        SystemExit: status 2 for an unknown subcommand or when a package that it needs is not installed.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        raise SystemExit(0 if argv else 2)
    if argv[0] == "--version":
        print(__version__)
        return
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "convnext-dense --help lists them"
        raise SystemExit(_failed(f"no subcommand {name!r}; {hint}"))
    try:
        module = importlib.import_module(f"convnext_dense.commands.{COMMANDS[name][0]}")
    except (MissingPackageError, ModuleNotFoundError) as error:
        missing = getattr(error, "name", None)
        if missing and missing.split(".")[0] not in _STACK:
            raise
        needed = f"{name} needs the OpenMMLab stack ({error}): {advice(read_toolboxes())}"
        raise SystemExit(_failed(needed)) from None
    sys.argv = [f"{SCRIPT} {name}", *rest]  # help texts and the resume command show it
    module.main()


def _failed(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2
