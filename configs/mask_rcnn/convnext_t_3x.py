"""Mask R-CNN, ConvNeXt-T, COCO 3x.

Paper      Table 3: box AP 46.2, mask AP 41.7; 262 GMACs at 1280x800; 48 M parameters
Pretrained ImageNet-1K, 224 pixels (downloaded at the start; change it by --pretrained PATH|none)
Train      torchrun --nproc-per-node 8 tools/train.py mask_rcnn/convnext_t_3x --launcher pytorch
Cost       36 epochs x 7,330 iterations of 8 GPUs x 2 images, fp16
"""

_base_ = ["../_base_/mask_rcnn.py", "../_base_/coco_3x.py"]

model = dict(
    backbone=dict(
        type="ConvNeXt",
        arch="tiny",
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224.pth"
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

# Stage 2 has 9 blocks, so num_layers = 3 + 9 / 3 = 6; the stem trains at 0.95^7 = 0.70 of the heads' rate.
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="layer_wise", decay_rate=0.95),
)
