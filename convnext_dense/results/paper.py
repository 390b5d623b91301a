"""The published numbers as data: every row of the tables that this toolkit reproduces.

Liu et al., "A ConvNet for the 2020s", CVPR 2022, with parameters and weights as
printed beside the released models; and of Woo et al., "ConvNeXt V2", CVPR 2023, the
rows of its own models, marked V2. MACs in 1e9 are what the papers call FLOPs;
parameters are in 1e6. ``None`` stands for what is not published.
"""

import difflib
from typing import Literal, NamedTuple

Provenance = Literal["published", "measured here", "not yet measured"]
Pretrain = Literal["1K", "22K"]

README = "released README"  # rows printed beside the released models, not in the paper
V2_6, V2_7 = "V2 Table 6", "V2 Table 7"


class AP(NamedTuple):
    """COCO average precision in percent: over IoU 0.50 to 0.95, at 0.50, at 0.75."""

    ap: float
    ap50: float
    ap75: float


class CocoRow(NamedTuple):
    """Table 3: COCO val2017, 3x schedule, one scale of (1333, 800); V2 says one scale, but not which.

    Attributes:
        name: name of the recipe.
        macs_g: MACs at 1280x800, 1000 proposals through every box head, 100 RoIs through every mask head.
        fps: images per second on one A100, batch 1.
    """

    name: str
    backbone: str
    pretrain: Pretrain
    params_m: int | None
    macs_g: int
    fps: float | None
    box: AP
    mask: AP
    table: str = "Table 3"
    provenance: Provenance = "published"

    @property
    def method(self) -> str:
        """Mask R-CNN or Cascade Mask R-CNN."""
        return "Mask R-CNN" if self.name.startswith("mask_rcnn/") else "Cascade Mask R-CNN"


class Ade20kRow(NamedTuple):
    """Table 4: ADE20K val, UperNet, 160k iterations.

    Attributes:
        name: name of the recipe.
        crop: side of the training crop in pixels; MACs are at crop x 4 crop.
        miou: mIoU at one scale, sliding window, in percent.
        miou_ms: mIoU at several scales and flip, whole images, in percent; V2 names scales only.
    """

    name: str
    backbone: str
    pretrain: Pretrain
    crop: int
    params_m: int
    macs_g: int
    miou: float | None
    miou_ms: float
    table: str = "Table 4"
    provenance: Provenance = "published"


class ImageNetRow(NamedTuple):
    """Table 1: ImageNet-1K val, 1000-way classifier, square images of ``size`` pixels; top-1 in percent."""

    name: str
    arch: str
    model: str
    pretrain: Pretrain
    size: int
    params_m: int
    macs_g: float
    top1: float
    table: str = "Table 1"
    provenance: Provenance = "published"


class IsotropicRow(NamedTuple):
    """Table 2: isotropic ConvNeXt, ImageNet-1K, square images of ``size`` pixels; top-1 in percent."""

    name: str
    arch: str
    model: str
    params_m: int
    macs_g: float
    top1: float
    size: int = 224
    table: str = "Table 2"
    provenance: Provenance = "published"


class RoadmapStep(NamedTuple):
    """Figure 2, ResNet-50 / Swin-T regime: each step includes those before it; kernel sizes are alternatives.

    MACs are rounded, as in the figure; it does not say how it counts norms.
    """

    step: str
    macs_g: float
    top1: float
    table: str = "Figure 2"
    provenance: Provenance = "published"


Row = CocoRow | Ade20kRow | ImageNetRow | IsotropicRow


def facebook(file: str) -> str:
    """URL of a file of the ConvNeXt release."""
    return f"https://dl.fbaipublicfiles.com/convnext/{file}.pth"


def swin(file: str) -> str:
    """URL of a file of the Swin Transformer release."""
    return f"https://github.com/SwinTransformer/storage/releases/download/{file}.pth"


# Released fully trained models, by row. The initial weights of a recipe are in its config.
WEIGHTS: dict[str, str] = {
    "mask_rcnn/swin_t_3x": swin("v1.0.2/mask_rcnn_swin_tiny_patch4_window7"),
    "mask_rcnn/convnext_t_3x": facebook("coco/mask_rcnn_convnext_tiny_1k_3x"),
    "cascade/swin_t_3x": swin("v1.0.2/cascade_mask_rcnn_swin_tiny_patch4_window7"),
    "cascade/convnext_t_3x": facebook("coco/cascade_mask_rcnn_convnext_tiny_1k_3x"),
    "cascade/swin_s_3x": swin("v1.0.2/cascade_mask_rcnn_swin_small_patch4_window7"),
    "cascade/convnext_s_3x": facebook("coco/cascade_mask_rcnn_convnext_small_1k_3x"),
    "cascade/swin_b_3x": swin("v1.0.2/cascade_mask_rcnn_swin_base_patch4_window7"),
    "cascade/convnext_b_3x": facebook("coco/cascade_mask_rcnn_convnext_base_1k_3x"),
    "cascade/convnext_b_in22k_3x": facebook("coco/cascade_mask_rcnn_convnext_base_22k_3x"),
    "cascade/convnext_l_in22k_3x": facebook("coco/cascade_mask_rcnn_convnext_large_22k_3x"),
    "cascade/convnext_xl_in22k_3x": facebook("coco/cascade_mask_rcnn_convnext_xlarge_22k_3x"),
    "upernet/swin_t_512_160k": swin("v1.0.1/upernet_swin_tiny_patch4_window7_512x512"),
    "upernet/convnext_t_512_160k": facebook("ade20k/upernet_convnext_tiny_1k_512x512"),
    "upernet/swin_s_512_160k": swin("v1.0.1/upernet_swin_small_patch4_window7_512x512"),
    "upernet/convnext_s_512_160k": facebook("ade20k/upernet_convnext_small_1k_512x512"),
    "upernet/swin_b_512_160k": swin("v1.0.1/upernet_swin_base_patch4_window7_512x512"),
    "upernet/convnext_b_512_160k": facebook("ade20k/upernet_convnext_base_1k_512x512"),
    "upernet/convnext_b_in22k_640_160k": facebook("ade20k/upernet_convnext_base_22k_640x640"),
    "upernet/convnext_l_in22k_640_160k": facebook("ade20k/upernet_convnext_large_22k_640x640"),
    "upernet/convnext_xl_in22k_640_160k": facebook("ade20k/upernet_convnext_xlarge_22k_640x640"),
    "imagenet/convnext_t_224": facebook("convnext_tiny_1k_224_ema"),
    "imagenet/convnext_s_224": facebook("convnext_small_1k_224_ema"),
    "imagenet/convnext_b_224": facebook("convnext_base_1k_224_ema"),
    "imagenet/convnext_b_384": facebook("convnext_base_1k_384"),
    "imagenet/convnext_l_224": facebook("convnext_large_1k_224_ema"),
    "imagenet/convnext_l_384": facebook("convnext_large_1k_384"),
    "imagenet/convnext_t_in22k_224": facebook("convnext_tiny_22k_1k_224"),
    "imagenet/convnext_t_in22k_384": facebook("convnext_tiny_22k_1k_384"),
    "imagenet/convnext_s_in22k_224": facebook("convnext_small_22k_1k_224"),
    "imagenet/convnext_s_in22k_384": facebook("convnext_small_22k_1k_384"),
    "imagenet/convnext_b_in22k_224": facebook("convnext_base_22k_1k_224"),
    "imagenet/convnext_b_in22k_384": facebook("convnext_base_22k_1k_384"),
    "imagenet/convnext_l_in22k_224": facebook("convnext_large_22k_1k_224"),
    "imagenet/convnext_l_in22k_384": facebook("convnext_large_22k_1k_384"),
    "imagenet/convnext_xl_in22k_224": facebook("convnext_xlarge_22k_1k_224_ema"),
    "imagenet/convnext_xl_in22k_384": facebook("convnext_xlarge_22k_1k_384_ema"),
    "imagenet/convnext_s_isotropic_224": facebook("convnext_iso_small_1k_224_ema"),
    "imagenet/convnext_b_isotropic_224": facebook("convnext_iso_base_1k_224_ema"),
    "imagenet/convnext_l_isotropic_224": facebook("convnext_iso_large_1k_224_ema"),
}

# fmt: off
COCO: tuple[CocoRow, ...] = (
    CocoRow("mask_rcnn/swin_t_3x", "Swin-T", "1K", None, 267, 23.1,
            AP(46.0, 68.1, 50.3), AP(41.6, 65.1, 44.9)),
    CocoRow("mask_rcnn/convnext_t_3x", "ConvNeXt-T", "1K", 48, 262, 25.6,
            AP(46.2, 67.9, 50.8), AP(41.7, 65.0, 44.9)),
    CocoRow("cascade/resnet50_3x", "ResNet-50", "1K", None, 739, 16.2,
            AP(46.3, 64.3, 50.5), AP(40.1, 61.7, 43.4)),
    CocoRow("cascade/x101_32x4d_3x", "X101-32", "1K", None, 819, 13.8,
            AP(48.1, 66.5, 52.4), AP(41.6, 63.9, 45.2)),
    CocoRow("cascade/x101_64x4d_3x", "X101-64", "1K", None, 972, 12.6,
            AP(48.3, 66.4, 52.3), AP(41.7, 64.0, 45.1)),
    CocoRow("cascade/swin_t_3x", "Swin-T", "1K", None, 745, 12.2,
            AP(50.4, 69.2, 54.7), AP(43.7, 66.6, 47.3)),
    CocoRow("cascade/convnext_t_3x", "ConvNeXt-T", "1K", 86, 741, 13.5,
            AP(50.4, 69.1, 54.8), AP(43.7, 66.5, 47.3)),
    CocoRow("cascade/swin_s_3x", "Swin-S", "1K", None, 838, 11.4,
            AP(51.9, 70.7, 56.3), AP(45.0, 68.2, 48.8)),
    CocoRow("cascade/convnext_s_3x", "ConvNeXt-S", "1K", 108, 827, 12.0,
            AP(51.9, 70.8, 56.5), AP(45.0, 68.4, 49.1)),
    CocoRow("cascade/swin_b_3x", "Swin-B", "1K", None, 982, 10.7,
            AP(51.9, 70.5, 56.4), AP(45.0, 68.1, 48.9)),
    CocoRow("cascade/convnext_b_3x", "ConvNeXt-B", "1K", 146, 964, 11.4,
            AP(52.7, 71.3, 57.2), AP(45.6, 68.9, 49.5)),
    CocoRow("cascade/swin_b_in22k_3x", "Swin-B", "22K", None, 982, 10.7,
            AP(53.0, 71.8, 57.5), AP(45.8, 69.4, 49.7)),
    CocoRow("cascade/convnext_b_in22k_3x", "ConvNeXt-B", "22K", 146, 964, 11.5,
            AP(54.0, 73.1, 58.8), AP(46.9, 70.6, 51.3)),
    CocoRow("cascade/swin_l_in22k_3x", "Swin-L", "22K", None, 1382, 9.2,
            AP(53.9, 72.4, 58.8), AP(46.7, 70.1, 50.8)),
    CocoRow("cascade/convnext_l_in22k_3x", "ConvNeXt-L", "22K", 255, 1354, 10.0,
            AP(54.8, 73.8, 59.8), AP(47.6, 71.3, 51.7)),
    CocoRow("cascade/convnext_xl_in22k_3x", "ConvNeXt-XL", "22K", 407, 1898, 8.6,
            AP(55.2, 74.2, 59.9), AP(47.7, 71.6, 52.2)),
)

ADE20K: tuple[Ade20kRow, ...] = (
    Ade20kRow("upernet/swin_t_512_160k", "Swin-T", "1K", 512, 60, 945, None, 45.8),
    Ade20kRow("upernet/convnext_t_512_160k", "ConvNeXt-T", "1K", 512, 60, 939, 46.0, 46.7),
    Ade20kRow("upernet/swin_s_512_160k", "Swin-S", "1K", 512, 81, 1038, None, 49.5),
    Ade20kRow("upernet/convnext_s_512_160k", "ConvNeXt-S", "1K", 512, 82, 1027, 48.7, 49.6),
    Ade20kRow("upernet/swin_b_512_160k", "Swin-B", "1K", 512, 121, 1188, None, 49.7),
    Ade20kRow("upernet/convnext_b_512_160k", "ConvNeXt-B", "1K", 512, 122, 1170, 49.1, 49.9),
    Ade20kRow("upernet/swin_b_in22k_640_160k", "Swin-B", "22K", 640, 121, 1841, None, 51.7),
    Ade20kRow("upernet/convnext_b_in22k_640_160k", "ConvNeXt-B", "22K", 640, 122, 1828, 52.6, 53.1),
    Ade20kRow("upernet/swin_l_in22k_640_160k", "Swin-L", "22K", 640, 234, 2468, None, 53.5),
    Ade20kRow("upernet/convnext_l_in22k_640_160k", "ConvNeXt-L", "22K", 640, 235, 2458, 53.2, 53.7),
    Ade20kRow("upernet/convnext_xl_in22k_640_160k", "ConvNeXt-XL", "22K", 640, 391, 3335, 53.6, 54.0),
)

# V2's FCMAE models; its Mask R-CNN has other data and tests than Table 3's. No such model was released.
COCO_V2: tuple[CocoRow, ...] = (
    CocoRow("mask_rcnn/convnextv2_base_3x", "ConvNeXt V2-B", "1K", None, 486, None,
            AP(52.9, 72.6, 58.9), AP(46.6, 70.0, 51.1), V2_6),
    CocoRow("mask_rcnn/convnextv2_large_3x", "ConvNeXt V2-L", "1K", None, 875, None,
            AP(54.4, 73.9, 60.4), AP(47.7, 71.4, 52.3), V2_6),
    CocoRow("mask_rcnn/convnextv2_huge_3x", "ConvNeXt V2-H", "1K", None, 2525, None,
            AP(55.7, 75.2, 61.8), AP(48.9, 72.8, 53.6), V2_6),
)

ADE20K_V2: tuple[Ade20kRow, ...] = (
    Ade20kRow("upernet/convnextv2_base_512_160k", "ConvNeXt V2-B", "1K", 512, 122, 1170, None, 52.1, V2_7),
    Ade20kRow("upernet/convnextv2_large_512_160k", "ConvNeXt V2-L", "1K", 512, 235, 1573, None, 53.7, V2_7),
    Ade20kRow("upernet/convnextv2_huge_512_160k", "ConvNeXt V2-H", "1K", 512, 707, 3272, None, 55.0, V2_7),
    Ade20kRow("upernet/convnextv2_huge_in22k_640_160k", "ConvNeXt V2-H", "22K", 640, 707, 5113, None, 57.0,
              V2_7),
)

IMAGENET: tuple[ImageNetRow, ...] = (
    ImageNetRow("imagenet/convnext_t_224", "tiny", "ConvNeXt-T", "1K", 224, 29, 4.5, 82.1),
    ImageNetRow("imagenet/convnext_s_224", "small", "ConvNeXt-S", "1K", 224, 50, 8.7, 83.1),
    ImageNetRow("imagenet/convnext_b_224", "base", "ConvNeXt-B", "1K", 224, 89, 15.4, 83.8),
    ImageNetRow("imagenet/convnext_b_384", "base", "ConvNeXt-B", "1K", 384, 89, 45.0, 85.1),
    ImageNetRow("imagenet/convnext_l_224", "large", "ConvNeXt-L", "1K", 224, 198, 34.4, 84.3),
    ImageNetRow("imagenet/convnext_l_384", "large", "ConvNeXt-L", "1K", 384, 198, 101.0, 85.5),
    ImageNetRow("imagenet/convnext_t_in22k_224", "tiny", "ConvNeXt-T", "22K", 224, 29, 4.5, 82.9, README),
    ImageNetRow("imagenet/convnext_t_in22k_384", "tiny", "ConvNeXt-T", "22K", 384, 29, 13.1, 84.1, README),
    ImageNetRow("imagenet/convnext_s_in22k_224", "small", "ConvNeXt-S", "22K", 224, 50, 8.7, 84.6, README),
    ImageNetRow("imagenet/convnext_s_in22k_384", "small", "ConvNeXt-S", "22K", 384, 50, 25.5, 85.8, README),
    ImageNetRow("imagenet/convnext_b_in22k_224", "base", "ConvNeXt-B", "22K", 224, 89, 15.4, 85.8),
    ImageNetRow("imagenet/convnext_b_in22k_384", "base", "ConvNeXt-B", "22K", 384, 89, 45.1, 86.8),
    ImageNetRow("imagenet/convnext_l_in22k_224", "large", "ConvNeXt-L", "22K", 224, 198, 34.4, 86.6),
    ImageNetRow("imagenet/convnext_l_in22k_384", "large", "ConvNeXt-L", "22K", 384, 198, 101.0, 87.5),
    ImageNetRow("imagenet/convnext_xl_in22k_224", "xlarge", "ConvNeXt-XL", "22K", 224, 350, 60.9, 87.0),
    ImageNetRow("imagenet/convnext_xl_in22k_384", "xlarge", "ConvNeXt-XL", "22K", 384, 350, 179.0, 87.8),
)

ISOTROPIC: tuple[IsotropicRow, ...] = (
    IsotropicRow("imagenet/convnext_s_isotropic_224", "isotropic_small", "ConvNeXt-S (iso.)", 22, 4.3, 79.7),
    IsotropicRow("imagenet/convnext_b_isotropic_224", "isotropic_base", "ConvNeXt-B (iso.)", 87, 16.9, 82.0),
    IsotropicRow("imagenet/convnext_l_isotropic_224", "isotropic_large", "ConvNeXt-L (iso.)",
                 306, 59.7, 82.6),
)

ROADMAP: tuple[RoadmapStep, ...] = (
    RoadmapStep("ResNet-50 (modern training)", 4.1, 78.8),
    RoadmapStep("stage ratio (3,3,9,3)", 4.5, 79.4),
    RoadmapStep("patchify stem 4x4/4", 4.4, 79.5),
    RoadmapStep("depthwise conv", 2.4, 78.3),
    RoadmapStep("width 64->96", 5.3, 80.5),
    RoadmapStep("inverted bottleneck", 4.6, 80.6),
    RoadmapStep("move depthwise conv up", 4.1, 79.9),
    RoadmapStep("kernel 5x5", 4.1, 80.4),
    RoadmapStep("kernel 7x7", 4.2, 80.6),
    RoadmapStep("kernel 9x9", 4.2, 80.6),
    RoadmapStep("kernel 11x11", 4.3, 80.5),
    RoadmapStep("ReLU -> GELU", 4.2, 80.6),
    RoadmapStep("fewer activations", 4.2, 81.3),
    RoadmapStep("fewer norms", 4.2, 81.4),
    RoadmapStep("BN -> LN", 4.2, 81.5),
    RoadmapStep("separate downsampling (ConvNeXt-T)", 4.5, 82.0),
)
# fmt: on

ROWS: dict[str, Row] = {
    row.name: row for table in (COCO, ADE20K, COCO_V2, ADE20K_V2, IMAGENET, ISOTROPIC) for row in table
}


def find_row(name: str) -> Row:
    """Row by name, such as ``cascade/convnext_b_3x`` or ``imagenet/convnext_t_224``.

    Raises:
        KeyError: no such row; the message lists similar names.
    """
    if name not in ROWS:
        near = difflib.get_close_matches(name, ROWS, n=3) or list(ROWS)
        raise KeyError(f"the paper's tables have no row {name!r}; near: {', '.join(near)}")
    return ROWS[name]
