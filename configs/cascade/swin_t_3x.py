"""Cascade Mask R-CNN, Swin-T, COCO 3x: baseline of the same table.

Paper      Table 3: box AP 50.4, mask AP 43.7; 745 GMACs at 1280x800
Pretrained ImageNet-1K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py cascade/swin_t_3x --launcher pytorch
Cost       36 epochs x 7,330 iterations of 8 GPUs x 2 images, fp16
"""

_base_ = ["../_base_/cascade_mask_rcnn.py", "../_base_/coco_3x.py"]

model = dict(
    backbone=dict(
        type="SwinTransformer",
        embed_dims=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        drop_path_rate=0.2,
        convert_weights=True,  # from the names of Swin's authors
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth",
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
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
