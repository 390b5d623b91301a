"""Images, label maps and annotation files.

image_headers          sizes, EXIF rotation and faults of image files, without decoding them
image_io, views        reading pictures and label maps; pictures of any other file
spellings              texts and file names as other systems write them
check, coco_check      faults of a data set, found before training
class_use              which classes a data set has labels of
split_lists            images and label maps by name
coco_repair, coco_masks   faults of COCO's annotations, and what becomes of them
coco_tidy              what is only written in another way
packed_entries         a data set's entries in one file that processes share
voc_xml                Pascal VOC's annotations
polygons, synthetic    exact outlines of masks; scenes of coloured shapes
"""
