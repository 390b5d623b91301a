"""Necks that turn ConvNeXt's stages into the maps that another kind of backbone gave."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from convnext_dense.errors import ArgumentError

LAST_STRIDE = 32  # of ConvNeXt's last stage
XAVIER = dict(type="Xavier", layer="Conv2d", distribution="uniform")


@MODELS.register_module()
class LevelPyramid(BaseModule):
    """A feature pyramid (Lin et al., CVPR 2017) whose maps have any strides and channels.

    Takes the place of what a network with branches did after its stages (BiSeNet, DDRNet, PIDNet, U-Net,
    Hourglass): the heads find as many maps as before, at the same strides and with the same channels.

    Args:
        in_channels: channels of the stages read, one after the other; the last has stride 32.
        strides: stride of each map, a power of two, in any order. Finer ones than the first stage's are
            given at its stride.
        out_channels: channels of each map; 0 for one that nobody reads, which is ``None`` instead.
        channels: of the pyramid.
        test_level: the only map in evaluation mode, as a tensor; ``None`` returns all maps in both modes.
        init_cfg: mmengine's initialisation config.

    Raises:
        ArgumentError: lists of different lengths.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        out_channels: Sequence[int],
        channels: int = 256,
        test_level: int | None = None,
        init_cfg: dict | list[dict] | None = XAVIER,
    ) -> None:
        super().__init__(init_cfg)
        if len(strides) != len(out_channels):
            raise ArgumentError(f"{len(strides)} strides for {len(out_channels)} out_channels; one each")
        finest = LAST_STRIDE >> (len(in_channels) - 1)
        self.levels = [(max(stride, finest) // finest).bit_length() - 1 for stride in strides]
        self.test_level = test_level
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, kernel_size=1) for c in in_channels)
        coarser = max(self.levels) + 1 - len(in_channels)
        self.coarser = nn.ModuleList(
            nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1) for _ in range(coarser)
        )
        self.outputs = nn.ModuleList(
            nn.Conv2d(channels, c, kernel_size=3, padding=1) if c else nn.Identity() for c in out_channels
        )

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor | None, ...] | Tensor:
        """One (N, in_channels[i], H_i, W_i) per stage -> one (N, out_channels[k], ...) per map."""
        maps = [lateral(stage) for lateral, stage in zip(self.laterals, stages, strict=True)]
        for i in range(len(maps) - 2, -1, -1):  # from coarse to fine
            maps[i] = maps[i] + F.interpolate(maps[i + 1], size=maps[i].shape[2:], mode="nearest")
        for conv in self.coarser:
            maps.append(conv(maps[-1]))
        if self.test_level is not None and not self.training:
            return self.outputs[self.test_level](maps[self.levels[self.test_level]])
        return tuple(
            None if isinstance(conv, nn.Identity) else conv(maps[level])
            for conv, level in zip(self.outputs, self.levels, strict=True)
        )


@MODELS.register_module()
class CoarserLevels(BaseModule):
    """Append levels of stride 64, 128, ... to a backbone's, each by a 3x3 convolution of stride 2.

    Args:
        in_channels: channels of the last level, which the new ones keep.
        count: number of new levels.
        init_cfg: mmengine's initialisation config.
    """

    def __init__(self, in_channels: int, count: int = 1, init_cfg: dict | list[dict] | None = XAVIER) -> None:
        super().__init__(init_cfg)
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels, in_channels, kernel_size=3, stride=2, padding=1) for _ in range(count)
        )

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Levels (N, C_i, H_i, W_i), the last with ``in_channels`` -> these and ``count`` coarser ones."""
        maps = list(levels)
        for conv in self.convs:
            maps.append(conv(maps[-1]))
        return tuple(maps)
