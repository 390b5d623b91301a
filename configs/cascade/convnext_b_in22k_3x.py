"""Cascade Mask R-CNN, ConvNeXt-B pretrained on ImageNet-22K, COCO 3x.

Paper      Table 3: box AP 54.0, mask AP 46.9; 964 GMACs at 1280x800; 146 M parameters
Pretrained ImageNet-22K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py cascade/convnext_b_in22k_3x --launcher pytorch
Cost       36 epochs x 7,330 iterations of 8 GPUs x 2 images, fp16
"""

_base_ = ["../_base_/cascade_mask_rcnn.py", "../_base_/coco_3x.py"]

model = dict(
    backbone=dict(
        type="ConvNeXt",
        arch="base",
        drop_path_rate=0.6,
        layer_scale_init_value=1.0,
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth"
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)

# Stage 2 has 27 blocks, so num_layers = 3 + 27 / 3 = 12; the stem trains at 0.8^13 = 0.05 of the heads' rate.
# The rate is half that of the ImageNet-1K model.
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="layer_wise", decay_rate=0.8),
)
