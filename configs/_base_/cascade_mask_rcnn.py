"""Cascade Mask R-CNN of the paper: mmdet's, with 4conv1fc box heads, SyncBN and GIoU loss."""

_base_ = "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py"

# Box deltas are divided by these standard deviations, which decrease as boxes improve from stage to stage.
box_stds = [(0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)]
box_heads = [
    dict(
        type="convnext_dense.ConvFCBBoxHead",
        num_shared_convs=4,
        num_shared_fcs=1,
        in_channels=256,
        conv_out_channels=256,
        fc_out_channels=1024,
        roi_feat_size=7,
        num_classes=80,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=(0.0, 0.0, 0.0, 0.0), target_stds=stds),
        reg_class_agnostic=False,
        reg_decoded_bbox=True,  # the loss compares boxes, not deltas
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
    )
    for stds in box_stds
]
# The types of this package are mmdet's classes. Under fp16 they keep coordinates, targets, losses and NMS in
# float32, as released; mmdet 3 does not. The RoI head also initialises its mask heads, unlike mmdet 3
# (docs/deviations.md).
model = dict(
    data_preprocessor=dict(type="convnext_dense.DetDataPreprocessor"),
    rpn_head=dict(type="convnext_dense.RPNHead"),
    roi_head=dict(
        type="convnext_dense.CascadeRoIHead",
        bbox_roi_extractor=dict(type="convnext_dense.SingleRoIExtractor"),
        bbox_head=box_heads,
        mask_roi_extractor=dict(type="convnext_dense.SingleRoIExtractor"),
        mask_head=dict(type="convnext_dense.FCNMaskHead"),
    ),
    # As released: proposals without area after clipping are kept; with 0, mmdet 3 drops them.
    train_cfg=dict(rpn_proposal=dict(min_bbox_size=-1)),
    test_cfg=dict(rpn=dict(min_bbox_size=-1)),
)
