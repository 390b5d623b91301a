"""UperNet, Swin-B, ADE20K 160k at 512 pixels: baseline of the same table.

Paper      Table 4: mIoU 49.7 at several scales + flip; 1188 GMACs at 512x2048; 121 M parameters
Pretrained ImageNet-1K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/swin_b_512_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp32
"""

_base_ = "./swin_s_512_160k.py"

model = dict(
    backbone=dict(
        embed_dims=128,
        num_heads=(4, 8, 16, 32),
        init_cfg=dict(
            checkpoint="https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_base_patch4_window7_224_20220317-e9b98025.pth"
        ),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
