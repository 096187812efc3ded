"""Does a run memorise? Samples of its replay buffer beside the closest training images, in pixels and in features.

Writes metrics.json, figures/pixels.svg and figures/features.svg.
"""

import sys
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mebm.analyses.neighbours import compare, draw, nearest, pixel_chunks
from mebm.data.images import load_images, unit_to_bytes
from mebm.errors import DataError, ParamsError
from mebm.figures.plots import figure
from mebm.files import sha256, write_json
from mebm.measure.features import load_network, stream
from mebm.seeds import choice
from mebm.settings.stages import AnalysisSettings
from mebm.training.checkpoint import load_checkpoint
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.analysis(
        "neighbours",
        __doc__,
        argv,
        checkpoint="checkpoint of the run",
        train="archive of training images",
        features="feature network",
    )
    return cli.execute(parser, argv, work, lambda _: ("metrics.json", "figures/pixels.svg", "figures/features.svg"))


def work(args, settings: AnalysisSettings) -> None:
    device, wanted = cli.device_for(settings.compute), settings.neighbours
    checkpoint = load_checkpoint(args.checkpoint)
    train = load_images(args.train, checkpoint.shape)
    network = load_network(args.features, device)
    if network.channels not in (None, train.shape[0]):
        raise DataError(f"{args.features}: is for other images than {args.train}; run the features stage")
    if len(train) <= wanted.n_neighbours:
        raise ParamsError(
            f"neighbours.n_neighbours: is {wanted.n_neighbours}, expected less than the {len(train)} training images"
        )
    chosen = choice(len(checkpoint.replay_buffer), wanted.n_samples, "neighbours: samples", wanted.seed)
    others = choice(len(train), wanted.n_references, "neighbours: references", wanted.seed)
    samples = unit_to_bytes(checkpoint.replay_buffer[chosen])
    queries, n = torch.cat([samples, train.images[others]]), len(samples)
    own = torch.cat([torch.full((n,), -1), others])
    batch_size = settings.compute.eval_batch_size

    record = {"status": "ok", "seed": wanted.seed, "n_neighbours": wanted.n_neighbours, "n_samples": n}
    record |= {"n_references": len(others), "n_train": len(train), "preprocessing": network.preprocessing}
    for name in ("checkpoint", "train", "features"):
        record[f"{name}_sha256"] = sha256(getattr(args, name))
    spaces = {"pixels": "Euclidean, of images in [0, 1]", "features": f"Euclidean, of the features of {network.title}"}
    results = {}
    for space, meaning in spaces.items():
        if space == "pixels":
            rows, chunks = queries.flatten(1), pixel_chunks(train.images, len(queries))
        else:
            rows = torch.cat([features for features, _ in stream(network, queries, batch_size)])
            chunks = (features for features, _ in stream(network, train.images, batch_size))
        distances, found = nearest(rows.to(device), _watched(space, chunks, len(train)), wanted.n_neighbours, own)
        if space == "pixels":
            distances /= 255
        record[space] = {"distance": meaning, **compare(distances[:n, 0], distances[n:, 0])}
        results[space] = distances[:n], found[:n]

    for space, (distances, found) in results.items():
        typical = record[space]["references"]
        images = torch.cat([samples[:, None], train.images[found]], 1)
        size = (0.7 * images.shape[1] + 0.3, 0.8 * n + 0.7)
        with figure(args.out / "figures" / f"{space}.svg", size=size) as axes:
            draw(axes, images, distances, typical["quantile_1"])
            title = f"framed: sample, beside it its nearest training images\ndistance: {spaces[space]}\n"
            title += f"training images to the nearest other one: median {typical['median']:#.3g}, "
            title += f"1 % below {typical['quantile_1']:#.3g} (here in red)"
            axes.set_title(title, fontsize=7)
        mean, copies = record[space]["samples"]["mean"], record[space]["copies"]
        line = "%s, %s: nearest training image at %.3g on average (%.3g for training images), %d copies of %d"
        cli.log.info(line, settings.name, space, mean, typical["mean"], copies, n)
    write_json(args.out / "metrics.json", {**record, "provenance": cli.provenance()})


def _watched(label: str, chunks: Iterable[Tensor], n: int) -> Iterator[Tensor]:
    """The chunks, with progress: the features of a large set take hours without a GPU."""
    show, done = cli.progress(label), 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        show(done, n, "training images")


if __name__ == "__main__":
    sys.exit(main())
