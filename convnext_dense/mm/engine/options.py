"""Options of the command lines, each declared once: a field with its default, its flags and its help."""

import argparse
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_args

from mmengine.config import DictAction

from convnext_dense.bench.timing import DTYPES
from convnext_dense.export.engines import EngineName
from convnext_dense.mm.config.edit import LOGS
from convnext_dense.mm.engine.launch import Launcher

T = TypeVar("T")


def option(*flags: str, default: object = None, **argument: object) -> Any:
    """A field of an options class; ``argument`` goes to :meth:`argparse.ArgumentParser.add_argument`."""
    return field(default=default, metadata=dict(argument, flags=flags))


def one_of(alternatives: Mapping[str, tuple[str, str]], default: str) -> Any:
    """A field with a flag for each of its other values: value -> (flag, help)."""
    return field(default=default, metadata=dict(alternatives=alternatives))


class Entries(DictAction):
    """``KEY=VALUE`` arguments as a mapping; what mmengine cannot split is an error of the command line."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values, *rest) -> None:
        for value in values:
            key, equals, _ = value.partition("=")
            if not equals or not key:
                raise argparse.ArgumentError(
                    self, f"{value!r} is not KEY=VALUE: write optim_wrapper.optimizer.lr=1e-4"
                )
        try:
            super().__call__(parser, namespace, values, *rest)
        except (AssertionError, ValueError, IndexError) as error:  # brackets that are not closed
            raise argparse.ArgumentError(self, f"{' '.join(values)}: {error}") from None


def add_traceback(parser: argparse.ArgumentParser) -> None:
    """Add ``--traceback`` for :func:`convnext_dense.mm.errors.one_line_errors`."""
    parser.add_argument(
        "--traceback",
        action="store_true",
        help="show an error with the calls that led to it, not as one line",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add ``--engine``: what runs an exported file."""
    parser.add_argument(
        "--engine",
        choices=tuple(ENGINE_NAMES),
        default="auto",
        help="what runs MODEL.onnx in place of a checkpoint (default: ONNX Runtime if it is installed)",
    )


ENGINE_NAMES: dict[str, EngineName] = {
    "auto": "auto",
    "onnx": "onnxruntime",  # what users call it
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
}
"""Value of ``--engine`` -> name in the runtime."""


def add_inference(parser: argparse.ArgumentParser) -> None:
    """Add ``--no-fuse``, ``--dtype`` and ``--engine``: how a trained model computes."""
    add_engine(parser)
    parser.add_argument(
        "--no-fuse",
        dest="fuse",
        action="store_false",
        help="do not fold weights: slower, same results",
    )
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        default="fp32",
        help="products in half precision; boxes, NMS and logits stay in fp32 (default: fp32)",
    )


@dataclass(frozen=True)
class Options:
    """Options of all commands that run a config. ``None`` keeps the config's setting."""

    work_dir: str | None = option(
        "--work-dir", metavar="DIR", help="logs and checkpoints (default: work_dirs/<recipe>)"
    )
    data_root: str | None = option(
        "--data-root", metavar="DIR", help="dataset folder instead of the config's"
    )
    classes: str | None = option(
        "--classes", metavar="FILE.json|a,b,c", help="names of your own classes instead of the config's"
    )
    launcher: Launcher = option(  # noqa: RUF009
        "--launcher", default="none", choices=get_args(Launcher), help="how processes are started"
    )
    device: str | None = option(
        "--device", metavar="NAME", help="cpu, cuda, cuda:N or mps (default: the best available)"
    )
    overrides: dict | None = option(  # noqa: RUF009
        "--cfg-options",
        nargs="+",
        action=Entries,
        metavar="KEY=VALUE",
        help="config entries to replace, e.g. optim_wrapper.optimizer.lr=1e-4",
    )
    log: str | None = option(
        "--log", choices=tuple(LOGS), help="also log there (TensorBoard files are always written)"
    )
    compile: bool = option(
        "--compile",
        default=False,
        action="store_true",
        help="torch.compile the backbone, which takes minutes at first",
    )


def add_options(parser: argparse.ArgumentParser, options: type, leave_out: Collection[str] = ()) -> None:
    """Add the options of a class to ``parser``, except those of the fields ``leave_out``."""
    for item in fields(options):
        if item.name in leave_out:
            continue
        argument = dict(item.metadata, dest=item.name, default=item.default)
        if alternatives := argument.pop("alternatives", None):
            group = parser.add_mutually_exclusive_group()
            for value, (flag, text) in alternatives.items():
                group.add_argument(flag, **argument, action="store_const", const=value, help=text)
        else:
            parser.add_argument(*argument.pop("flags"), **argument)
    # torchrun's predecessor passes the local rank as an argument
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def read_options(args: argparse.Namespace, options: type[T]) -> T:
    """Parsed arguments -> an instance of the class; options that were not given have their defaults."""
    return options(**{item.name: getattr(args, item.name, item.default) for item in fields(options)})
