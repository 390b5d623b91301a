"""UperNet's head with two thirds of its multiply-adds, and the same parameters and outputs."""

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import UPerHead as _UPerHead
from mmseg.models.utils import resize
from torch import Tensor, nn

from convnext_dense.layers.resized_conv import ConvOverResized, concatenated
from convnext_dense.mm.models.float32 import METHODS, float32_subclass
from convnext_dense.mm.models.registry import MODELS


@MODELS.register_module(force=True)  # in place of the subclass that ``float32`` made
class UPerHead(float32_subclass(_UPerHead, METHODS["mmseg.models.decode_heads"])):
    """mmseg's ``UPerHead``, whose two bottlenecks convolve each map at its own resolution.

    Parameters, their names and initial values, and the outputs are mmseg's.

    Args:
        resize_first: resize and concatenate the maps before the bottlenecks, as mmseg does.
        kwargs: arguments of mmseg's ``UPerHead``.
    """

    def __init__(self, resize_first: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        for block in (self.bottleneck, self.fpn_bottleneck):
            if type(block.conv) is nn.Conv2d and not block.with_explicit_padding:
                block.conv = ConvOverResized.around(block.conv, self.align_corners, resize_first)

    def psp_forward(self, inputs: list[Tensor]) -> Tensor:
        """Backbone levels -> pyramid pooling of the last: (N, C, H, W) -> (N, channels, H, W)."""
        last = inputs[-1]
        return self._over_resized(self.bottleneck, [last, *(pool(last) for pool in self.psp_modules)])

    def _forward_feature(self, inputs: list[Tensor]) -> Tensor:
        """Backbone levels (N, C_i, H_i, W_i) -> (N, channels, H_0, W_0)."""
        inputs = self._transform_inputs(inputs)
        levels = [lateral(x) for lateral, x in zip(self.lateral_convs, inputs[:-1], strict=True)]
        levels.append(self.psp_forward(inputs))
        for finer in range(len(levels) - 2, -1, -1):  # top-down
            above, hw = levels[finer + 1], levels[finer].shape[2:]
            levels[finer] = levels[finer] + resize(
                above, hw, mode="bilinear", align_corners=self.align_corners
            )
        smoothed = [smooth(x) for smooth, x in zip(self.fpn_convs, levels[:-1], strict=True)]
        return self._over_resized(self.fpn_bottleneck, [*smoothed, levels[-1]])

    def _over_resized(self, block: ConvModule, maps: list[Tensor]) -> Tensor:
        if isinstance(block.conv, ConvOverResized):
            return block(maps)
        return block(concatenated(maps, self.align_corners))  # a deformable or another special convolution
