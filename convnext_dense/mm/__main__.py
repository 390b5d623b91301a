"""Run a script of mmdet or mmseg with this package registered: ``python -m convnext_dense.mm SCRIPT ...``.

Scripts that import mmdet first need this where mmcv has no compiled operators (mmcv-lite), and those that
read checkpoints with plain ``torch.load`` need it for mmengine's log buffers.
"""

import runpy
import sys
from pathlib import Path

from torch.serialization import add_safe_globals

import convnext_dense.mm  # noqa: F401  registers
from convnext_dense.mm.engine.checkpoints import ALLOWED

USAGE = "usage: python -m convnext_dense.mm SCRIPT.py ARGUMENT ...   (a script of mmdet or mmseg)"


def main() -> None:
    """Run ``sys.argv[1]`` as the main program.

    Raises:
        SystemExit: status 2 without a script.
    """
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        print(USAGE, file=sys.stderr)
        raise SystemExit(2)
    add_safe_globals(ALLOWED)
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))  # as Python does for a script
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
