"""A trained model -> one ONNX file of standard operators, and the proof that it computes the same.

operators (NMS and RoIAlign with fixed sizes, and their ONNX form), fixed_size (best of, gather, pooling),
prepare (RGB pixels -> what the network sees), pooling and traceable (parts that cannot be traced as they
are), detectors and segmentors (whole models without data-dependent shapes), kinds (what can be exported),
load (from a config, with the metadata), write, check, differences (the first module that differs), quantise,
run.
"""
