"""Predict on your own images: pictures and predictions.json; or name what they show (--classify)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from convnext_dense.checkpoints.classify import best_guesses, class_names, load_classifier, read_image
from convnext_dense.export.outputs import find_images
from convnext_dense.mm.apis.predict import Predictor, image_suffixes, predict_images
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.engine.options import ENGINE_NAMES, Entries, add_inference, add_traceback
from convnext_dense.mm.engine.runner import select_device
from convnext_dense.mm.errors import one_line_errors
from convnext_dense.support.files import free_path


def predict(args: argparse.Namespace) -> None:
    """Predict detections or label maps with a config's model."""
    select_device(args.device)
    cfg = load_config(args.config, args.cfg_options)
    images = find_images(args.images, image_suffixes(cfg))
    predictor = Predictor(cfg, args.checkpoint, args.fuse, args.dtype, ENGINE_NAMES[args.engine])
    out = Path(args.out) if args.out else free_path(Path("predictions"))
    bar = tqdm(predict_images(predictor, images, out, args.score_thr), total=len(images))
    left_out = [(image, reason) for image, reason in bar if reason]
    for image, reason in left_out:
        print(f"left out {image}: {reason}")
    print(f"{len(images) - len(left_out)} pictures and predictions.json in {out}")
    raise SystemExit(1 if len(left_out) == len(images) else 0)


def classify(args: argparse.Namespace) -> None:
    """Print the best guesses of an ImageNet classifier, from a checkpoint of any code base."""
    model, line = load_classifier(args.checkpoint)
    print(line)
    names = class_names(args.checkpoint, args.classes)
    for path in args.classify:
        print(path)
        for guess in best_guesses(model, read_image(path, args.size), names):
            print(f"  {guess.probability:6.1%}  {guess.name or ''} (class {guess.index})")


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__)
    if "--classify" in argv:
        parser.add_argument("checkpoint", help="file, URL, timm:NAME or hf:REPO of a classifier")
        parser.add_argument("--classify", action="append", required=True, metavar="IMAGE")
        parser.add_argument("--size", type=int, default=224, help="side of the input (default: 224)")
        parser.add_argument("--classes", metavar="FILE", help="names by index: a JSON list, or one per line")
        run = classify
    else:
        parser.add_argument("config", help="path of a config, or a recipe's name")
        parser.add_argument("checkpoint", help="file that training wrote, or MODEL.onnx")
        parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER")
        parser.add_argument("--out", metavar="DIR", help="default: predictions, or predictions_2, ...")
        parser.add_argument("--score-thr", type=float, default=0.3, help="detections kept (default: 0.3)")
        parser.add_argument(
            "--device", metavar="NAME", help="cpu, cuda, cuda:N or mps (default: the best there is)"
        )
        parser.add_argument("--cfg-options", nargs="+", action=Entries, metavar="KEY=VALUE")
        add_inference(parser)
        # listed for the help; if it is given, the parser above reads the command
        parser.add_argument(
            "--classify", metavar="IMAGE", help="name what IMAGE shows: --classify IMAGE CHECKPOINT"
        )
        run = predict
    add_traceback(parser)
    args = parser.parse_args(argv)
    with one_line_errors(args.traceback):
        run(args)
