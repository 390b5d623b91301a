"""Detectors of mmdet without data-dependent shapes: the same detections, filled up to one number.

The forward passes are those of the heads. What follows them is written here for a whole batch: mmdet 3.3
handles one image after the other and drops rows. Boxes are in pixels of the network's input.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convnext_dense.mm.export import fixed_size as fixed
from convnext_dense.mm.export.kinds import as_list
from convnext_dense.mm.export.prepare import Prepare


class Boxes(NamedTuple):
    """Boxes of a batch, the best first, filled up to one number.

    Attributes:
        boxes: (N, n, 4).
        scores: (N, n), ``fixed_size.NOTHING`` for fillers.
        labels: (N, n) int64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def flattened(maps: Tensor, channels: int) -> Tensor:
    """(N, A * channels, H, W) -> (N, H * W * A, channels)."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, channels)


def decode(coder: nn.Module, priors: Tensor, deltas: Tensor, hw: Tensor) -> Tensor:
    """Priors (N, n, 2 or 4) and predictions (N, n, 4) -> boxes (N, n, 4) inside the images, hw (N, 2)."""
    boxes = coder.decode(priors.reshape(-1, priors.shape[-1]), deltas.reshape(-1, deltas.shape[-1]))
    boxes = boxes.view(*deltas.shape[:2], 4)
    return fixed.clipped(boxes, hw) if coder.clip_border else boxes


class DenseHead(nn.Module):
    """A head that predicts at each position of each level: RPN, RetinaNet, FCOS, ATSS.

    Args:
        head: mmdet's head.
        cfg: its ``test_cfg``.
        rpn: whether NMS is per level and thresholds do not apply, as for proposals.
    """

    def __init__(self, head: nn.Module, cfg: dict, rpn: bool) -> None:
        super().__init__()
        self.head, self.rpn = head, rpn
        self.before_nms = int(cfg["nms_pre"])
        self.threshold = fixed.NOTHING if rpn else float(cfg.get("score_thr", 0))
        self.iou_threshold = float(cfg["nms"]["iou_threshold"])
        self.count = int(cfg["max_per_img"])
        self.smallest = float(cfg.get("min_bbox_size", -1))

    def forward(self, levels: Sequence[Tensor], hw: Tensor) -> Boxes:
        """Levels (N, C, H_i, W_i) and image sizes (N, 2) -> the boxes that stay."""
        outputs = [[level.float() for level in part] for part in self.head(tuple(levels))]
        scores, deltas, factors = (*outputs, None)[:3]
        priors = self.head.prior_generator.grid_priors(
            [score.shape[-2:] for score in scores], dtype=scores[0].dtype, device=scores[0].device
        )
        found = []
        for level, prior in enumerate(priors):
            factor = factors[level] if factors is not None else None
            found.append(self._best_of_level(scores[level], deltas[level], factor, prior, hw))
        groups = [
            torch.full_like(labels, level) if self.rpn else labels
            for level, (_, _, labels) in enumerate(found)
        ]
        together = Boxes(*(torch.cat(parts, 1) for parts in zip(*found, strict=True)))
        kept = fixed.suppressed(together.boxes, together.scores, torch.cat(groups, 1), self.iou_threshold)
        kept, places = fixed.best(kept, self.count)
        return Boxes(fixed.take(together.boxes, places), kept, together.labels.gather(1, places))

    def _best_of_level(
        self, scores: Tensor, deltas: Tensor, factor: Tensor | None, priors: Tensor, hw: Tensor
    ) -> Boxes:
        """Scores (N, A * K, H, W), deltas (N, A * 4, H, W), priors (n, 4) -> the ``nms_pre`` best."""
        head = self.head
        scores = flattened(scores, head.cls_out_channels)
        scores = scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[..., :-1]
        classes = scores.shape[2]
        if not self.rpn:
            scores = torch.where(scores > self.threshold, scores, fixed.NOTHING)
        values, places = fixed.best(scores.flatten(1), self.before_nms)
        rows, labels = places // classes, places % classes
        if factor is not None:
            factors = flattened(factor, 1)[..., 0].sigmoid().gather(1, rows)
            values = torch.where(values > fixed.SMALLEST_SCORE, values * factors, fixed.NOTHING)
        chosen = priors[rows.flatten()].view(*rows.shape, -1)
        deltas = fixed.take(flattened(deltas, head.bbox_coder.encode_size), rows)
        boxes = decode(head.bbox_coder, chosen, deltas, hw)
        return Boxes(boxes, fixed.without_small(values, boxes, self.smallest), labels)


class RoIHead(nn.Module):
    """mmdet's ``StandardRoIHead`` or ``CascadeRoIHead``: proposals -> detections and their masks.

    Args:
        head: mmdet's head.
        cfg: ``test_cfg.rcnn``.
    """

    def __init__(self, head: nn.Module, cfg: dict) -> None:
        super().__init__()
        self.head = head
        self.stages = nn.ModuleList(as_list(head.bbox_head))
        self.extractors = as_list(head.bbox_roi_extractor)
        self.mask_stages = as_list(head.mask_head) if head.with_mask else []
        self.threshold = float(cfg["score_thr"])
        self.iou_threshold = float(cfg["nms"]["iou_threshold"])
        self.count = int(cfg["max_per_img"])

    def forward(self, levels: Sequence[Tensor], proposals: Boxes, hw: Tensor) -> Boxes:
        """Levels (N, C, H_i, W_i), proposals (N, P) and image sizes (N, 2) -> ``count`` detections."""
        boxes, there = proposals.boxes, proposals.scores > fixed.SMALLEST_SCORE
        n, count = there.shape
        totals, logits, deltas = 0.0, None, None
        for index, stage in enumerate(self.stages):
            if index:
                boxes = self._refined(self.stages[index - 1], boxes, logits, deltas, hw)
            side = self.extractors[index].roi_layers[0].output_size[0]
            pooled = fixed.pool(self.extractors[index], levels, boxes, side)
            logits, deltas = (part.float().view(n, count, -1) for part in stage(pooled))
            totals = totals + logits
        scores = (totals / float(len(self.stages))).softmax(-1)[..., :-1]
        return self._detections(self.stages[-1], boxes, scores, deltas, there, hw)

    @staticmethod
    def _refined(stage: nn.Module, boxes: Tensor, logits: Tensor, deltas: Tensor, hw: Tensor) -> Tensor:
        """Boxes (N, P, 4) moved by the predictions for their most likely class."""
        if not stage.reg_class_agnostic:
            best = logits[..., :-1].argmax(-1)[..., None, None].expand(-1, -1, 1, 4)
            deltas = deltas.view(*deltas.shape[:2], -1, 4).gather(2, best)[:, :, 0]
        return decode(stage.bbox_coder, boxes, deltas, hw)

    def _detections(
        self, stage: nn.Module, rois: Tensor, scores: Tensor, deltas: Tensor, there: Tensor, hw: Tensor
    ) -> Boxes:
        """Scores (N, P, K) and deltas (N, P, 4 or K * 4) -> the best ``count`` after NMS per class."""
        n, count, classes = scores.shape
        per_class = 1 if stage.reg_class_agnostic else classes
        repeated = rois[:, :, None].expand(-1, -1, per_class, -1).reshape(n, -1, 4)
        boxes = decode(stage.bbox_coder, repeated, deltas.reshape(n, -1, 4), hw)
        boxes = boxes.view(n, count, per_class, 4).expand(-1, -1, classes, -1)
        boxes = boxes.reshape(n, -1, 4)
        scores = torch.where((scores > self.threshold) & there[..., None], scores, fixed.NOTHING)
        labels = torch.arange(classes, device=boxes.device).repeat(count)
        kept = fixed.suppressed(boxes, scores.flatten(1), labels, self.iou_threshold)
        values, places = fixed.best(kept, self.count)
        return Boxes(fixed.take(boxes, places), values, places % classes)

    def masks(self, levels: Sequence[Tensor], found: Boxes) -> Tensor:
        """Levels and detections (N, n) -> probabilities (N, n, side, side) of the detections' classes."""
        n, count = found.scores.shape
        total = None
        for stage, extractor in zip(self.mask_stages, as_list(self.head.mask_roi_extractor), strict=True):
            side = extractor.roi_layers[0].output_size[0]
            maps = stage(fixed.pool(extractor, levels, found.boxes, side)).float().sigmoid()
            if maps.shape[1] > 1:
                label = found.labels.flatten()[:, None, None, None].expand(-1, 1, *maps.shape[2:])
                maps = maps.gather(1, label)
            total = maps if total is None else total + maps
        return (total / len(self.mask_stages)).view(n, count, *total.shape[2:])


class Detector(nn.Module):
    """A whole detector from RGB pixels to detections.

    Where the model is in half precision, boxes, scores and NMS are in float32 all the same.

    Args:
        model: mmdet's ``SingleStageDetector`` or ``TwoStageDetector``.
        prepare: what comes before the network.
    """

    def __init__(self, model: nn.Module, prepare: Prepare) -> None:
        super().__init__()
        self.model, self.prepare = model, prepare
        self.roi_head = None
        if hasattr(model, "roi_head"):
            self.dense = DenseHead(model.rpn_head, model.test_cfg["rpn"], rpn=True)
            self.roi_head = RoIHead(model.roi_head, model.test_cfg["rcnn"])
        else:
            self.dense = DenseHead(model.bbox_head, model.test_cfg, rpn=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        masks = self.roi_head is not None and self.roi_head.head.with_mask
        return ("boxes", "scores", "labels", "count", *(["masks"] if masks else []))

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """Detect in a batch.

        Args:
            images: (N, 3, H, W) RGB from 0 to 255.
            sizes: (N, 2) height and width of each image, where ``images`` is filled up to one size.

        Returns:
            boxes (N, n, 4), scores (N, n), labels (N, n), -1 for fillers, count (N,), and masks
            (N, n, side, side) where the model has them; fillers are zeros.
        """
        x = self.prepare(images, sizes)
        if sizes is None:
            sizes = torch.stack([torch.scalar_tensor(side, dtype=torch.int64) for side in images.shape[2:]])
            sizes = sizes.to(images.device).expand(images.shape[0], 2)
        levels = self.model.extract_feat(x.to(next(self.model.parameters()).dtype))
        found = self.dense(levels, sizes)
        if self.roi_head is not None:
            found = self.roi_head(levels, found, sizes)
        there = found.scores > fixed.SMALLEST_SCORE
        results = (
            torch.where(there[..., None], found.boxes, 0),
            torch.where(there, found.scores, 0),
            torch.where(there, found.labels, -1),
            there.sum(1),
        )
        if "masks" in self.outputs:
            masks = self.roi_head.masks(levels, found)
            results += (torch.where(there[..., None, None], masks, 0),)
        return results
