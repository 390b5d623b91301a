"""A classifier of any naming names what an image shows."""

import json

import numpy as np
import pytest
import torch
from namings import ENTRIES, MICRO, random_state
from published import run_command

pytest.importorskip("PIL")  # what reads the images

from PIL import Image

from convnext_dense import CheckpointError, Classifier
from convnext_dense.checkpoints.classify import best_guesses, class_names, load_classifier, read_image


def test_the_image_is_cropped_centrally_and_normalised(tmp_path):
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 75:125] = (255, 128, 0)  # the middle quarter of the width
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 224)
    assert image.shape == (1, 3, 224, 224)
    expected = (torch.tensor([1, 128 / 255, 0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(image[0, :, 112, 112], expected)
    # resized to 512x256, the bar is 128 pixels wide and starts 48 pixels inside the crop
    bar = (image[0, 0, 112] > 0).nonzero().flatten()
    assert (bar[0].item(), bar[-1].item()) == pytest.approx((48, 175), abs=1)


def test_large_inputs_see_the_whole_image(tmp_path):
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, :10] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 384)[0, 0, 0, :15] > 0).all()


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(CheckpointError, match=r"cannot read the image .*a\.jpg"):
        read_image(tmp_path / "a.jpg", 224)


def test_guesses_are_the_softmax_in_order():
    model = Classifier(MICRO, num_classes=4).eval()
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.log(torch.tensor([0.1, 0.6, 0.05, 0.25]))
    guesses = best_guesses(model, torch.zeros(1, 3, 32, 32), ["a", "b", "c", "d"], count=3)
    assert [(g.index, g.name) for g in guesses] == [(1, "b"), (3, "d"), (0, "a")]
    assert [g.probability for g in guesses] == pytest.approx([0.6, 0.25, 0.1])
    assert {g.name for g in best_guesses(model, torch.zeros(1, 3, 32, 32), ["too", "few"])} == {None}


@pytest.mark.parametrize("name", ["facebook_v2_classifier", "hf_v1_classifier", "timm_v1_conv_mlp"])
def test_a_checkpoint_of_any_naming_becomes_a_classifier(tmp_path, name):
    torch.save(random_state(ENTRIES[name]["keys"]), tmp_path / "w.pth")
    model, line = load_classifier(str(tmp_path / "w.pth"))
    count = len(ENTRIES[name]["keys"])
    assert line.startswith(f"{count}/{count} tensors from ") and line.endswith("5 classes")
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_a_backbone_has_nothing_to_say(tmp_path):
    torch.save(random_state(ENTRIES["timm_v1_features"]["keys"]), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"no classification head \(timm features naming\)"):
        load_classifier(str(tmp_path / "w.pth"))


def test_names_come_from_a_file_or_from_beside_the_weights(tmp_path):
    torch.save(random_state(ENTRIES["hf_v1_classifier"]["keys"]), tmp_path / "pytorch_model.bin")
    assert class_names(str(tmp_path)) is None
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"1": "dog", "0": "cat"}}))
    assert class_names(str(tmp_path)) == ["cat", "dog"]
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    assert class_names(str(tmp_path), tmp_path / "names.txt") == ["ant", "bee"]
    with pytest.raises(CheckpointError, match="class names: cannot read"):
        class_names(str(tmp_path), tmp_path / "absent.txt")


def test_the_command_prints_five_guesses(tmp_path):
    pytest.importorskip("mmdet")
    torch.save(random_state(ENTRIES["torchvision_v1"]["keys"]), tmp_path / "w.pth")
    Image.fromarray(np.full((40, 30, 3), 128, np.uint8)).save(tmp_path / "a.png")
    command = ["--classify", str(tmp_path / "a.png"), str(tmp_path / "w.pth")]
    done = run_command("predict", *command)
    assert done.returncode == 0, done.stderr
    assert "65/65 tensors from torchvision naming" in done.stdout and done.stdout.count("(class ") == 5
    command[-1] = str(tmp_path / "absent.pth")
    failed = run_command("predict", *command)
    assert failed.returncode and "absent.pth" in failed.stderr and "Traceback" not in failed.stderr
