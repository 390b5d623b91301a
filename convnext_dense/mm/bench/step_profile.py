"""Time of each part of a detector's training step and of its evaluation."""

import time
from collections import defaultdict
from collections.abc import Callable

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from torch import nn

from convnext_dense.errors import UserError
from convnext_dense.mm.bench.models import build_model, detect
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.datasets.paths import check_data, datasets_of, set_data_root
from convnext_dense.mm.models.folded_norms import fold_model


def profile(row: str, data_root: str | None, evaluation: bool, images: int) -> dict[str, float]:
    """CPU seconds of each part over ``images`` images after one for warm-up, with random weights.

    Args:
        row: recipe of a two-stage detector.
        data_root: dataset folder instead of the config's.
        evaluation: fused predictions with the fixed load of :func:`convnext_dense.mm.bench.models.detect`,
            not training steps.
        images: at least 1.

    Raises:
        UserError: not a two-stage detector, or fewer than one image.
        DatasetNotFoundError: files of the dataset are missing.
    """
    if images < 1:
        raise UserError(f"--steps {images}: at least 1")
    cfg = load_config(row)
    if data_root:
        set_data_root(cfg, data_root)
    split = "test" if evaluation else "train"
    check_data(cfg, (split,))
    clock, model = Clock(), build_model(row)
    if not getattr(model, "with_roi_head", False):
        raise UserError(f"{row} is not a two-stage detector")
    data = DATASETS.build(datasets_of(cfg, (split,))[0])
    fold_model(model.eval()) if evaluation else model.train()
    run = _evaluate if evaluation else _train
    run(Clock(), model, [pseudo_collate([data[0]])])  # the warm-up
    watch_model(clock, model)
    load = clock.timed("loading and augmenting (in the workers)", data.__getitem__)
    run(clock, model, [pseudo_collate([load(i % len(data))]) for i in range(1, images + 1)])
    return dict(clock.seconds)


class Clock:
    """CPU seconds of each part without the parts inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    def timed(self, part: str, function: Callable) -> Callable:
        """Wrap ``function`` so that its time is added to ``part``."""

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
        """Time a method of an object, if it has this method."""
        if hasattr(owner, method):
            setattr(owner, method, self.timed(part, getattr(owner, method)))


def watch_model(clock: Clock, model: nn.Module) -> None:
    """Time the parts of a two-stage detector."""
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
        for extractor in _modules(getattr(roi, f"{kind}_roi_extractor")):
            clock.watch(extractor, "forward", "RoIAlign")
        for head in _modules(getattr(roi, f"{kind}_head")):
            clock.watch(head, "forward", f"{'box' if kind == 'bbox' else kind} heads")
            clock.watch(head, "loss_and_target", f"{'box' if kind == 'bbox' else kind} targets and losses")
            clock.watch(head, "predict_by_feat", "mask paste" if kind == "mask" else "detections with NMS")


def _modules(part: nn.Module) -> list[nn.Module]:
    """One head, or those of a cascade."""
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def _train(clock: Clock, model: nn.Module, batches: list[dict]) -> None:
    """Training steps, batch by batch."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        losses = clock.timed("rest of the forward pass", lambda b: model(**b, mode="loss"))(
            model.data_preprocessor(batch, True)
        )
        clock.timed("backward", model.parse_losses(losses)[0].backward)()
        clock.timed("AdamW", optimizer.step)()


@torch.no_grad()
def _evaluate(clock: Clock, model: nn.Module, batches: list[dict]) -> None:
    """Predictions with the fixed load, batch by batch."""
    for batch in batches:
        inputs = model.data_preprocessor(batch, False)["inputs"]
        clock.timed("rest", detect)(model, inputs)
