"""Mask R-CNN of the paper: mmdet's, with the precision and the mask padding of the release."""

_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

# The types of this package are mmdet's classes. Under fp16 they keep coordinates, targets, losses and NMS in
# float32, as released; mmdet 3 does not (docs/deviations.md).
# As released: proposals without area after clipping are kept; with 0, mmdet 3 drops them.
model = dict(
    data_preprocessor=dict(type="convnext_dense.DetDataPreprocessor"),
    rpn_head=dict(type="convnext_dense.RPNHead"),
    roi_head=dict(
        bbox_roi_extractor=dict(type="convnext_dense.SingleRoIExtractor"),
        bbox_head=dict(type="convnext_dense.Shared2FCBBoxHead"),
        mask_roi_extractor=dict(type="convnext_dense.SingleRoIExtractor"),
        mask_head=dict(type="convnext_dense.FCNMaskHead"),
    ),
    train_cfg=dict(rpn_proposal=dict(min_bbox_size=-1)),
    test_cfg=dict(rpn=dict(min_bbox_size=-1)),
)
