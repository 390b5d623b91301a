"""Data sets: where they are, which classes they have, and what is done with bad files.

Fitted to the user's data, and checked, before a run:
custom_classes      the entry: own classes, then the checks below
segmentation_data, detection_data, other_boxes   label maps; files in COCO's format; Pascal VOC's and others
class_settings      entries that must agree with the classes
learnable, truth    whether there is anything to learn from, and to compare with
usable, one_channel datasets of another task; heads for two classes
declared            what the class of a dataset says about its files
paths, tidy_files   where files are; copies of them in the toolboxes' own words

While a run reads them:
decoders            reading a file as the config does
transforms, checked_dataset   bad images and bad annotations are left out, and counted
annotation_cache    large annotation files as an earlier start read them
repair              configs that use both
resumable_loader    the data of one optimizer step at a time
"""
