"""UperNet, Swin-B, ADE20K 160k at 512 pixels: baseline of the same table.

Paper      Table 4: mIoU 49.7 at several scales + flip; 1188 GMACs at 512x2048; 121 M parameters
Pretrained ImageNet-1K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/swin_b_512_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp32
"""

_base_ = ["../_base_/upernet.py", "../_base_/ade20k_160k_512.py"]

model = dict(
    backbone=dict(
        type="SwinTransformer",
        embed_dims=128,
        depths=(2, 2, 18, 2),
        num_heads=(4, 8, 16, 32),
        window_size=7,
        drop_path_rate=0.3,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_base_patch4_window7_224_20220317-e9b98025.pth",
        ),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)

# As released: fp32, one rate for all layers, and no weight decay for these parts.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(lr=6e-5, weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={
            part: dict(decay_mult=0.0)
            for part in ("absolute_pos_embed", "relative_position_bias_table", "norm")
        }
    ),
)
