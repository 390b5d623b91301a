"""Images, label maps and annotation files.

``image_io`` (reading pictures), ``check`` (faults of a data set), ``coco_repair`` and ``coco_masks``
(faults of COCO annotations), ``polygons`` (exact outlines of masks), ``synthetic`` (scenes of coloured
shapes).
"""
