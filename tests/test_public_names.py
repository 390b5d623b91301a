"""The public names come when they are asked for, and importing the package imports no torch."""

import subprocess
import sys

import pytest
from repository import ROOT

import convnext_dense


@pytest.mark.parametrize("name", convnext_dense.__all__)
def test_every_public_name_is_there(name):
    assert getattr(convnext_dense, name) is not None and name in dir(convnext_dense)


def test_names_are_the_objects_of_their_modules():
    from convnext_dense import ConvNeXt, load_checkpoint
    from convnext_dense.checkpoints import load
    from convnext_dense.models import convnext

    assert ConvNeXt is convnext.ConvNeXt and load_checkpoint is load.load_checkpoint


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'ConvNext'"):
        _ = convnext_dense.ConvNext
    with pytest.raises(ImportError, match="cannot import name 'ConvNext'"):
        exec("from convnext_dense import ConvNext")


def test_the_package_alone_imports_no_torch():
    code = (
        "import sys, convnext_dense; assert 'torch' not in sys.modules; "
        "from convnext_dense import *; assert ConvNeXt.__module__ == 'convnext_dense.models.convnext'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
