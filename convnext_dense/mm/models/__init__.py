"""Models of the toolboxes that compute what was released, in a registry scope of their own.

registry   ``MODELS``: ``type="convnext_dense.RPNHead"`` in a config
precision  half precision -> float32, and regions without autocast
float32    heads and RoI extractors whose coordinates, targets and losses stay in float32 under autocast
released   Cascade's RoI head and the detectors' preprocessor where mmdet 3 left the release
"""
