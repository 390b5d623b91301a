"""Room of figures made from predictions.

``coco_ap`` (average precision of COCO), ``detection_errors`` (what a detector gets wrong), ``folder``
(what an evaluation leaves on disk, and the figures of a segmentation).
"""
