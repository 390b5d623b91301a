"""UperNet, Swin-S, ADE20K 160k at 512 pixels: baseline of the same table.

Paper      Table 4: mIoU 49.5 at several scales + flip; 1038 GMACs at 512x2048; 81 M parameters
Pretrained ImageNet-1K, 224 pixels
Train      torchrun --nproc-per-node 8 tools/train.py upernet/swin_s_512_160k --launcher pytorch
Cost       160,000 iterations of 8 GPUs x 2 images, fp32
"""

_base_ = "./swin_t_512_160k.py"

model = dict(
    backbone=dict(
        depths=(2, 2, 18, 2),
        init_cfg=dict(
            checkpoint="https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_small_patch4_window7_224_20220317-7ba6d6dd.pth"
        ),
    ),
)
