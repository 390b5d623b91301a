"""Mask R-CNN, ConvNeXt V2-T, COCO 3x.

Paper      none: V2 Table 6 has B, L and H; 262 GMACs at 1280x800 and 48 M parameters, counted here
Pretrained ImageNet-1K by FCMAE, without labels, 224 pixels (appendix A.3)
Train      torchrun --nproc-per-node 8 tools/train.py mask_rcnn/convnextv2_tiny_3x --launcher pytorch
Cost       36 epochs x 3,665 iterations of 8 GPUs x 4 images of 1024x1024, fp16
Status     not released; from appendix A.3 like V2-B; swept values are ours. Not trained here.
"""

_base_ = "./convnextv2_base_3x.py"

# Drop path 0.4 and decay 0.95 do not change: they are V1-T's, too. Stage 2 has 9 blocks, so
# num_layers = 3 + 9 / 3 = 6; the stem trains at 0.95^7 = 0.70 of the heads' rate.
model = dict(
    backbone=dict(
        arch="tiny",
        init_cfg=dict(
            checkpoint="https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_tiny_1k_224_fcmae.pt"
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
