"""Cascade Mask R-CNN, Swin-L pretrained on ImageNet-22K, COCO 3x: baseline of the same table.

Paper      Table 3: box AP 53.9, mask AP 46.7; 1382 GMACs at 1280x800
Pretrained ImageNet-22K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py cascade/swin_l_in22k_3x --launcher pytorch
Cost       36 epochs x 7,330 iterations of 8 GPUs x 2 images, fp16
Status     same recipe, not released
"""

_base_ = ["../_base_/cascade_mask_rcnn.py", "../_base_/coco_3x.py"]

model = dict(
    backbone=dict(
        type="SwinTransformer",
        embed_dims=192,
        depths=(2, 2, 18, 2),
        num_heads=(6, 12, 24, 48),
        window_size=7,
        drop_path_rate=0.3,
        convert_weights=True,  # from the names of Swin's authors
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_large_patch4_window7_224_22k.pth",
        ),
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)

# As released: one rate for all layers, and no weight decay for these parts.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            part: dict(decay_mult=0.0)
            for part in ("absolute_pos_embed", "relative_position_bias_table", "norm")
        }
    ),
)
