"""Test-time augmentation: scales and a horizontal flip, for segmentation and for detection with masks.

Augmented samples come from mmcv's ``TestTimeAug``: the config's ``tta_pipeline``, or one built from the test
pipeline. :func:`convnext_dense.mm.config.tta.set_tta` wraps the models below around the trained one.
"""

from collections.abc import Iterator

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseTTAModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from convnext_dense.errors import UserError
from convnext_dense.mm.models.precision import to_float32
from convnext_dense.mm.models.sliding_window import BoundedPredict
from convnext_dense.support.system import free_memory


class _OneByOne(BaseTTAModel):
    """Runs the augmentations one after another instead of merging a list of finished predictions."""

    def views(self, data: dict) -> Iterator[tuple[Tensor, list]]:
        """Preprocessed images (N, 3, H, W) and their samples, one augmentation after another."""
        for i in range(len(data["inputs"])):
            view = self.module.data_preprocessor({key: value[i] for key, value in data.items()}, False)
            yield view["inputs"], view["data_samples"]

    def merge_preds(self, data_samples_list: list) -> list:
        raise NotImplementedError("predictions are merged in test_step, as they come")


@MODELS.register_module()
class SegmentationTTA(_OneByOne):
    """Mean class probabilities over the augmentations at the original size, from one running sum.

    As mmseg 0.x published it and as mmseg 1.x's ``SegTTAModel`` computes it from a list of all logits.

    Args:
        mode: ``whole`` as published, or ``slide``; replaces the segmentor's own mode.
        module: the segmentor.
    """

    def __init__(self, mode: str = "whole", **kwargs) -> None:
        super().__init__(**kwargs)
        self.module.test_cfg = ConfigDict(self.module.test_cfg, mode=mode)

    def test_step(self, data: dict) -> list:
        """Collated augmentations -> one sample per image, with ``pred_sem_seg``."""
        own = self.module.predict
        predict = own if isinstance(own, BoundedPredict) else BoundedPredict(self.module)
        samples: list = []
        sums: list[Tensor] = []
        for inputs, view in self.views(data):
            metas = [sample.metainfo for sample in view]
            if not samples:
                samples = view
                sums = [_zeros(inputs, self.module.out_channels, meta["ori_shape"][:2]) for meta in metas]
            for i, rows, logits in predict.original_rows(inputs, metas):
                probabilities = logits.softmax(0) if len(logits) > 1 else logits.sigmoid()
                sums[i][:, rows] += probabilities.to(sums[i])
        for sample, total in zip(samples, sums, strict=True):
            label = self._labels(total.div_(len(data["inputs"])))
            sample.set_data({"pred_sem_seg": PixelData(data=label.to(inputs.device))})
        return samples

    def _labels(self, probabilities: Tensor) -> Tensor:
        """(C, H, W) -> (1, H, W) as in mmseg: one channel is a binary map with the head's threshold."""
        if len(probabilities) > 1:
            return probabilities.argmax(0, keepdim=True)
        return (probabilities > self.module.decode_head.threshold).long()


def _zeros(like: Tensor, channels: int, shape: tuple[int, int]) -> Tensor:
    """Zeros (channels, \\*shape) on the device of ``like``; on the CPU if they take half its free memory."""
    size = 4 * channels * shape[0] * shape[1]
    device = like.device if size < free_memory(like.device) // 2 else torch.device("cpu")
    return torch.zeros(channels, *shape, device=device)


@MODELS.register_module()
class DetectionTTA(_OneByOne):
    """One NMS over the boxes of all augmentations; masks are averaged on the boxes that it keeps.

    Every augmentation contributes its boxes, mapped back to the original image, with the scores of all
    classes; the model's own score threshold, NMS and limit select among them. Each augmentation then predicts
    masks for the selected boxes. Their probabilities are flipped back and averaged before they are pasted.

    Args:
        module: a two-stage detector with the heads of Mask R-CNN or Cascade (Mask) R-CNN.

    Raises:
        UserError: heads that predict in another way.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        head = getattr(self.module, "roi_head", None)
        kind = MODELS.get(f"mmdet.{type(head).__name__}")
        # subclasses predict in their own ways; ours of the same name does not
        if type(head).__name__ not in ("StandardRoIHead", "CascadeRoIHead") or not isinstance(head, kind):
            raise UserError(f"--tta merges StandardRoIHead and CascadeRoIHead, not {type(head).__name__}")
        self.cascade = type(head).__name__ == "CascadeRoIHead"

    def test_step(self, data: dict) -> list:
        """Collated augmentations -> one sample per image, with ``pred_instances`` at the original size."""
        samples: list = []
        features: list[tuple[Tensor, ...]] = []  # per augmentation; the masks need them again
        metas: list[list[dict]] = []  # [augmentation][image]
        boxes: list[list[InstanceData]] = []
        for inputs, view in self.views(data):
            samples = samples or view
            features.append(self.module.extract_feat(inputs))
            metas.append([sample.metainfo for sample in view])
            proposals = self.module.rpn_head.predict(features[-1], view, rescale=False)
            # without a test_cfg the head returns all boxes and scores, before its NMS
            boxes.append(self.module.roi_head.predict_bbox(features[-1], metas[-1], proposals, None))
        for i, sample in enumerate(samples):
            views = [image_metas[i] for image_metas in metas]
            found = self._merge_boxes([results[i] for results in boxes], views)
            if self.module.roi_head.with_mask:
                levels = [tuple(level[i : i + 1] for level in pyramid) for pyramid in features]
                self._add_masks(found, levels, views)
            sample.pred_instances = found
        return samples

    def _merge_boxes(self, results: list[InstanceData], metas: list[dict]) -> InstanceData:
        """Raw boxes (n, 4 or 4 * classes) and scores (n, classes + 1) of each augmentation -> detections."""
        from mmdet.models.layers import multiclass_nms
        from mmdet.structures.bbox import bbox_mapping_back

        cfg = self.module.roi_head.test_cfg
        pairs = list(zip(results, metas, strict=True))
        pairs = [pair for pair in pairs if len(pair[0].bboxes)] or pairs[:1]  # empty ones have 4 columns
        boxes = torch.cat([bbox_mapping_back(found.bboxes, *_view(meta)) for found, meta in pairs])
        scores = torch.cat([found.scores for found, _ in pairs])
        kept, labels = multiclass_nms(boxes, scores, cfg.score_thr, cfg.nms, cfg.max_per_img)
        return InstanceData(bboxes=kept[:, :4], scores=kept[:, 4], labels=labels)

    def _add_masks(self, found: InstanceData, features: list[tuple[Tensor, ...]], metas: list[dict]) -> None:
        """Add masks (n, H, W) to the detections ``found`` of one image at its original size."""
        from mmdet.structures.bbox import bbox2roi, bbox_mapping

        head: nn.Module = self.module.roi_head
        mask_head = head.mask_head[-1] if self.cascade else head.mask_head
        mean = 0.0
        if len(found):
            for x, meta in zip(features, metas, strict=True):
                rois = bbox2roi([bbox_mapping(found.bboxes, *_view(meta))])
                mean = mean + _turned(self._mask_probabilities(x, rois), meta) / len(metas)
        # the boxes are already in the original image
        meta = dict(metas[0], scale_factor=(1.0, 1.0))
        mask_head.predict_by_feat([mean], [found], [meta], head.test_cfg, rescale=True, activate_map=True)

    def _mask_probabilities(self, features: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """(n, classes, 28, 28) for RoIs (n, 5); Cascade averages its stages."""
        head = self.module.roi_head
        stages = [(i, features) for i in range(head.num_stages)] if self.cascade else [(features,)]
        logits = [head._mask_forward(*stage, rois)["mask_preds"] for stage in stages]
        return torch.stack([to_float32(each).sigmoid() for each in logits]).mean(0)


def _view(meta: dict) -> tuple:
    """Shape, scale, flip and direction: what maps boxes between an augmented image and the original."""
    scale = (*meta["scale_factor"], *meta["scale_factor"])  # (w, h) -> for x1, y1, x2, y2
    return meta["img_shape"], scale, meta.get("flip", False), meta.get("flip_direction") or "horizontal"


def _turned(masks: Tensor, meta: dict) -> Tensor:
    """Flip masks (n, C, h, w) of flipped boxes back to the original image."""
    if not meta.get("flip"):
        return masks
    return masks.flip({"horizontal": (3,), "vertical": (2,), "diagonal": (2, 3)}[meta["flip_direction"]])
