"""Where the time of a detector's training step and of its evaluation goes, part by part.

    OMP_NUM_THREADS=1 python tools/profile_step.py mask_rcnn/convnext_t_3x --data-root data/coco --steps 2
    OMP_NUM_THREADS=1 python tools/profile_step.py cascade/convnext_t_3x --evaluate --data-root data/coco

CPU seconds an image, of each part without the parts inside it, on random weights. These find nothing, so the
evaluation has the fixed load of `tools/benchmark.py speed`: 1000 RoIs, and 100 masks pasted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from torch import nn

from convnext_dense.fuse import fuse
from convnext_dense.mm.data import datasets_of, set_data_root
from convnext_dense.mm.errors import UserError, one_line_errors
from convnext_dense.mm.runtime import load_config
from convnext_dense.mm.speed import build_model, detect


class Clock:
    """CPU seconds of each part without the parts inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    def timed(self, part: str, function: Callable) -> Callable:
        """``function``, its time booked to ``part``."""

        def run(*args, **kwargs):
            self._inside.append(0.0)
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.process_time() - start
                self.seconds[part] += taken - self._inside.pop()
                if self._inside:
                    self._inside[-1] += taken

        return run

    def watch(self, owner: object, method: str, part: str) -> None:
        """Book a method of an object, where it has one."""
        if hasattr(owner, method):
            setattr(owner, method, self.timed(part, getattr(owner, method)))


def watch_model(clock: Clock, model: nn.Module) -> None:
    """Book the parts of a two-stage detector."""
    clock.watch(model.data_preprocessor, "forward", "normalising and padding")
    clock.watch(model.backbone, "forward", "backbone")
    clock.watch(model.neck, "forward", "FPN")
    rpn, roi = model.rpn_head, model.roi_head
    clock.watch(rpn, "forward", "RPN convolutions")
    clock.watch(rpn, "predict_by_feat", "RPN proposals with NMS")
    clock.watch(rpn, "loss_by_feat", "RPN targets and losses")
    for assigner in [rpn.assigner] if hasattr(rpn, "assigner") else []:
        clock.watch(assigner, "assign", "assignment")
    assigners = getattr(roi, "bbox_assigner", [])
    for assigner in assigners if isinstance(assigners, list) else [assigners]:
        clock.watch(assigner, "assign", "assignment")
    for kind in ("bbox", "mask"):
        for extractor in modules(getattr(roi, f"{kind}_roi_extractor")):
            clock.watch(extractor, "forward", "RoIAlign")
        for head in modules(getattr(roi, f"{kind}_head")):
            clock.watch(head, "forward", f"{'box' if kind == 'bbox' else kind} heads")
            clock.watch(head, "loss_and_target", f"{'box' if kind == 'bbox' else kind} targets and losses")
            clock.watch(head, "predict_by_feat", "mask paste" if kind == "mask" else "detections with NMS")


def modules(part: nn.Module) -> list[nn.Module]:
    """One head, or those of a cascade."""
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def train(clock: Clock, model: nn.Module, batches: list[dict]) -> None:
    """Steps as in training, batch by batch; the first one only warms up."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        losses = clock.timed("rest of the forward pass", lambda b: model(**b, mode="loss"))(
            model.data_preprocessor(batch, True)
        )
        clock.timed("backward", model.parse_losses(losses)[0].backward)()
        clock.timed("AdamW", optimizer.step)()


@torch.no_grad()
def evaluate(clock: Clock, model: nn.Module, batches: list[dict]) -> None:
    """Predictions with the fixed load, batch by batch."""
    for batch in batches:
        inputs = model.data_preprocessor(batch, False)["inputs"]
        clock.timed("rest", detect)(model, inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", help="recipe of a two-stage detector")
    parser.add_argument("--data-root", metavar="DIR", help="dataset folder instead of the config's")
    parser.add_argument("--evaluate", action="store_true", help="evaluation instead of training")
    parser.add_argument("--steps", type=int, default=2, help="images, behind one to warm up (default: 2)")
    args = parser.parse_args()
    with one_line_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    cfg = load_config(args.row)
    if args.data_root:
        set_data_root(cfg, args.data_root)
    clock = Clock()
    model = build_model(args.row)
    if not getattr(model, "with_roi_head", False):
        raise UserError(f"{args.row} is no two-stage detector")
    data = DATASETS.build(datasets_of(cfg, ("test" if args.evaluate else "train",))[0])
    fuse(model.eval()) if args.evaluate else model.train()
    step = evaluate if args.evaluate else train
    step(Clock(), model, [pseudo_collate([data[0]])])  # the warm-up
    watch_model(clock, model)
    load = clock.timed("loading and augmenting (in the workers)", data.__getitem__)
    step(clock, model, [pseudo_collate([load(i % len(data))]) for i in range(1, args.steps + 1)])
    report(clock, args)


def report(clock: Clock, args: argparse.Namespace) -> None:
    total = sum(clock.seconds.values())
    kind = "evaluation" if args.evaluate else "training step"
    threads = torch.get_num_threads()
    print(f"{args.row}, {kind}, CPU seconds an image, {args.steps} images, {threads} thread(s), float32")
    for part, seconds in sorted(clock.seconds.items(), key=lambda entry: -entry[1]):
        print(f"{part:<40} {seconds / args.steps:8.3f} s {seconds / total:6.1%}")
    print(f"{'all':<40} {total / args.steps:8.3f} s")


if __name__ == "__main__":
    main()
