"""Take the images that are scored from a run's replay buffer: images.npz, manifest.json and grid.png."""

import sys
from pathlib import Path

import torch

from mebm.checkpoint import load_checkpoint
from mebm.data import save_images, unit_to_bytes
from mebm.errors import ParamsError
from mebm.files import sha256, write_json
from mebm.generation import class_probabilities, select_by_class
from mebm.images import save_grid
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("sample", __doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return cli.execute(parser, argv, work)


def work(args, settings) -> None:
    keep_ratio, rounding = settings.sample.keep_ratio, settings.sample.rounding
    checkpoint = load_checkpoint(args.checkpoint, cli.device_for(settings.compute))
    has_classifier = checkpoint.train["pyx_weight"] > 0
    if keep_ratio is not None and not has_classifier:
        raise ParamsError(
            f"runs.{settings.name}.sample.keep_ratio is {keep_ratio}, but the run trained no classifier "
            "(pyx_weight 0), so a selection by class means nothing; set it to null"
        )
    chains = checkpoint.replay_buffer
    record = {"source": "replay buffer", "buffer_size": len(chains), "keep_ratio": keep_ratio, "rounding": rounding}
    kept, labels = torch.arange(len(chains)), None
    if has_classifier:
        probabilities = class_probabilities(checkpoint.model, chains, settings.compute.eval_batch_size)
        kept = kept if keep_ratio is None else select_by_class(probabilities, keep_ratio)
        labels = probabilities[kept].argmax(1)
        shares = torch.bincount(labels, minlength=checkpoint.n_classes).double() / max(len(kept), 1)
        record["class_shares"] = [round(float(share), 6) for share in shares]
    if len(kept) < 2:
        raise ParamsError(f"runs.{settings.name}.sample.keep_ratio is {keep_ratio}, which keeps {len(kept)} images")
    images = unit_to_bytes(chains[kept], rounding)
    save_images(args.out / "images.npz", images.numpy(), None if labels is None else labels.numpy())
    record |= {"n_images": len(images), "seed": checkpoint.train["seed"], "iterations": checkpoint.iterations}
    record |= {"checkpoint_sha256": sha256(args.checkpoint), "images_sha256": sha256(args.out / "images.npz")}
    write_json(args.out / "manifest.json", record)
    plots = settings.plots
    shown = images[: plots.grid_columns * plots.grid_rows]
    save_grid(args.out / "grid.png", shown, plots.grid_columns)
    cli.log.info("%s: %d images", settings.name, len(images))


if __name__ == "__main__":
    sys.exit(main())
