"""UperNet, Swin-L pretrained on ImageNet-22K, ADE20K 160k at 640 pixels: baseline of the same table.

Paper      Table 4: mIoU 53.5 at several scales + flip; 2468 GMACs at 640x2560; 234 M parameters
Pretrained ImageNet-22K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/swin_l_in22k_640_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp32
Status     same recipe, not released
"""

_base_ = ["../_base_/upernet.py", "../_base_/ade20k_160k_640.py"]

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        type="SwinTransformer",
        embed_dims=192,
        depths=(2, 2, 18, 2),
        num_heads=(6, 12, 24, 48),
        window_size=7,
        drop_path_rate=0.3,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_large_patch4_window7_224_22k_20220412-aeecf2aa.pth",
        ),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
    test_cfg=dict(crop_size=(640, 640), stride=(426, 426)),  # 640 x 2 / 3 = 426
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
