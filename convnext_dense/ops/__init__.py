"""RoIAlign and NMS without compiled mmcv: torchvision's kernels where they work, else plain PyTorch."""

from convnext_dense.ops.backend import OpBackend, op_backend
from convnext_dense.ops.nms import batched_nms, nms, soft_nms
from convnext_dense.ops.roi_align import roi_align, roi_align_backward

__all__ = ["OpBackend", "batched_nms", "nms", "op_backend", "roi_align", "roi_align_backward", "soft_nms"]
