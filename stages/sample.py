"""Take the images whose quality is measured from a run's replay buffer.

Writes images/<protocol>.npz, manifest.json, and grid.png with the first chains.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from mebm.data.archives import save_images
from mebm.data.images import unit_to_bytes
from mebm.errors import ParamsError
from mebm.figures.grids import save_grid
from mebm.files import sha256, write_json
from mebm.measure.selection import class_probabilities, select
from mebm.settings.schema import release_ratio
from mebm.settings.stages import SampleSettings
from mebm.training.checkpoint import load_checkpoint
from mebm.training.state import discard
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("sample", __doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return cli.execute(parser, argv, work, makes)


def makes(settings: SampleSettings) -> list[str]:
    """Files that the stage makes."""
    return ["manifest.json", "grid.png", *(f"images/{protocol}.npz" for protocol in settings.sample.protocols)]


def work(args, settings: SampleSettings) -> None:
    discard(settings.name, args.state)  # the checkpoint is recorded, so saved states are no longer needed
    checkpoint = load_checkpoint(args.checkpoint, cli.device_for(settings.compute))
    chains, head_is_trained = checkpoint.replay_buffer, checkpoint.train["pyx_weight"] > 0
    probabilities = class_probabilities(checkpoint.model, chains, settings.compute.eval_batch_size)
    predicted = probabilities.argmax(1)
    manifest = {"source": "replay buffer", "buffer_size": len(chains), "seed": checkpoint.train["seed"]}
    manifest |= {"iterations": checkpoint.iterations, "restarts": checkpoint.restarts}
    manifest |= {"checkpoint_sha256": sha256(args.checkpoint), "protocols": {}, "provenance": cli.provenance()}
    manifest |= {"choice": checkpoint.choice} if checkpoint.choice else {}
    chosen = {name: _chosen(name, probabilities, head_is_trained, settings) for name in settings.sample.protocols}
    for protocol, (kept, record) in chosen.items():
        images = unit_to_bytes(chains[kept], record["rounding"])
        path = args.out / "images" / f"{protocol}.npz"
        save_images(path, images.numpy(), predicted[kept].numpy() if head_is_trained else None)
        if head_is_trained:
            shares = torch.bincount(predicted[kept], minlength=checkpoint.n_classes).double() / len(kept)
            record["class_shares_of_model"] = [round(float(share), 6) for share in shares]
        manifest["protocols"][protocol] = {**record, "n_images": len(images), "images_sha256": sha256(path)}
        cli.log.info("%s, protocol %s: %d images", settings.name, protocol, len(images))
    write_json(args.out / "manifest.json", manifest)
    columns = settings.plots.grid_columns
    save_grid(args.out / "grid.png", unit_to_bytes(chains[: columns * settings.plots.grid_rows]), columns)


def _chosen(
    protocol: str, probabilities: Tensor, head_is_trained: bool, settings: SampleSettings
) -> tuple[Tensor, dict]:
    """What `select` gives. Raises ParamsError for a protocol that the run's images do not allow."""
    where = f"sample.protocols of {settings.name} has {protocol}"
    if release_ratio(protocol) is not None and probabilities.shape[1] < 2:
        raise ParamsError(
            f"{where}, which selects by predicted class, but the data set has no labels; use full instead"
        )
    kept, record = select(protocol, probabilities, head_is_trained)
    if len(kept) < 2:
        raise ParamsError(f"{where}, which keeps {len(kept)} images, expected 2 at least; keep more")
    return kept, record


if __name__ == "__main__":
    sys.exit(main())
