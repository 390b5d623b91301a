"""Arguments that the command lines share."""

import argparse
from typing import get_args

from mmengine.config import DictAction

from convnext_dense.mm.engine.launch import Launcher
from convnext_dense.mm.engine.runner import Options


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Config and the options of :class:`convnext_dense.mm.engine.runner.Options`."""
    parser.add_argument("config", help="path of a config, or a recipe's name such as cascade/convnext_b_3x")
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of :class:`convnext_dense.mm.engine.runner.Options` alone."""
    parser.add_argument(
        "--work-dir", metavar="DIR", help="logs and checkpoints (default: work_dirs/<recipe>)"
    )
    parser.add_argument("--data-root", metavar="DIR", help="dataset folder instead of the config's")
    parser.add_argument(
        "--classes", metavar="FILE.json|a,b,c", help="names of one's own classes instead of the config's"
    )
    parser.add_argument(
        "--launcher", choices=get_args(Launcher), default="none", help="how processes are started"
    )
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:N or mps (default: the best there is)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="config entries to replace, e.g. train_cfg.max_epochs=12",
    )
    # torchrun's predecessor passes the local rank as an argument
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def add_compile_argument(parser: argparse.ArgumentParser) -> None:
    """``--compile``, which training and testing share."""
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile the backbone, which takes minutes at first"
    )


def common_options(args: argparse.Namespace) -> Options:
    """Parsed arguments -> :class:`Options`."""
    return Options(
        work_dir=args.work_dir,
        data_root=args.data_root,
        classes=args.classes,
        launcher=args.launcher,
        device=args.device,
        overrides=args.cfg_options,
        log=getattr(args, "log", None),
        compile=getattr(args, "compile", False),
    )
