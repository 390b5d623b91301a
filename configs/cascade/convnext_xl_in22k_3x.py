"""Cascade Mask R-CNN, ConvNeXt-XL pretrained on ImageNet-22K, COCO 3x.

Paper      Table 3: box AP 55.2, mask AP 47.7; 1898 GMACs at 1280x800; 407 M parameters
Pretrained ImageNet-22K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py cascade/convnext_xl_in22k_3x --launcher pytorch
Cost       36 epochs x 7,330 iterations of 8 GPUs x 2 images, fp32
"""

_base_ = "./convnext_l_in22k_3x.py"

# Rate 1e-4 and decay 0.7 over 3 + 27 / 3 = 12 layers, in fp32, like ConvNeXt-L.
model = dict(
    backbone=dict(
        arch="xlarge",
        drop_path_rate=0.8,
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_xlarge_22k_224.pth"),
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
