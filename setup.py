"""Packaging. The recipes of ``configs/`` travel in the wheel as ``convnext_dense/configs``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "convnext_dense" / "__init__.py").read_text())[1]

# What the toolboxes import and do not all declare, or what the recipes use.
BESIDE = ["pycocotools>=2.0.6", "ftfy", "regex", "tensorboard", "jinja2", "tqdm"]
OFFICIAL = [
    "mmengine>=0.10.4,<0.11",
    "mmcv-lite>=2.0,<2.2",  # mmdet 3.3 and mmseg 1.2 refuse mmcv 2.2
    "mmdet>=3.3,<3.4",
    "mmsegmentation>=1.2.2,<1.3",
    *BESIDE,
]
# The maintained fork, under the same import names. pip builds its mmcv in isolation, without operators.
ONEDL = [
    "onedl-mmengine>=0.10.12,<0.11",
    "onedl-mmcv>=2.3.6,<2.4",
    "onedl-mmdetection>=3.5.1,<3.6",
    "onedl-mmsegmentation>=1.4.2,<1.5",
    *BESIDE,
]

setup(
    name="convnext_dense",
    version=VERSION,
    description="Dense prediction with ConvNeXt on the OpenMMLab stack",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["convnext_dense", "convnext_dense.*"]), "convnext_dense.configs"],
    package_dir={"convnext_dense.configs": "configs"},
    package_data={"convnext_dense.configs": ["**/*.py"], "convnext_dense.reports": ["*.jinja"]},
    # None of the toolboxes: both lines, and mmcv beside mmcv-lite, have the same files under other names, and
    # pip would put one over the other. The extras say which line is meant, for an environment without one;
    # compiled operators come by `convnext-dense ops`, since pip's isolation cannot compile them.
    # filelock: before 3.24 it waits for ever where the file system has no locks
    install_requires=["torch>=2.6", "numpy>=1.22", "safetensors>=0.4", "filelock>=3.24"],
    entry_points={"console_scripts": ["convnext-dense = convnext_dense.cli:main"]},
    extras_require={
        "lite": OFFICIAL,
        "onedl": ONEDL,
        "hub": ["huggingface_hub", "timm"],  # checkpoints named hf:REPO and timm:NAME
        "eval": ["faster-coco-eval>=1.6"],  # COCO's figures sooner
        "export": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.17"],  # tools/export.py
        # exported models: all that convnext_dense.export imports; docs/runtime.md has the way without torch
        "runtime": ["numpy>=1.22", "Pillow>=10.1", "onnxruntime>=1.17"],
        "dev": ["pytest", "ruff", "mypy", "codespell", "pre-commit"],
    },
)
