"""A picture per test image; ``tests/tools/test_commands.py`` has those of whole tests."""

import cv2
import numpy as np
import pytest
from mmengine.structures import BaseDataElement

from convnext_dense.errors import UserError
from convnext_dense.mm.engine.hooks.pictures import draw


class Visualizer:
    """Notes what is to be drawn."""

    def add_datasample(self, name, image, **options):
        self.seen = name, image.shape, options


def test_a_picture_of_one_pixel_and_one_of_an_array(tmp_path):
    visualizer = Visualizer()
    cv2.imwrite(str(tmp_path / "a.png"), np.full((1, 1, 3), (1, 2, 3), np.uint8))
    sample = BaseDataElement(metainfo=dict(img_path=str(tmp_path / "a.png"), ori_shape=(1, 1)))
    draw(visualizer, sample, tmp_path / "out/a.png", 0.3, draw_gt=False)
    assert cv2.imread(str(tmp_path / "out/a.png")).tolist() == [[[1, 2, 3]]]
    assert not hasattr(visualizer, "seen"), "mmseg takes a mask of one pixel for an index"
    np.save(tmp_path / "b.npy", np.zeros((4, 6, 5), np.float32))
    sample = BaseDataElement(metainfo=dict(img_path=str(tmp_path / "b.npy"), ori_shape=(4, 6)))
    draw(visualizer, sample, tmp_path / "out/b.png", 0.3, draw_gt=False)
    assert visualizer.seen[:2] == ("b", (4, 6, 3))


def test_a_picture_is_named_like_its_image_and_never_replaces_it(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((4, 6, 3), np.uint8))
    sample = BaseDataElement(metainfo=dict(img_path=str(path), ori_shape=(4, 6)))
    visualizer = Visualizer()
    draw(visualizer, sample, tmp_path / "out/a.png", 0.3, draw_gt=True)
    name, shape, options = visualizer.seen
    assert (name, shape, options["out_file"]) == ("a", (4, 6, 3), str(tmp_path / "out/a.png"))
    assert "pred_score_thr" not in options, "a segmentor has no scores"
    with pytest.raises(UserError, match="is an input image"):
        draw(visualizer, sample, path, 0.3, draw_gt=True)
