"""Pictures from records: what is drawn, and what is refused."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")
pytest.importorskip("pycocotools")

import evaluations

from convnext_dense.commands import plot
from convnext_dense.evaluation import detection_errors
from convnext_dense.evaluation.coco_ap import Precision
from convnext_dense.reports import charts, curves, gallery, sheets, style
from convnext_dense.results import paper

CLASSES = ("disc", "box")


def colour_of(index: int) -> np.ndarray:
    text = style.COLOURS[index]
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)])


def drawn(path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1].astype(int)


def has_colour(picture: np.ndarray, colour: np.ndarray, tolerance: int = 12) -> bool:
    return bool((np.abs(picture - colour).max(axis=2) <= tolerance).sum() > 50)


@pytest.fixture
def plot_tool(monkeypatch):
    """Runs ``plot`` with the given arguments in this process."""

    def run(*arguments: object) -> None:
        plot.main(list(map(str, arguments)))

    return run


@pytest.fixture
def image() -> np.ndarray:
    return np.full((40, 60, 3), 128, np.uint8)


@pytest.fixture
def instance() -> sheets.Instance:
    mask = np.zeros((40, 60), bool)
    mask[10:20, 5:25] = True
    return sheets.Instance(1, mask, (5, 10, 20, 10))


def test_a_detection_shows_in_its_class_colour(tmp_path, image, instance):
    sheets.detection_sheet(tmp_path / "sheet.png", [image], [[]], [[instance]], CLASSES)
    picture = drawn(tmp_path / "sheet.png")[: -int(0.4 * 130)]  # without the legend
    middle = picture.shape[1] // 2
    tint = 0.45 * 128 + 0.55 * colour_of(1)
    assert not has_colour(picture[:, :middle], tint), "the truth has no instance"
    assert has_colour(picture[:, middle:], tint)


def test_a_segmentation_shows_classes_but_not_the_background(tmp_path, image, instance):
    truth = instance.mask * 2
    sheets.segmentation_sheet(
        tmp_path / "sheet.png", [image], [truth], [np.zeros_like(truth)], ("background", *CLASSES)
    )
    picture = drawn(tmp_path / "sheet.png")[: -int(0.4 * 130)]
    middle = picture.shape[1] // 2
    tint = 0.2 * 128 + 0.8 * colour_of(1)
    assert has_colour(picture[:, :middle], tint)
    assert not has_colour(picture[:, middle:], tint)


@pytest.mark.parametrize("count", [1, 3, 5, 12])
def test_any_number_of_images_fits(tmp_path, image, instance, count):
    sheets.detection_sheet(
        tmp_path / "sheet.png", [image] * count, [[instance]] * count, [[]] * count, CLASSES
    )
    assert (tmp_path / "sheet.png").stat().st_size > 0


@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 1, 2), (2, 2, 1)])
def test_unequal_counts_are_refused(tmp_path, image, counts):
    images, truths, predictions = counts
    with pytest.raises(ValueError, match="as many of each"):
        sheets.detection_sheet(
            tmp_path / "sheet.png", [image] * images, [[]] * truths, [[]] * predictions, CLASSES
        )


# ---- curves


def loss(step: int, value: float = 1.0, **more) -> dict:
    return {"loss": value, "lr": 0.1, "step": step, **more}


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        ([loss(50), loss(100), {"mIoU": 1.0, "step": 100}], [50, 100, 100]),
        # by epoch, mmengine logs a validation with the number of the epoch, in some configs with 0
        ([loss(50), loss(100), {"mIoU": 1.0, "step": 1}, loss(150)], [50, 100, 100, 150]),
        ([loss(50), {"mIoU": 1.0, "step": 0}], [50, 50]),
        ([{"mIoU": 1.0, "step": 0}, loss(50)], [50]),
    ],
)
def test_validations_stand_where_training_was(logged, expected):
    assert [record["step"] for record in curves.place_records(logged)] == expected


def test_a_resumed_run_continues_and_a_new_one_replaces():
    first = [loss(10, 5), loss(20, 4), loss(30, 3)]
    resumed = curves.join_records(first, [loss(30, 9), loss(40, 8)])
    assert [(r["step"], r["loss"]) for r in resumed] == [(10, 5), (20, 4), (30, 9), (40, 8)]
    assert curves.join_records(first, [loss(10, 7), loss(20, 6)])[0]["loss"] == 7
    assert len(curves.join_records(first, [loss(10, 7), loss(20, 6)])) == 2
    assert curves.join_records(first, [{"mIoU": 1.0, "step": 0}]) == first


def test_a_log_has_losses_rates_of_the_groups_and_metrics_in_percent(tmp_path):
    folder = tmp_path / "20240101_000000" / "vis_data"
    folder.mkdir(parents=True)
    lines = [loss(10, loss_cls=0.5), {"lr/layer 0": 0.1, "lr/layer 1": 0.2, "step": 10},
             {"coco/bbox_mAP": 0.25, "coco/segm_mAP": -1.0, "step": 0}]  # fmt: skip
    (folder / "scalars.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"loss": 0.')
    log = curves.read_log(tmp_path)
    assert log.losses == {"loss": ([10], [1.0]), "loss_cls": ([10], [0.5])}
    assert log.rates == {"layer 0": ([10], [0.1]), "layer 1": ([10], [0.2])}
    assert log.metrics == {"box AP": ([10], [25.0])}
    assert curves.read_log(folder / "scalars.json") == log
    with pytest.raises(FileNotFoundError, match="nothing was trained"):
        curves.read_log(tmp_path / "absent")


def test_the_newest_of_two_runs_counts(tmp_path):
    for stamp, value in (("20240101_000000", 1.0), ("20240102_000000", 2.0)):
        folder = tmp_path / stamp / "vis_data"
        folder.mkdir(parents=True)
        (folder / "scalars.json").write_text(json.dumps(loss(1, value)) + "\n")
    assert curves.read_log(tmp_path).losses == {"loss": ([1], [2.0])}


def test_a_log_without_losses_is_named(tmp_path):
    (tmp_path / "scalars.json").write_text('{"mIoU": 1.0, "step": 1}\n')
    with pytest.raises(ValueError, match=r"scalars\.json: no loss"):
        curves.read_log(tmp_path / "scalars.json")


def test_loss_curves_leave_out_what_is_no_loss():
    records = [
        {"step": 20, "loss_cls": 1.0, "acc": 90.0, "decode.loss_ce": 3.0, "loss": 4.0, "lr": 0.1},
        {"step": 40, "loss_cls": 0.5, "loss": 2.0},
        {"step": 40, "coco/bbox_mAP": 0.5},
    ]
    found = curves.loss_curves(records)
    assert next(iter(found)) == "loss"
    assert found == {"loss": ([20, 40], [4.0, 2.0]), "loss_cls": ([20, 40], [1.0, 0.5]),
                      "decode.loss_ce": ([20], [3.0])}  # fmt: skip


def test_terms_of_two_runs_are_drawn_as_those_of_one(tmp_path):
    """The demo's sheet and the command of one run draw a loss by one function."""
    terms = {f"loss_{i}": ([1, 2, 3], [5.0, 3.0, 2.0]) for i in range(8)}
    losses = {"loss": ([1, 2, 3], [9.0, 5.0, 3.0]), "decode.loss": ([1], [1.0]), **terms}
    log = curves.Log(losses, {"all": ([1, 2], [1.0, 0.5])}, {})
    alone = curves.draw_curves({"a": log}).axes[0]
    figure = curves.draw_losses({"a": log, "b": log})
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    for axes in (alone, *figure.axes):
        lines = axes.get_lines()
        assert [line.get_label() for line in lines] == ["total", "loss", *terms]
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines)
        assert axes.get_yscale() == "log"
    style.save_figure(figure, tmp_path / "new" / "curves.png")
    picture = drawn(tmp_path / "new" / "curves.png")
    assert picture.shape[1] > 2 * picture.shape[0]
    assert has_colour(picture, colour_of(0))
    with pytest.raises(ValueError, match="no runs"):
        curves.draw_losses({})


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_figure_becomes_the_same_file_each_time(tmp_path, kind, monkeypatch):
    log = curves.Log({"loss": ([1, 2], [2.0, 1.0])}, {"all": ([1, 2], [1.0, 0.5])}, {})
    for name in ("a", "b"):
        style.save_figure(curves.draw_curves({"run": log}), tmp_path / f"{name}.{kind}", dpi=50)
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    with pytest.raises(ValueError, match="nonsense"):
        style.save_figure(curves.draw_curves({"run": log}), tmp_path / "c.nonsense")
    style.save_figure(curves.draw_curves({"run": log}), tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} == {f"a.{kind}", f"b.{kind}", "c.png"}


def test_curves_of_several_runs_have_one_line_per_run():
    log = curves.Log({"loss": ([1, 2], [2.0, 1.0])}, {"all": ([1, 2], [1.0, 0.5])}, {"mIoU": ([2], [40.0])})
    figure = curves.draw_curves({"a": log, "b": log})
    assert [axes.get_title() for axes in figure.axes] == ["loss", "learning rate", "validation, %"]
    assert [len(axes.get_lines()) for axes in figure.axes] == [2, 2, 2]
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()}
    assert len({colour for colour, _ in styles}) == len({dashes for _, dashes in styles}) == 2
    with pytest.raises(ValueError, match="no runs"):
        curves.draw_curves({})


# ---- charts


def test_every_published_row_is_a_bubble_at_its_figures():
    rows = [row for row in paper.COCO if row.method != "Mask R-CNN"]
    figure = charts.draw_cost(charts.paper_points(rows, {}), "box AP, %")
    macs, params = figure.axes
    for axes, known in ((macs, rows), (params, [row for row in rows if row.params_m])):
        drawn = {tuple(collection.get_offsets()[0]) for collection in axes.collections}
        cost = "macs_g" if axes is macs else "params_m"
        assert drawn == {(getattr(row, cost), row.box.ap) for row in known}


def test_the_users_own_runs_are_stars_and_latency_has_a_panel():
    rows = [row for row in paper.COCO if row.method == "Mask R-CNN"]
    latencies = {row.name: 40.0 + i for i, row in enumerate(rows)}
    whole = dict(full=True)
    records = [
        dict(row=None, config="mine", tta=False, dataset=whole, metrics={"box AP": 47.0},
             complexity=dict(macs=300e9, params=50e6)),
        dict(row=None, config="part", tta=False, dataset=dict(full=False), metrics={"box AP": 99.0}),
    ]  # fmt: skip
    mine = charts.measured_points(records, rows, latencies)
    assert [(p.label, p.accuracy, p.costs) for p in mine] == [("mine", 47.0, {"macs": 300.0, "params": 50.0})]
    figure = charts.draw_cost([*charts.paper_points(rows, latencies), *mine], "box AP, %", "a GPU")
    assert [axes.get_xlabel() for axes in figure.axes][-1] == "measured latency in ms, batch 1, a GPU"
    stars = [line for line in figure.axes[0].get_lines() if line.get_marker() == "*"]
    assert [tuple(star.get_xydata()[0]) for star in stars] == [(300.0, 47.0)]


def test_cost_needs_two_models():
    with pytest.raises(ValueError, match="two models"):
        charts.draw_cost(charts.paper_points(paper.COCO[:1], {}), "")


def test_bars_are_sorted_and_leave_out_what_does_not_occur():
    table = {"a": {"IoU": 10.0}, "b": {"IoU": 30.0}, "c": {"IoU": None}}
    figure = charts.draw_classes(table, "IoU")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]
    assert [bar.get_width() for bar in axes.patches] == [30.0, 10.0]
    assert "mean of 2 classes, 20.0; 1 classes do not occur" in figure.get_supxlabel()
    assert len(charts.draw_classes({str(i): {"IoU": 1.0} for i in range(150)}, "IoU").axes) == 4
    with pytest.raises(ValueError, match="no class"):
        charts.draw_classes({"c": {"IoU": None}}, "IoU")


def test_of_many_classes_the_most_confused_are_shown():
    counts = np.diag([10, 10, 10, 0, 10])
    counts[4, 0] = 30
    counts[1, 2] = 2
    assert charts.confused_classes(counts, 2) == [0, 4]
    assert charts.confused_classes(counts, 9) == [0, 1, 2, 4]
    axes = charts.draw_confusion(counts, "abcde", "pixels", 2).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "e"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[100, 0], [75, 25]])


def test_precision_recall_has_a_curve_per_class_and_size():
    values = np.full((10, 101, 9, 4), -1.0)
    values[..., 0] = np.linspace(0.1, 0.9, 9)[None, None]
    values[..., 2] = 0.5
    precision = Precision(tuple("abcdefghi"), values)
    left, right = charts.draw_precision_recall({"bbox": precision}).axes
    labels = [line.get_label() for line in left.get_lines()]
    assert labels == [f"{area}, IoU {iou}: AP 50.0" for area in ("all", "medium") for iou in ("0.50", "0.75")]
    shown = [line.get_label() for line in right.get_lines() if not line.get_label().startswith("_")]
    assert [text.partition(":")[0] for text in shown] == ["i", "h", "g", "c", "b", "a", "3 classes between"]
    with pytest.raises(ValueError, match="no object"):
        charts.draw_precision_recall({"bbox": Precision(("a",), np.full((10, 101, 1, 4), -1.0))})


# ---- single predictions


def test_colours_of_classes_differ():
    for count in (3, 7, 20, 150):
        assert len(set(gallery.class_colours(count))) == count


def test_a_label_picture_shows_truth_found_and_what_is_wrong(tmp_path):
    evaluation = evaluations.segmentation(tmp_path / "e")
    picture = gallery.label_picture(evaluation, evaluation.scenes[10]).astype(int)
    parts = [picture[:, start : start + 60] for start in (0, 66, 132)]
    wall, floor = (0.3 * 128 + 0.7 * np.array(colour) for colour in gallery.class_colours(3)[:2])
    for x, truth, found, wrong in (
        (20, wall, wall, False),
        (35, floor, wall, True),
        (50, floor, floor, False),
    ):
        assert np.abs(parts[0][20, x] - truth).max() <= 1
        assert np.abs(parts[1][20, x] - found).max() <= 1
        assert (parts[2][20, x] == gallery.WRONG).all() == wrong
    assert (parts[0][2, 20] < 90).all(), "unlabelled pixels are dark"
    assert not (parts[2][2] == gallery.WRONG).all(1).any(), "unlabelled pixels are not wrong"


def test_a_moved_data_set_is_named(tmp_path):
    evaluation = evaluations.segmentation(tmp_path / "e")
    scene = {**evaluation.scenes[0], "truth": "/absent.png"}
    with pytest.raises(FileNotFoundError, match=r"/absent\.png: was the data set moved"):
        gallery.label_picture(evaluation, scene)


def store_turned(path: Path) -> None:
    """Replace an image by one that is stored at its size and shown turned: grey, its upper half white."""
    height, width = cv2.imread(str(path)).shape[:2]
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[: height // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned to the right
    Image.fromarray(pixels).save(path, exif=exif)


def test_pictures_have_the_orientation_of_their_annotations(tmp_path):
    """Training reads an image as it is stored if only that fits; turned, boxes would be elsewhere."""
    evaluation = evaluations.detection(tmp_path / "d")
    scenes = detection_errors.read_scenes(evaluation.annotations, evaluation.detections(), evaluation.classes)
    store_turned(Path(evaluation.images) / scenes.files[0])
    picture = gallery.scene_picture(evaluation, scenes, 0)
    assert picture.shape == (60, 80, 3)
    assert (picture[:30] == 255).all() and (picture[30:] == 128).all()
    upright = gallery.scene_picture(evaluation, scenes._replace(wh={0: None}), 0)
    assert upright.shape == (80, 60, 3)
    evaluation = evaluations.segmentation(tmp_path / "s")
    scene = evaluation.scenes[0]
    store_turned(Path(scene["image"]))
    wrong = gallery.label_picture(evaluation, scene)[:, 132:]  # the image in grey where nothing is wrong
    assert wrong.shape[:2] == (40, 60)
    assert (wrong[:20, :29] == 255).all() and (wrong[20:, :29] == 128).all()


def test_truth_is_read_as_the_test_reads_it(tmp_path):
    """OpenCV would turn the numbers of a palette into colours."""
    evaluation = evaluations.segmentation(tmp_path / "e")
    scene = evaluation.scenes[0]
    expected = gallery.read_truth(evaluation, scene)
    coloured = Image.fromarray(expected.astype(np.uint8), mode="P")
    coloured.putpalette([i * 7 % 256 for i in range(768)])
    coloured.save(scene["truth"])
    np.testing.assert_array_equal(gallery.read_truth(evaluation, scene), expected)


def test_mistakes_are_drawn_where_they_are(tmp_path):
    evaluation = evaluations.detection(tmp_path / "e")
    scenes = detection_errors.read_scenes(evaluation.annotations, evaluation.detections(), evaluation.classes)
    wrong = detection_errors.mistakes(scenes)[:3]
    figure = gallery.draw_mistakes(evaluation, scenes, wrong)
    assert len(figure.axes) == 3
    for axes, mistake in zip(figure.axes, wrong, strict=True):
        assert "wrong place" in axes.get_title()
        corners = {(p.get_x(), p.get_width()) for p in axes.patches if hasattr(p, "get_width")}
        assert corners == {(b[0] - 0.5, b[2]) for b in (mistake.box, mistake.truth_box)}
    with pytest.raises(ValueError, match="no mistakes"):
        gallery.draw_mistakes(evaluation, scenes, [])


# ---- the command


@pytest.mark.parametrize("command", ["pr", "confusion", "classes", "worst"])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_the_command_draws_evaluations(tmp_path, capsys, plot_tool, command, task):
    getattr(evaluations, task)(tmp_path / "e")
    if (command, task) == ("pr", "segmentation"):
        with pytest.raises(SystemExit):
            plot_tool(command, tmp_path / "e")
        assert capsys.readouterr().err.startswith("error: ")
        return
    plot_tool(command, tmp_path / "e", "-o", tmp_path / "out" / "x")
    assert drawn(tmp_path / "out" / "x.png").shape[0] > 100
    text = (tmp_path / "out" / "x.svg").read_text()
    assert text.startswith("<?xml") and text.rstrip().endswith("</svg>")


def test_the_command_draws_cost_and_curves_and_explains(tmp_path, capsys, plot_tool):
    plot_tool("cost", "cascade", "--results", tmp_path, "-o", tmp_path / "cost.png")
    assert has_colour(drawn(tmp_path / "cost.png"), colour_of(0))
    first = (tmp_path / "cost.png").read_bytes()
    plot_tool("cost", "cascade", "--results", tmp_path, "-o", tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes() == first, "the same records give the same file"
    for arguments in (("curves", tmp_path), ("classes", tmp_path)):
        with pytest.raises(SystemExit) as ended:
            plot_tool(*arguments)
        assert ended.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
