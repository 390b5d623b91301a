"""UperNet, ConvNeXt-XL pretrained on ImageNet-22K, ADE20K 160k at 640 pixels.

Paper      Table 4: mIoU 53.6 at one scale, 54.0 at several + flip; 3335 GMACs at 640x2560; 391 M parameters
Pretrained ImageNet-22K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/convnext_xl_in22k_640_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp32
"""

_base_ = "./convnext_l_in22k_640_160k.py"

model = dict(
    backbone=dict(
        arch="xlarge",
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/convnext/convnext_xlarge_22k_224.pth"),
    ),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024),
)

# In fp32 like ConvNeXt-L, at a lower rate.
optim_wrapper = dict(optimizer=dict(lr=8e-5))
