"""Time RoIAlign and NMS: ours, and compiled mmcv where it is installed.

    python tools/dev/bench_ops.py [--repeats 7] [--threads 2]

Prints medians of interleaved runs, so that a busy machine slows both sides alike.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from convnext_dense import ops

Run = Callable[[], Tensor]


def boxes_in(width: float, height: float, count: int, low: float, high: float) -> Tensor:
    """(count, 4) boxes of ``low`` to ``high`` pixels per side, inside an image of that size."""
    extent = low + (high - low) * torch.rand(count, 2)
    start = torch.rand(count, 2) * (torch.tensor([width, height]) - extent)
    return torch.cat([start, start + extent], 1)


def roi_align_cases(ext: ModuleType | None) -> dict[str, tuple[Run, Run | None]]:
    features, gradient = torch.randn(1, 256, 200, 320), torch.randn(1000, 256, 7, 7)
    rois = torch.cat([torch.zeros(1000, 1), boxes_in(1280, 800, 1000, 12, 112)], 1)
    masks = (torch.randn(64, 1, 800, 1280) > 0).float()
    mask_rois = torch.cat([torch.arange(64.0)[:, None], boxes_in(1280, 800, 64, 30, 600)], 1)

    def mmcv_forward(x: Tensor, rois: Tensor, bins: int, scale: float) -> Tensor:
        output, unused = x.new_zeros(len(rois), x.shape[1], bins, bins), x.new_zeros(0)
        ext.roi_align_forward(x, rois, output, unused, unused, **arguments(bins, scale))
        return output

    def mmcv_backward() -> Tensor:
        output, unused = torch.zeros_like(features), features.new_zeros(0)
        ext.roi_align_backward(gradient, rois, unused, unused, output, **arguments(7, 0.25))
        return output

    def arguments(bins: int, scale: float) -> dict[str, object]:
        return {
            "aligned_height": bins,
            "aligned_width": bins,
            "spatial_scale": scale,
            "sampling_ratio": 0,
            "pool_mode": 1,
            "aligned": True,
        }

    cases = {
        "RoIAlign forward, 1000 boxes of 12-112 px, 200x320x256": (
            lambda: ops.roi_align(features, rois, 7, 0.25),
            lambda: mmcv_forward(features, rois, 7, 0.25),
        ),
        "RoIAlign backward, the same": (
            lambda: ops.roi_align_backward(gradient, rois, features.shape, 7, 0.25),
            mmcv_backward,
        ),
        "mask targets, 64 masks of 800x1280 to 28x28": (
            lambda: ops.roi_align(masks, mask_rois, 28),
            lambda: mmcv_forward(masks, mask_rois, 28, 1.0),
        ),
    }
    return cases if ext else {name: (ours, None) for name, (ours, _) in cases.items()}


def nms_cases(ext: ModuleType | None) -> dict[str, tuple[Run, Run | None]]:
    boxes, scores = boxes_in(1280, 800, 2000, 12, 212), torch.rand(2000)

    def mmcv_soft() -> Tensor:
        rows = torch.empty(2000, 5)
        options = {"iou_threshold": 0.3, "sigma": 0.5, "min_score": 1e-3, "method": 1, "offset": 0}
        return rows[: len(ext.softnms(boxes, scores, rows, **options))]

    cases = {
        "NMS, 2000 boxes, IoU 0.7": (
            lambda: ops.nms(boxes, scores, 0.7),
            lambda: ext.nms(boxes, scores, iou_threshold=0.7, offset=0),
        ),
        "soft-NMS, 2000 boxes, linear": (lambda: ops.soft_nms(boxes, scores)[0], mmcv_soft),
    }
    return cases if ext else {name: (ours, None) for name, (ours, _) in cases.items()}


def seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compiled_ext() -> ModuleType | None:
    from convnext_dense.mm.mmcv_ext import install_ops

    return sys.modules["mmcv._ext"] if install_ops() == "mmcv" else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    ext = compiled_ext() if importlib.util.find_spec("mmcv") else None
    remark = "" if ext else "; no compiled mmcv to compare with: convnext-dense ops"
    print(
        f"torch {torch.__version__}, {args.threads} CPU threads, float32, ours: {ops.op_backend('cpu')}; "
        f"medians of {args.repeats}{remark}"
    )
    print(f"{'':56}{'ours':>9}{'mmcv':>9}{'ours/mmcv':>11}{'largest difference':>20}")
    for name, runs in (roi_align_cases(ext) | nms_cases(ext)).items():
        outputs = [run() for run in runs if run]  # also the warm-up
        times = [[seconds(run) for run in runs if run] for _ in range(args.repeats)]
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        line = f"{name:56}" + "".join(f"{t * 1e3:6.0f} ms" for t in medians)
        if ext:
            line += f"{medians[0] / medians[1]:11.2f}{(outputs[0] - outputs[1]).abs().max():20.1e}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
