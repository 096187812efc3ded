"""Write a run's weights for others, as a folder in the layout of the Hugging Face Hub.

The folder holds model.safetensors, replay_buffer.safetensors, config.json with the settings that rebuild the model, the
samples as grid.png, and README.md, a model card whose numbers come from the run's metrics. `mebm.load` reads it, and
energies come back bit for bit. A suite's imported run of it (`checkpoint: FOLDER`) has the same weights and chains with
`weights: {bn_images: 0, sgld_steps: 0}`; else BatchNorm's statistics are estimated anew and the chains move.

    python -m mebm export mjem_mnist
    hf upload YOU/mjem_mnist results/export/mjem_mnist --exclude ".mebm.*"
"""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mebm.errors import ParamsError, listed, shown
from mebm.files import owning, read_json, replacing, require, sha256, write_text
from mebm.settings.entries import Run
from mebm.settings.schema import Compute, Dataset, Train, Weights
from mebm.settings.suite import Params, load_params

if TYPE_CHECKING:  # it needs torch, without which the command's help is shown
    from mebm.training.checkpoint import Checkpoint

LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="RUN", help="name of a run of the suite in use")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder to write (results/export/RUN)")
    parser.add_argument(
        "--ema-decay", type=float, metavar="D", help="averaged weights of this decay (the last weights)"
    )
    text = "of the weights, as the Hub names it (mit; an import that this suite did not train needs one)"
    parser.add_argument("--licence", metavar="ID", help=text)


def run(args: argparse.Namespace) -> None:
    settings = load_params("params.yaml")
    if args.name not in settings.runs:
        raise ParamsError(
            f"{settings.path}: no run {shown(args.name)} in the suite {settings.suite!r}; known: "
            f"{listed(settings.runs)}"
        )
    chosen, licence = settings.runs[args.name], args.licence
    if licence is None:
        if chosen.checkpoint is not None and chosen.made_from is None:
            raise ParamsError(
                f"--licence: is missing, expected the one that the weights of {shown(chosen.checkpoint)} came with, "
                "since this suite did not train them"
            )
        licence = "mit"
    if not LICENCE.fullmatch(licence):
        raise ParamsError(f"--licence: is {shown(licence)}, expected an identifier such as mit or cc-by-nc-4.0")
    if args.ema_decay is not None and not 0 < args.ema_decay < 1:
        raise ParamsError(
            f"--ema-decay: is {args.ema_decay:g}, expected a number between 0 and 1, one of the run's train.ema_decays"
        )
    out = args.out or Path("results") / "export" / args.name
    _export(settings, chosen, out, args.ema_decay, licence)
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
    if decay is None:
        checkpoint = load_checkpoint(path)
        weights = run.of(Weights) if _went_through(run, checkpoint) else None
    else:
        checkpoint, weights = _averaged(run, path, decay)
    # as many as `validation_split` leaves
    trained_on = manifest["counts"]["train"] - checkpoint.train["validation_images"]
    model = Model(
        name=run.name,
        method=run.method,
        title=dataset.title,
        source=dataset.of(Dataset).source,
        data_licence=str(manifest.get("licence", "unknown")),
        licence=licence,
        weights=_in_words(run, checkpoint, weights, trained_on),
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


def _averaged(run: Run, path: Path, decay: float) -> "tuple[Checkpoint, Weights]":
    """The checkpoint of its average that an import would have, and the section `weights` by which it is made."""
    from mebm.data.images import load_images
    from mebm.training.checkpoint import load_checkpoint
    from mebm.training.choice import Maker
    from mebm.training.devices import device_for

    found, data, compute = load_checkpoint(path), Path("data") / run.dataset, run.of(Compute)
    # as the file says it was trained: the run's settings may have changed since
    train = Train.model_validate(dict(found.train))
    weights = run.of(Weights).model_copy(update={"choose": "last", "ema_decay": decay})
    images = load_images(data / "train.npz", found.shape)
    maker = Maker(weights, train, images, data / "features.pt", device_for(compute), compute.eval_batch_size)
    return maker.make(path), weights


def _went_through(run: Run, checkpoint: "Checkpoint") -> bool:
    """Whether the run's section `weights` was applied: to every import but a file of the public release.

    Such a file does not tell its iterations; nor does what was made of one, so there the file itself has to be read.
    Raises CheckpointError, or DataError, where that cannot be done.
    """
    from mebm.training.checkpoint import is_ours
    from mebm.training.choice import one_of
    from mebm.training.reading import read_record

    if run.checkpoint is None or checkpoint.iterations:
        return run.checkpoint is not None
    return is_ours(read_record(one_of(run.checkpoint, run.of(Weights)), "get it again"))


def _in_words(run: Run, checkpoint: "Checkpoint", weights: Weights | None, trained_on: int) -> str:
    """Which weights of a training these are, and what was done to them, for the card.

    weights: the section that was applied, None where they are as they were; trained_on: images of the training.
    """
    choice, said = checkpoint.choice or {}, []
    decay = (weights and weights.ema_decay) or choice.get("ema_decay")
    what = f"exponential moving averages of its weights, of decay {decay:g}" if decay else "the weights"
    if choice:
        by = {"accuracy": "accuracy on", "quality": "Frechet distance of the chains to"}.get(choice["by"])
        best = f", the best of those kept by {by} training images that were held out" if by else ""
        said.append(
            f"These are {what}{',' if decay else ''} after epoch {choice['epoch']} of {choice['epochs']}{best}."
        )
    elif decay:
        said.append(f"These are {what}.")
    elif run.checkpoint is None or run.made_from is not None:
        said.append(f"These are {what} of its last iteration.")
    elif checkpoint.iterations:
        said.append("They were imported from elsewhere, and which weights of their training they are was not told.")
    done = []
    if weights and weights.bn_images and checkpoint.train["norm"] == "batch":
        n = min(weights.bn_images, trained_on)
        done.append(f"BatchNorm's running averages were taken over {n:,} training images")
    if weights and weights.sgld_steps:
        done.append(f"the chains moved by {weights.sgld_steps} steps")
    if done:
        said.append(f"After training, {', and '.join(done)}.")
    return " ".join(said)
