"""UperNet, Swin-L pretrained on ImageNet-22K, ADE20K 160k at 640 pixels: baseline of the same table.

Paper      Table 4: mIoU 53.5 at several scales + flip; 2468 GMACs at 640x2560; 234 M parameters
Pretrained ImageNet-22K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/swin_l_in22k_640_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp32
Status     same recipe, not released
"""

_base_ = "./swin_b_in22k_640_160k.py"

model = dict(
    backbone=dict(
        embed_dims=192,
        num_heads=(6, 12, 24, 48),
        init_cfg=dict(
            checkpoint="https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_large_patch4_window7_224_22k_20220412-aeecf2aa.pth"
        ),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
