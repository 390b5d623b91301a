"""Models as modules of OpenMMLab, and those that compute what the release computed, in their own scope.

backbones, necks, roadmap   the core's networks in mmengine's root registry
partial         a ConvNeXt in two parts for C4 detectors, and one that reads the recursive pyramid
level_pyramid   necks that give the maps of other backbones: any strides and channels, coarser levels
foreign_arguments   arguments of other backbones: accepted, or an error with our spelling
registry        ``MODELS``: ``type="convnext_dense.RPNHead"`` in a config
precision       half precision -> float32, and regions without autocast
float32         heads and RoI extractors whose coordinates, targets and losses stay in float32 under autocast
uper_head       UperNet's head with two thirds of its multiply-adds
segmentation_logits   losses and predictions of mmseg's heads with less memory and time
folded_norms    batch norms in their convolutions for the time of an evaluation
autocast        predictions in half precision (``--dtype``)
released        Cascade's RoI head and the detectors' preprocessor where mmdet 3 differs from the release
batch_norm      training on one value per channel
small_inputs    images below the stride: padded, and cropped from the prediction
mixed_sizes     evaluation batches of segmentors with several sizes
sliding_window  segmentation of images of any size in bounded memory
tta             models for augmented tests
complexity      parameters and MACs by the protocol of the paper's tables
meta_device     a config's model without memory, weights or downloads
"""
