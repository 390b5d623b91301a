"""UperNet, Swin-T, ADE20K 160k at 512 pixels: baseline of the same table.

Paper      Table 4: mIoU 45.8 at several scales + flip; 945 GMACs at 512x2048; 60 M parameters
Pretrained ImageNet-1K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/swin_t_512_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp32
"""

_base_ = ["../_base_/upernet.py", "../_base_/ade20k_160k_512.py"]

model = dict(
    backbone=dict(
        type="SwinTransformer",
        embed_dims=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        drop_path_rate=0.3,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_tiny_patch4_window7_224_20220317-1cdeb081.pth",
        ),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
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
