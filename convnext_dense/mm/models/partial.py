"""ConvNeXt in two parts, for C4 detectors, and with a second input, for the recursive feature pyramid.

Parameter names are those of the whole ConvNeXt, so that its weights load.
"""

from collections.abc import Mapping, Sequence

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from convnext_dense.checkpoints.load import LoadReport, load_checkpoint
from convnext_dense.errors import ArgumentError, CheckpointError
from convnext_dense.layers.lean_block import Memory
from convnext_dense.mm.models.backbones import ConvNeXt, ExactInit
from convnext_dense.models import convnext
from convnext_dense.models.layer_decay import default_num_layers, layer_id

TRUNK = 3  # stages of a C4 backbone: the third has stride 16
FEEDBACK = "feedback."


def load_part(model: nn.Module, source: str, **choice) -> LoadReport:
    """Load from the weights of a whole ConvNeXt all that ``model`` has of it.

    Raises:
        CheckpointError: other than output norms and feedback layers, a tensor is missing or misshapen.
    """
    report = load_checkpoint(model, source, strict=False, **choice)
    missing = [name for name in report.fresh if not name.startswith(("norm", FEEDBACK))]
    if missing:
        raise CheckpointError(
            f"{source} does not fit: {len(missing)} tensors not loaded, first {missing[:3]}"
        )
    return report


@MODELS.register_module()
class ConvNeXtTrunk(ConvNeXt):
    """The first three stages: the backbone of a C4 detector, with one level of stride 16.

    :class:`ConvNeXtLastStage` runs on the regions that are cut from it.

    Args:
        **kwargs: arguments of :class:`~convnext_dense.mm.models.backbones.ConvNeXt` for the whole network,
            without ``out_indices``; ``drop_path_rate`` is that of the last block of the fourth stage.

    Raises:
        ArgumentError: ``out_indices`` or ``frozen_stages`` name the fourth stage.
    """

    load = staticmethod(load_part)

    def __init__(self, **kwargs) -> None:
        if kwargs.setdefault("out_indices", (TRUNK - 1,)) not in ((TRUNK - 1,), [TRUNK - 1]):
            raise ArgumentError(
                f"out_indices={kwargs['out_indices']}; the trunk returns its last stage, (2,)"
            )
        if kwargs.get("frozen_stages", -1) > TRUNK:
            raise ArgumentError(f"frozen_stages={kwargs['frozen_stages']}; the trunk has {TRUNK} stages")
        super().__init__(**kwargs)
        del self.stages[TRUNK:], self.downsample_layers[TRUNK:]

    def get_layer_depth(self, name: str, prefix: str = "") -> tuple[int, int]:
        """Group of a parameter in layer decay, and their number, as in the whole network."""
        groups = default_num_layers(self.depths) + 2
        return layer_id(name.removeprefix(prefix), self.depths), groups


class _LastStage(nn.Module):
    """See :class:`ConvNeXtLastStage`."""

    def __init__(
        self,
        arch: str | Mapping = "tiny",
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
        use_grn: bool = False,
        memory: Memory = "lean",
    ) -> None:
        super().__init__()
        whole = convnext.ConvNeXt(
            arch,
            out_indices=(TRUNK,),
            drop_path_rate=drop_path_rate,
            layer_scale_init_value=layer_scale_init_value,
            use_grn=use_grn,
            memory=memory,
        )
        last = str(TRUNK)
        self.downsample_layers = nn.ModuleDict({last: whole.downsample_layers[TRUNK]})
        self.stages = nn.ModuleDict({last: whole.stages[TRUNK]})
        self.norm3 = whole.norm3

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, h, w) -> (R, 2 C, h // 2, w // 2)."""
        for layers in (*self.downsample_layers.values(), *self.stages.values()):
            x = layers(x)
        return self.norm3(x).contiguous()


@MODELS.register_module()
class ConvNeXtLastStage(ExactInit, _LastStage, BaseModule):
    """The fourth stage with its downsampling layer: ``shared_head`` of a C4 detector.

    It begins with a LayerNorm over channels, which gives the same for a map with and without the output
    norm of :class:`ConvNeXtTrunk`: both parts together are the pre-trained network.

    Args:
        **kwargs: ``arch``, ``drop_path_rate``, ``layer_scale_init_value``, ``use_grn`` and ``memory`` of
            :class:`convnext_dense.ConvNeXt` for the whole network, and ``init_cfg``.
    """

    load = staticmethod(load_part)


@MODELS.register_module()
class RFPConvNeXt(ConvNeXt):
    """ConvNeXt for the neck ``RFP``, the recursive feature pyramid of DetectoRS (Qiao et al., CVPR 2021).

    Args:
        output_img: whether to return the image before the levels, as ``RFP`` expects of the backbone.
        rfp_inplanes: channels of the maps that the pyramid feeds back, in ``RFP``'s own backbone; a 1x1
            convolution that starts at zero adds them after the first block of stages 1 to 3.
        **kwargs: arguments of :class:`~convnext_dense.mm.models.backbones.ConvNeXt`.
    """

    load = staticmethod(load_part)

    def __init__(self, output_img: bool = False, rfp_inplanes: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.output_img = output_img
        self.feedback = nn.ModuleDict()
        for i, dim in enumerate(self.dims):
            if rfp_inplanes and i > 0:
                conv = nn.Conv2d(rfp_inplanes, dim, kernel_size=1)
                nn.init.zeros_(conv.weight)
                nn.init.zeros_(conv.bias)
                self.feedback[str(i)] = conv

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) -> the levels, after the image if ``output_img``."""
        levels = super().forward(x)
        return (x, *levels) if self.output_img else levels

    def rfp_forward(self, x: Tensor, rfp_feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """An image (N, in_channels, H, W) and a map (N, rfp_inplanes, H_i, W_i) per stage -> levels."""
        convnext.check_image(x, self.in_channels, convnext.MIN_SIZE)
        recomputed = convnext.resolve_with_cp(self.with_cp, len(self.stages))
        levels = []
        for i, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = convnext.run_blocks(stage[:1], down(x), i in recomputed)
            if i > 0:
                x = x + self.feedback[str(i)](rfp_feats[i])
            x = convnext.run_blocks(stage[1:], x, i in recomputed)
            if i in self.out_indices:
                levels.append(getattr(self, f"norm{i}")(x).contiguous())
        return tuple(levels)
