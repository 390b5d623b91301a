"""Parts of mmdet's detectors that differ from the release for other reasons than precision."""

from collections.abc import Sequence

from mmengine.model import ModuleList
from torch import Tensor, nn

from convnext_dense.mm.models.precision import to_float32
from convnext_dense.mm.models.registry import MODELS

try:
    from mmdet.models import DetDataPreprocessor as _DetDataPreprocessor
    from mmdet.models.roi_heads import CascadeRoIHead as _CascadeRoIHead
    from mmdet.registry import MODELS as MMDET
except ModuleNotFoundError as error:
    if error.name != "mmdet":
        raise
    MMDET = None


class ReleasedCascade:
    """Mixin for mmdet's ``CascadeRoIHead`` and its subclasses; parameters and their names do not change.

    - mmdet 3 keeps the mask heads in ``nn.ModuleList``, which mmengine's ``init_weights`` does not enter:
      ``upsample`` and ``conv_logits`` would start from PyTorch's default (std 0.018 and 0.036) and not from
      Kaiming's normal distribution over the fan out (std 0.044 and 0.158).
    - Class scores and mask probabilities, which the stages average at test time, are averaged in float32.
    """

    def init_mask_head(self, *args, **kwargs) -> None:
        super().init_mask_head(*args, **kwargs)
        if isinstance(self.mask_head, nn.ModuleList):  # SCNet has one head for all stages
            self.mask_head = ModuleList(self.mask_head)

    def _bbox_forward(self, *args, **kwargs) -> dict[str, Tensor]:
        """Class scores (K, classes + 1) and box deltas in float32; region features unchanged."""
        return _logits_in_float32(super()._bbox_forward(*args, **kwargs))

    def _mask_forward(self, *args, **kwargs) -> dict[str, Tensor]:
        """Mask logits (K, classes, 28, 28) in float32."""
        return _logits_in_float32(super()._mask_forward(*args, **kwargs))


def _logits_in_float32(found: dict) -> dict:
    """Outputs of a head, with its predictions in float32 and region features unchanged."""
    predictions = ("cls_score", "bbox_pred", "mask_preds")
    return {key: to_float32(value) if key in predictions else value for key, value in found.items()}


if MMDET is not None:

    @MODELS.register_module()
    class DetDataPreprocessor(_DetDataPreprocessor):
        """mmdet's preprocessor, with masks padded as released: to a multiple of 32, not to the batch shape.

        A RoI at the border of its image reads mask pixels half a pixel further out, where the padding of
        the batch put zeros and the edge of the mask repeats: 20 of 313,600 target pixels in a worst case.
        """

        def pad_gt_masks(self, batch_data_samples: Sequence) -> None:
            for sample in batch_data_samples:
                if "masks" in sample.gt_instances:
                    instances = sample.gt_instances
                    instances.masks = instances.masks.pad(sample.pad_shape, pad_val=self.mask_pad_value)

    for _name, _base in MMDET.module_dict.items():
        if isinstance(_base, type) and issubclass(_base, _CascadeRoIHead):
            MODELS.register_module(name=_name, module=type(_name, (ReleasedCascade, _base), {}))
