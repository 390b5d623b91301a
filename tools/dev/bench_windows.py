"""Time a segmentor's sliding windows up to the label maps: ours in batches against mmseg's loop.

    python tools/dev/bench_windows.py [--size 1024 2048] [--classes 150] [--repeats 5] [--window-batch N]

UperNet of the demo with random weights, windows of 512 with a stride of 341 as published. Prints medians of
interleaved runs, so that a busy machine slows both sides alike, and the largest tensor that each side makes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.models.sliding_window import BoundedPredict


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation returns."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                self.found = max(self.found, tensor.numel() * tensor.element_size())
        return result


def build(classes: int) -> nn.Module:
    cfg = load_config("demo/upernet_shapes")
    init_default_scope(cfg.default_scope)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.num_classes = classes
    cfg.model.test_cfg = ConfigDict(mode="slide", crop_size=(512, 512), stride=(341, 341))
    torch.manual_seed(0)
    MMLogger.get_instance("bench", log_level="WARNING")  # mmengine logs every parameter that it initialises
    model = MODELS.build(cfg.model).eval()
    model.init_weights()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--window-batch", type=int, help="default: by free memory")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    model = build(args.classes).to(args.device)
    from mmseg.structures import SegDataSample

    image = torch.randn(1, 3, *args.size, device=args.device)
    meta = dict.fromkeys(("ori_shape", "img_shape", "pad_shape"), tuple(args.size))
    sides = {"mmseg": type(model).predict.__get__(model), "ours": BoundedPredict(model, args.window_batch)}

    @torch.no_grad()
    def labels(side: str) -> Tensor:
        (sample,) = sides[side](image, [SegDataSample(metainfo=meta)])
        return sample.pred_sem_seg.data.cpu()  # waits for the device

    maps, largest = {}, {}
    for side in sides:  # the warm-up
        with LargestTensor() as mode:
            maps[side] = labels(side)
        largest[side] = mode.found / 2**20
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(args.repeats):
        for side in sides:
            start = time.perf_counter()
            labels(side)
            seconds[side].append(time.perf_counter() - start)
    medians = {side: statistics.median(runs) for side, runs in seconds.items()}
    where = f"{args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32"
    print(f"{args.size[0]}x{args.size[1]}, {args.classes} classes, {where}")
    for side in sides:
        print(f"{side:<6} {medians[side]:8.3f} s   largest tensor {largest[side]:7.0f} MiB")
    different = (maps["mmseg"] != maps["ours"]).float().mean()
    print(f"ratio  {medians['mmseg'] / medians['ours']:8.2f}     labels that differ: {different:.1e}")


if __name__ == "__main__":
    main()
