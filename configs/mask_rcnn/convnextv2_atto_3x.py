"""Mask R-CNN, ConvNeXt V2-A, COCO 3x.

Paper      none: V2 Table 6 has B, L and H; 180 GMACs at 1280x800 and 23 M parameters, counted here
Pretrained ImageNet-1K by FCMAE, without labels, 224 pixels (appendix A.3)
Train      torchrun --nproc-per-node 8 tools/train.py mask_rcnn/convnextv2_atto_3x --launcher pytorch
Cost       36 epochs x 3,665 iterations of 8 GPUs x 4 images of 1024x1024, fp16
Status     ours, from tiny: no recipe of this size was published. Not trained here.
"""

_base_ = "./convnextv2_tiny_3x.py"

# Stage 2 has 6 blocks, so num_layers = 3 + 6 / 3 = 5; the stem trains at 0.95^6 = 0.74 of the heads' rate.
model = dict(
    backbone=dict(
        arch="atto",
        drop_path_rate=0.2,  # the lowest value of the sweep: 3.4 M parameters hardly overfit
        init_cfg=dict(
            checkpoint="https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_atto_1k_224_fcmae.pt"
        ),
    ),
    neck=dict(in_channels=[40, 80, 160, 320]),
)
