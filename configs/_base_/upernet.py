"""UperNet of the paper, with the settings of the release, for crops of 512 pixels.

A recipe states backbone and widths; one with larger crops states their size and its windows, too. The heads'
types are mmseg's classes. Under fp16 they resize logits in float32, as released (docs/deviations.md).
"""

norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    pretrained=None,  # the backbone's init_cfg names its weights
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],  # ImageNet's, as for the pretrained weights
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(512, 512),  # smaller images are padded to the crop
        pad_val=0,
        seg_pad_val=255,  # which the losses ignore
    ),
    decode_head=dict(
        type="convnext_dense.UPerHead",
        in_index=[0, 1, 2, 3],  # strides 4, 8, 16, 32
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type="convnext_dense.FCNHead",
        in_index=2,  # stride 16
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    # One scale: windows of the crop that overlap by a third, so the stride is 512 x 2 / 3 = 341.
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
