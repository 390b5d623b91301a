"""UperNet, ConvNeXt V2-T, ADE20K 160k at 512 pixels.

Paper      none: V2 Table 7 has B, L and H; 938 GMACs at 512x2048 and 60 M parameters, counted here
Pretrained ImageNet-1K by FCMAE, then fine-tuned with labels, 224 pixels (appendix A.4)
Train      torchrun --nproc-per-node 8 tools/train.py upernet/convnextv2_tiny_512_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp16
Status     not released; from appendix A.4 like V2-B; swept values are ours. Not trained here.
"""

_base_ = "./convnextv2_base_512_160k.py"

# Rate 1e-4, drop path 0.4 and decay 0.9 do not change: they are V1-T's, too. Stage 2 has 9 blocks, so
# num_layers = 3 + 9 / 3 = 6; the stem trains at 0.9^7 = 0.48 of the heads' rate.
model = dict(
    backbone=dict(
        arch="tiny",
        init_cfg=dict(
            checkpoint="https://dl.fbaipublicfiles.com/convnext/convnextv2/im1k/convnextv2_tiny_1k_224_ema.pt"
        ),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
