"""Cascade Mask R-CNN, ResNeXt-101 64x4d, COCO 3x: baseline of the same table.

Paper      Table 3: box AP 48.3, mask AP 41.7; 972 GMACs at 1280x800
Pretrained ImageNet-1K, OpenMMLab
Train      torchrun --nproc-per-node 8 tools/train.py cascade/x101_64x4d_3x --launcher pytorch
Cost       36 epochs x 7,330 iterations of 8 GPUs x 2 images, fp16
Status     same recipe, not released
"""

_base_ = ["../_base_/cascade_mask_rcnn.py", "../_base_/coco_3x.py"]

# Stem, first stage and batch statistics are frozen. AdamW at 1e-4 without layer decay is the recipe of the
# Swin baselines, from whose paper the table takes this row.
model = dict(
    backbone=dict(
        type="ResNeXt",
        depth=101,
        groups=64,
        base_width=4,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=True,
        style="pytorch",
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://resnext101_64x4d"),
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
