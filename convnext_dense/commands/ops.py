"""Compile mmcv's operators against the torch of this environment, and install them.

The official mmcv-lite is replaced by mmcv, the fork's onedl-mmcv by the same version with operators. That
takes ten minutes on two cores and needs a C++ compiler (with a GPU, also nvcc). The wheel is kept in
$CONVNEXT_DENSE_CACHE, by default ~/.cache/convnext_dense: another environment with the same torch takes
seconds. Until a wheel is ready nothing is replaced, and an interrupted compilation goes on where it stopped.

Environment: MAX_JOBS (compilers at once, by default one per core), FORCE_CUDA=1 (compile for CUDA where no
GPU is visible), TORCH_CUDA_ARCH_LIST (by default the visible GPUs).
"""

import argparse
from collections.abc import Sequence

from convnext_dense.errors import InstallationError
from convnext_dense.installation.exchange import check_installed, exchange, restore_command
from convnext_dense.installation.plan import source_to_compile
from convnext_dense.installation.wheel import cache_folder, compiled_wheel
from convnext_dense.toolboxes import read_toolboxes


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="compile from the start, even if there is a wheel or a working mmcv",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="compilers at once (default: MAX_JOBS, or all cores)"
    )
    args = parser.parse_args(argv)
    if args.jobs is not None and args.jobs < 1:
        parser.error("--jobs: at least 1")
    try:
        run(args.force, args.jobs)
    except InstallationError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted; the next call goes on from here") from None


def run(force: bool, jobs: int | None) -> None:
    """Compile and exchange, unless the installed operators run.

    Raises:
        InstallationError: see :mod:`convnext_dense.installation`.
    """
    boxes = read_toolboxes()
    mmcv, source = boxes["mmcv"], source_to_compile(boxes)
    if not force and mmcv.compiled and check_installed() is None:
        print(f"{mmcv}: they run, nothing to do (--force compiles again)")
        return
    wheel = compiled_wheel(source, jobs, force)
    old = [owner.name for owner in mmcv.owners]
    backups = exchange(old, wheel, cache_folder(source) / "replaced")
    print(f"{source} with compiled operators: mmcv._ext loads, RoIAlign and NMS run")
    if backups:
        print(f"back to {', '.join(map(str, mmcv.owners))}: {restore_command(wheel, backups)}")
