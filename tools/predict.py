"""Predict on one's own images: pictures and predictions.json."""

import argparse
from pathlib import Path

from mmengine.config import DictAction
from tqdm import tqdm

from convnext_dense.mm.errors import one_line_errors
from convnext_dense.mm.predict import Predictor, find_images, predict_images
from convnext_dense.mm.runtime import load_config, select_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="path of a config, or a recipe's name")
    parser.add_argument("checkpoint", help="file that training wrote")
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER")
    parser.add_argument("--out", default="predictions", metavar="DIR", help="default: predictions")
    parser.add_argument("--score-thr", type=float, default=0.3, help="detections kept (default: 0.3)")
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:N or mps (default: the best there is)"
    )
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    args = parser.parse_args()
    with one_line_errors():
        select_device(args.device)
        images = find_images(args.images)
        predictor = Predictor(load_config(args.config, args.cfg_options), args.checkpoint)
        bar = tqdm(predict_images(predictor, images, Path(args.out), args.score_thr), total=len(images))
        left_out = [(image, reason) for image, reason in bar if reason]
    for image, reason in left_out:
        print(f"left out {image}: {reason}")
    print(f"{len(images) - len(left_out)} pictures and predictions.json in {args.out}")
    raise SystemExit(1 if len(left_out) == len(images) else 0)


if __name__ == "__main__":
    main()
