"""Cascade Mask R-CNN, ResNeXt-101 64x4d, COCO 3x: baseline of the same table.

Paper      Table 3: box AP 48.3, mask AP 41.7; 972 GMACs at 1280x800
Pretrained ImageNet-1K, OpenMMLab
Train      torchrun --nproc-per-node 8 tools/train.py cascade/x101_64x4d_3x --launcher pytorch
Cost       36 epochs x 7,330 iterations of 8 GPUs x 2 images, fp16
Status     same recipe, not released
"""

_base_ = "./resnet50_3x.py"

model = dict(
    backbone=dict(
        type="ResNeXt",
        depth=101,
        groups=64,
        base_width=4,
        init_cfg=dict(checkpoint="open-mmlab://resnext101_64x4d"),
    )
)
