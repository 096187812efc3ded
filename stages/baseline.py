"""Score the baselines of a run: draws of the initial distributions, and held-out real images (the floor).

The initial distribution by classes only where gaussian.classwise has its Gaussians fitted.
"""

import sys
from pathlib import Path

import torch

from mebm.data.images import load_images, unit_to_bytes
from mebm.figures.grids import save_grid
from mebm.files import sha256, write_json
from mebm.measure.quality import QualityMeter
from mebm.method.gaussian import load_init
from mebm.seeds import choice, generator_for
from mebm.settings.checks import BASELINES
from mebm.settings.stages import BaselineSettings
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("baseline", __doc__)
    parser.add_argument("--test", type=Path, required=True, help="archive of held-out images")
    parser.add_argument("--gaussian", type=Path, required=True, help="statistics of the initial distribution")
    parser.add_argument("--features", type=Path, required=True, help="feature network")
    parser.add_argument("--reference", type=Path, required=True, help="feature statistics of the training images")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    names = [f"{name}.{suffix}" for name in BASELINES for suffix in ("json", "png")]
    return cli.execute(parser, argv, work, lambda _: names)


def work(args, settings: BaselineSettings) -> None:
    device = cli.device_for(settings.compute)
    meter = QualityMeter(args.features, args.reference, device, settings.compute.eval_batch_size)
    test = load_images(args.test, meter.shape, allow_empty=True)
    n, seed = settings.baseline.n_images, settings.baseline.seed
    none = torch.empty(0, *meter.shape, dtype=torch.uint8)

    def draws(kind: str) -> torch.Tensor:
        init = load_init(kind, args.gaussian, meter.shape)
        return unit_to_bytes(init.to("cpu").sample(n, generator_for("baseline draws", seed)))

    order = choice(len(test), n, "held-out images", seed)
    plots, quality = settings.plots, settings.quality
    for name, source, images, reason in (
        ("initial", args.gaussian, draws("gaussian"), ""),
        ("classwise", args.gaussian, draws("classwise") if settings.gaussian.classwise else none, "not fitted"),
        ("heldout", args.test, test.images[order], "no held-out images: all train"),
    ):
        if len(images):
            record = meter.measure(images, quality.score_splits, quality.permutation_seed, quality.neighbours)
            cli.log.info("%s, %s: %s", settings.name, name, meter.headline(record))
        else:
            record = meter.missing(reason)
            images = torch.zeros(1, *meter.shape, dtype=torch.uint8)  # a black picture
        write_json(
            args.out / f"{name}.json",
            {
                **record,
                "seed": seed,
                "source_sha256": sha256(source),
                "versions": cli.packages(),
                "provenance": cli.provenance(),
            },
        )
        save_grid(args.out / f"{name}.png", images[: plots.grid_columns * plots.grid_rows], plots.grid_columns)


if __name__ == "__main__":
    sys.exit(main())
