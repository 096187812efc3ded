"""Write a run's weights for others, as a folder in the layout of the Hugging Face Hub.

The folder holds model.safetensors, replay_buffer.safetensors, config.json with the settings that rebuild the model, the
samples as grid.png, and README.md, a model card whose numbers come from the run's metrics. `mebm.load` reads it, and
energies come back bit for bit; so does a suite's imported run (`checkpoint: FOLDER`).

    python -m mebm export mjem_mnist
    hf upload YOU/mjem_mnist results/export/mjem_mnist --exclude ".mebm.*"
"""

import argparse
import re
from pathlib import Path

from mebm.errors import ParamsError, listed, shown
from mebm.files import owning, read_json, replacing, require, sha256, write_text
from mebm.settings.entries import Run
from mebm.settings.schema import Compute, Dataset, Weights
from mebm.settings.suite import Params, load_params

LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="RUN", help="name of a run of the suite in use")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder to write (results/export/RUN)")
    parser.add_argument(
        "--ema-decay", type=float, metavar="D", help="averaged weights of this decay (the last weights)"
    )
    parser.add_argument(
        "--licence", default="mit", metavar="ID", help="of the weights, as the Hub names it (%(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    settings = load_params("params.yaml")
    if args.name not in settings.runs:
        raise ParamsError(
            f"{settings.path}: no run {shown(args.name)} in the suite {settings.suite!r}; known: "
            f"{listed(settings.runs)}"
        )
    if not LICENCE.fullmatch(args.licence):
        raise ParamsError(f"--licence: is {shown(args.licence)}, expected an identifier such as mit or cc-by-nc-4.0")
    if args.ema_decay is not None and not 0 < args.ema_decay < 1:
        raise ParamsError(
            f"--ema-decay: is {args.ema_decay:g}, expected a number between 0 and 1, one of the run's train.ema_decays"
        )
    out = args.out or Path("results") / "export" / args.name
    _export(settings, settings.runs[args.name], out, args.ema_decay, args.licence)
    print(f"{out}: {sum(path.stat().st_size for path in out.iterdir()) / 1e6:.1f} MB")


def _export(settings: Params, run: Run, out: Path, decay: float | None, licence: str) -> None:
    from mebm.data.archives import Manifest
    from mebm.show.card import Model, measured, model_card
    from mebm.training.checkpoint import load_checkpoint
    from mebm.training.hub import FILES, write_exported

    folder, data = Path("results") / run.name, Path("data") / run.dataset
    path = require(folder / "train" / "checkpoint.pt")
    manifest = read_json(data / "manifest.json", Manifest)
    dataset = settings.datasets[run.dataset]
    records = {} if decay is not None else measured(folder, sha256(path))
    said = "These are the weights of its last iteration."
    if decay is None:
        checkpoint = load_checkpoint(path)
    else:
        checkpoint, said = _averaged(run, path, decay)
    model = Model(
        name=run.name,
        method=run.method,
        title=dataset.title,
        source=dataset.of(Dataset).source,
        data_licence=str(manifest.get("licence", "unknown")),
        licence=licence,
        weights=said,
        iterations=checkpoint.iterations,
        evaluate_on=dataset.of(Dataset).evaluate_on,
    )
    card, grid = model_card(model, records), folder / "sample" / "grid.png"
    if records:  # the picture is of the same chains as the numbers
        card += f"\n![The first chains of the replay buffer]({grid.name})\n"
        require(grid)
    with owning(out, f"export {run.name}", [*FILES, "README.md", *([grid.name] if records else [])]):
        write_exported(out, checkpoint, method=run.method, dataset=model.source, labels=manifest["labels"])
        if records:
            with replacing(out / grid.name) as temporary:
                temporary.write_bytes(grid.read_bytes())
        write_text(out / "README.md", card)


def _averaged(run: Run, path: Path, decay: float) -> tuple:
    """The checkpoint with its average, made fit for use as an imported run's is, and what that was in words."""
    from mebm.data.images import load_images
    from mebm.data.validation import validation_split
    from mebm.training.averages import settled, with_average
    from mebm.training.checkpoint import load_checkpoint
    from mebm.training.devices import device_for

    checkpoint = with_average(load_checkpoint(path, device_for(run.of(Compute))), decay, path)
    data = load_images(Path("data") / run.dataset / "train.npz", checkpoint.shape)
    trained_on, _ = validation_split(data, checkpoint.train["validation_images"])
    weights = run.of(Weights).model_copy(update={"ema_decay": decay})
    return settled(checkpoint, weights, trained_on), (
        f"These are exponential moving averages of its weights, of decay {decay:g}. BatchNorm's running averages were "
        f"taken over {min(weights.bn_images, len(trained_on)):,} training images, and the chains moved by "
        f"{weights.sgld_steps} steps."
    )
