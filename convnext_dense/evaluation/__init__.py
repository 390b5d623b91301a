"""Figures made from predictions.

``coco_ap`` (average precision of COCO), ``detection_errors`` (what a detector gets wrong), ``folder``
(the files of an evaluation, and the figures of a segmentation).
"""
