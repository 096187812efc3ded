"""Values that are valid alone but not together: sizes of data, batches and buffers, memory, names of rows.

Pure functions of sections of the parameter file, called before any work starts. Each yields what is wrong, the key
first ("train.buffer_size: is 10, expected ..."); nothing where all is well. What is not known before the data are read
(how many pictures a folder holds) is left to the stage that reads them.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mebm import sources
from mebm.epochs import kept_epochs
from mebm.errors import listed, named, shown
from mebm.settings.entries import Entry, Run
from mebm.settings.schema import (
    DECISIVE,
    Baseline,
    Compute,
    Dataset,
    Embedding,
    Features,
    Gaussian,
    Generate,
    Neighbours,
    Ood,
    Plots,
    Quality,
    Sample,
    Train,
    Weights,
    release_ratio,
)

# Rows of tables beside those of methods, and the names of their records
INITIAL, CLASSWISE, HELDOUT = "initial distribution", "initial distribution by classes", "held-out real images"
BASELINES = {"initial": INITIAL, "classwise": CLASSWISE, "heldout": HELDOUT}
MEMORY_LIMIT = 2**40  # bytes, 1 TiB: more cannot be
RELEASE_IMAGES = 10_000  # of mebm/measure/selection.py, without PyTorch


# ---------------------------------------------------------------- data sets


@dataclass(frozen=True)
class Size:
    """What is known of a data set before it is read; None where it is not.

    train, held_out: images of each part as the stage `dataset` will write it (of a folder: the most that can be);
    classes: 0 without labels.
    """

    channels: int
    side: int
    train: int | None
    held_out: int | None
    classes: int | None

    @property
    def pixels(self) -> int:
        """Numbers of an image."""
        return self.channels * self.side**2


def size(dataset: Dataset) -> Size:
    """The size of a data set, as far as its source tells before it is read."""
    about = sources.about(dataset.source)
    published = about.counts
    train = dataset.n_source or published.get("train")
    held_out = None if dataset.n_source else published.get("test")  # a set of another size has another test part, too
    if not about.can_have_test:
        held_out, train = dataset.n_test, train - dataset.n_test
    if dataset.evaluate_on == "validation":
        held_out, train = dataset.n_validation, train and train - dataset.n_validation
    return Size(about.channels, dataset.image_size, train, held_out, about.classes)


def of_dataset(dataset: Dataset) -> Iterator[str]:
    """What is wrong with the section `dataset` alone."""
    source, about = dataset.source, sources.about(dataset.source)
    published, classes = about.counts, about.classes or 1
    if about.sides is not None and dataset.image_size not in about.sides:
        sides = " or ".join(map(str, about.sides))
        yield f"dataset.image_size: is {dataset.image_size}, but {source} comes in {sides} pixels"
    if about.from_folder and not dataset.path:
        yield "dataset.path: is missing, expected the folder of pictures"
    for key in ("urls", "checksums"):
        known = [file.name for name in sources.names() for file in sources.about(name).files]
        if unknown := [name for name in getattr(dataset, key) if name not in known]:
            yield f"dataset.{key}.{named(unknown[0])}: no published file has this name; known: {listed(known)}"
    left = dataset.n_source or published.get("train")
    if about.in_package and left != published["train"]:
        yield f"dataset.n_source: is {left}, but {source} holds {published['train']} images; set it to null"
    parts = {} if about.can_have_test else {"n_test": dataset.n_test}
    parts |= {"n_validation": dataset.n_validation} if dataset.evaluate_on == "validation" else {}
    for key, n in parts.items():
        if n and n < classes:
            yield f"dataset.{key}: is {n}, expected at least one image of each of the {classes} classes of {source}"
        if n and left is not None and left - n < classes:
            yield (
                f"dataset.{key}: is {n} of the {left} images of {source}, expected at most {max(left - classes, 0)}, "
                "so that some are left to train on" + (" in every class" if classes > 1 else "")
            )
        left = None if left is None else left - n


def of_data_jobs(entry: Entry, data: Size) -> Iterator[str]:
    """What is wrong with the sections of a data set's stages, features, baseline and quality, and the set's size."""
    dataset, features, baseline, quality = entry.of(Dataset), entry.of(Features), entry.of(Baseline), entry.of(Quality)
    side = data.side
    block = tile(side)
    if side % block:
        yield (
            f"dataset.image_size: is {side}, expected a multiple of {block}, over whose blocks of pixels the Gaussian "
            "of images of this size is fitted"
        )
    for what, n in (("baseline.n_images", baseline.n_images), ("held-out images", data.held_out)):
        if n and n < quality.score_splits:
            yield (
                f"quality.score_splits: is {quality.score_splits}, expected at most {n} ({what}), which are scored "
                "in so many parts"
            )
    if data.held_out == 1:
        yield f"{_held_out_key(dataset)}: is 1, expected at least 2 images, to measure their quality, or 0"
    noise = 8 * data.pixels * baseline.n_images
    yield from _fits({"baseline.n_images": (baseline.n_images, "the draws of the initial distribution", noise)})
    if entry.of(Gaussian).classwise and data.classes == 0:
        yield f"gaussian.classwise: is true, but {dataset.source} has no labels; set it to false"
    if features.network != "classifier":
        return
    if data.classes == 0:
        yield (
            f"features.network: is 'classifier', but {dataset.source} has no labels to train one with; set it to "
            "inception"
        )
    if data.held_out is not None and data.held_out < 2:
        yield (
            f"{_held_out_key(dataset)}: is {data.held_out}, expected some held-out images for the classifier of "
            "features.network; hold some out, or set that to inception"
        )
    yield from _padding("features", features.augment_pad, side)
    yield from _enough("features.batch_size", features.batch_size, data)
    width = features.width
    weights = 16 * (9 * width * (data.channels + 6 * width) + 2 * width * (data.classes or 0))
    covariance = 16 * (2 * width) ** 2
    what = "the classifier and the covariance of its features"
    yield from _fits({"features.width": (width, what, weights + covariance)})


def _held_out_key(dataset: Dataset) -> str:
    return "dataset.n_validation" if dataset.evaluate_on == "validation" else "dataset.n_test"


def _padding(section: str, pad: int, side: int) -> Iterator[str]:
    if pad >= side:
        yield f"{section}.augment_pad: is {pad}, expected less than the {side} pixels of an image, which it mirrors"


def _enough(key: str, batch_size: int, data: Size) -> Iterator[str]:
    if data.train is not None and batch_size > data.train:
        yield f"{key}: is {batch_size}, expected at most the {data.train} training images"


def tile(side: int) -> int:
    """Side of the Gaussian's blocks: mebm.method.gaussian.block_size without PyTorch, whose import takes seconds."""
    return next(block for limit, block in ((63, 1), (99, 2), (256, 4), (512, 8), (1024, 16)) if side <= limit)


# ---------------------------------------------------------------- runs


def of_train(train: Train) -> Iterator[str]:
    """What is wrong with the section `train` alone."""
    if train.px_weight == 0 and train.pyx_weight == 0:
        yield "train: px_weight and pyx_weight are both 0, so there is nothing to train"
    if (train.depth - 4) % 6:
        yield f"train.depth: is {train.depth}, expected 6n + 4 (10, 16, 22, 28, ...)"
    words = set(train.execution.split("+"))
    if words & {"graph", "paired"} and (train.dropout or train.norm == "actnorm"):
        what = "dropout" if train.dropout else "norm: actnorm"
        yield f"train.execution: is {train.execution}, which does not go with {what}; set it to auto, eager or compile"
    if "paired" in words and train.sync_batchnorm:
        yield f"train.execution: is {train.execution}, which does not go with sync_batchnorm; leave paired out of it"
    if train.decay_epochs != sorted(set(train.decay_epochs)):
        yield f"train.decay_epochs: is {shown(train.decay_epochs)}, expected rising epochs"


def of_run(run: Run, data: Size) -> Iterator[str]:
    """What is wrong with the sections of a run that is trained here: train, sample and quality, with its data."""
    train, sample, quality = run.of(Train), run.of(Sample), run.of(Quality)
    if (held_out := train.validation_images) and data.train is not None:
        least = max(data.classes or 0, 2)
        if not least <= held_out <= data.train - least:
            yield (
                f"train.validation_images: is {held_out}, expected 0, or {least} to {data.train - least} of the "
                f"{data.train} training images, so that both parts have some of every class"
            )
        data = replace(data, train=data.train - held_out)
    if train.px_weight and train.buffer_size < train.batch_size:
        yield (
            f"train.buffer_size: is {train.buffer_size}, expected at least train.batch_size ({train.batch_size}): the "
            "chains of a batch are drawn from it"
        )
    for key in ("batch_size", "label_batch_size"):
        yield from _enough(f"train.{key}", getattr(train, key), data)
    if train.pyx_weight:
        yield from _padding("train", train.augment_pad, data.side)
        if data.classes == 0:
            yield f"train.pyx_weight: is {train.pyx_weight:g}, expected 0: the data set has no labels"
    chains = train.buffer_size
    if quality.score_splits > chains:
        yield (
            f"quality.score_splits: is {quality.score_splits}, expected at most train.buffer_size ({chains}): a run's "
            "chains are scored in so many parts"
        )
    for protocol in sample.protocols:
        if (ratio := release_ratio(protocol)) is None or not data.classes:
            continue
        considered = min(chains, RELEASE_IMAGES)
        kept = int(considered * ratio) if ratio < 1 else min(considered, int(ratio) * data.classes)
        needed = max(2, quality.score_splits)
        if kept < needed:
            yield (
                f"sample.protocols: {protocol} keeps at most {kept} of {considered} chains, expected at least {needed} "
                "(quality.score_splits)"
            )
    yield from _fits(_training_memory(train, data))


def of_init(run: Run, dataset: Entry) -> Iterator[str]:
    """What is wrong with a run's start of chains, with the Gaussians that are fitted to its data set."""
    if run.of(Train).init == "classwise" and not dataset.of(Gaussian).classwise:
        yield f"train.init: is 'classwise', but datasets.{dataset.name} has gaussian.classwise false; set that to true"


def of_sample(sample: Sample, data: Size) -> Iterator[str]:
    """What is wrong with the protocols of a run, also of one that is imported."""
    selecting = [protocol for protocol in sample.protocols if release_ratio(protocol) is not None]
    if selecting and data.classes == 0:
        yield (
            f"sample.protocols: has {selecting[0]!r}, which selects by predicted class, but the data set has no "
            "labels; use full"
        )


def of_analyses(run: Run, data: Size, chains: int | None) -> Iterator[str]:
    """What is wrong with the sections of a run's analyses. chains: of its replay buffer, where that is known."""
    embedding, neighbours, generate, plots = run.of(Embedding), run.of(Neighbours), run.of(Generate), run.of(Plots)
    images = {"embedding.n_images": embedding.n_images, "training images": data.train, "train.buffer_size": chains}
    least, n = min(((key, n) for key, n in images.items() if n is not None), key=lambda entry: entry[1])
    for key in ("perplexity", "n_neighbours"):
        if getattr(embedding, key) >= n:
            yield f"embedding.{key}: is {getattr(embedding, key):g}, expected less than {n} ({least})"
    if data.train is not None and neighbours.n_neighbours >= data.train:
        n = neighbours.n_neighbours
        yield f"neighbours.n_neighbours: is {n}, expected less than {data.train} (training images)"
    shown_images = plots.grid_columns * plots.grid_rows
    made = -(-generate.count // generate.batch_size) * generate.batch_size  # batches are always full
    grids = (generate.steps // generate.grid_every + 2) * min(shown_images, generate.count)
    yield from _fits(
        {
            "generate.count": (generate.count, "its chains", 9 * data.pixels * made),
            "generate.grid_every": (generate.grid_every, "the grids of its chains", data.pixels * grids),
        }
    )


def of_ood(ood: Ood, compared: Sequence[str]) -> Iterator[str]:
    """What is wrong with the sets that the section `ood` names. compared: those of the suite."""
    if unknown := [name for name in ood.sets or () if name not in compared]:
        yield f"ood.sets: has {shown(unknown[0])}, expected some of compared: {listed(compared)}"


def of_devices(run: Run) -> Iterator[str]:
    """What is wrong with training on the devices asked for, each of which takes an equal share of every batch."""
    train, compute = run.of(Train), run.of(Compute)
    devices = compute.devices
    for key in ("batch_size", "label_batch_size", "buffer_size"):
        n = getattr(train, key)
        if n % devices:
            yield f"train.{key}: is {n}, expected a multiple of compute.devices ({devices}), which share it evenly"
    if devices > 1 and ":" in compute.device:
        yield f"compute.device: is {compute.device!r}, one GPU for {devices} devices; set it to cuda"


def weights(train: Train, data: Size) -> int:
    """Numbers that the network of `train` learns: mebm.method.energy.build_model, without building it."""
    n, inside = 9 * 16 * data.channels + 16, 16
    for stage in range(4 if data.side >= 64 else 3):
        out = 16 * 2**stage * train.width
        for index in range((train.depth - 4) // 6):
            n += 9 * inside * out + 9 * out * out + 2 * out + 2 * inside + 2 * out  # convolutions, norms
            n += inside * out + out if (stage and index == 0) or inside != out else 0  # shortcut
            inside = out
    return n + 2 * inside + inside + 1 + max(data.classes or 0, 1) * (inside + 1)


def _training_memory(train: Train, data: Size) -> dict[str, tuple[int, str, int]]:
    """Bytes that training needs at least, with the key that sets them, its value, and what they hold."""
    # weights, gradients, what the optimiser remembers, and averages
    copies = 2 + (1 if train.optimiser == "sgd" else 2) + len(train.ema_decays)
    noise = 4 * data.pixels * train.batch_size * train.n_steps if train.noise_std else 0
    network = 4 * copies * weights(train, data)
    gaussian = 2 * 8 * (data.channels * (data.side // tile(data.side)) ** 2) ** 2
    return {
        "train.width": (train.width, "weights, gradients and optimiser", network),
        "train.buffer_size": (train.buffer_size, "the replay buffer", 4 * data.pixels * train.buffer_size),
        "train.n_steps": (train.n_steps, "the noise of an iteration's steps", noise),
        "dataset.n_source": (data.train or 0, "the training images", data.pixels * (data.train or 0)),
        "dataset.image_size": (data.side, "the covariance of the Gaussian", gaussian),
    }


def _fits(parts: dict[str, tuple[int, str, int]]) -> Iterator[str]:
    """The largest of the parts, where all together are beyond any memory: {key: (value, what it makes, bytes)}."""
    total = sum(part[2] for part in parts.values())
    if total > MEMORY_LIMIT:
        key, (value, what, n) = max(parts.items(), key=lambda entry: entry[1][2])
        size = f"about {n / MEMORY_LIMIT:,.3g} TiB of memory for {what}"
        yield f"{key}: is {value}, which means {size}, expected less than 1 TiB; lower it"


# ---------------------------------------------------------------- rows of tables


def of_method(method: object) -> Iterator[str]:
    """What is wrong with the name of a row in tables."""
    if not isinstance(method, str) or not method.strip():
        yield f"method: is {'missing' if method is None else shown(method)}, expected the row's name in tables"
    elif len(method) > 100 or not method.isprintable() or method != method.strip():
        yield f"method: is {shown(method)}, expected one line of at most 100 characters, without space around it"
    elif method.casefold() in BASELINES.values():
        yield f"method: is {shown(method)}, the name of another row of every table; use another"


def of_promise(run: Run) -> Iterator[str]:
    """What is wrong with training, or reading, a run as its method's name promises: with or without classes."""
    weight = run.of(Train).pyx_weight
    if re.match(r"M-JEM\b", run.method) and not weight:
        fault, cure = "has a trained class head", "1.0"
    elif re.match(r"M-EBM\b", run.method) and weight:
        fault, cure = "has none", "0.0"
    else:
        return
    yield (
        f"train.pyx_weight: is {weight:g}, but a run of the method {shown(run.method)} {fault}; set it to {cure}, or "
        "give the method another name"
    )


def of_maker(entry: dict, maker: Run) -> Iterator[str]:
    """What is wrong with a run that is imported from another of the suite, whose training and data it has."""
    if entry["dataset"] != maker.dataset:
        yield f"dataset: is {shown(entry['dataset'])}, expected {shown(maker.dataset)}, that of trained.{maker.name}"
    if "train" in entry:
        yield f"train: is that of trained.{maker.name}, which makes its checkpoint; leave the section out here"


def of_weights(run: Run) -> Iterator[str]:
    """What is wrong with the choice among the weights that a run of the suite keeps."""
    choose, maker, decay = run.of(Weights).choose, run.made_from, run.of(Weights).ema_decay
    if maker is None:
        return
    train, name = maker.of(Train), f"trained.{maker.name}"
    epochs, (place, _, inside) = kept_epochs(train), str(run.checkpoint).partition("/train/snapshots")
    folder = not place.endswith(".pt")
    if inside.strip("/"):
        yield f"checkpoint: is a file of {name}'s snapshots; name the folder, and the epoch by weights.choose"
    if folder and not epochs:
        yield f"checkpoint: is a folder of snapshots, but {name} keeps no weights in it; set its train.keep_every"
    if choose != "last" and not folder:
        where = f"results/{maker.name}/train/snapshots"
        yield f"weights.choose: is {shown(choose)}, but the checkpoint is a single file; set that to {where}"
    if decay is not None and decay not in train.ema_decays:
        kept = f"keeps averages of decay {listed(train.ema_decays)}" if train.ema_decays else "keeps no averages"
        yield f"weights.ema_decay: is {decay:g}, but {name} {kept}; set its train.ema_decays"
    if isinstance(choose, int) and choose not in epochs:
        yield f"weights.choose: is {choose}, but {name} keeps weights after epochs {listed(epochs)}"
    if choose in ("accuracy", "quality") and not train.validation_images:
        yield f"weights.choose: is {shown(choose)}, but {name} holds no images out; set its train.validation_images"
    if choose == "accuracy" and not train.pyx_weight:
        yield f"weights.choose: is 'accuracy', but {name} trains no classifier; choose by quality"


def of_row(run: Run, others: Sequence[Run]) -> Iterator[str]:
    """What is wrong with a run among the others of its data set and method, with which it is averaged as seeds are."""
    for other in others:
        fault = None
        if foreign := [one.name for one in (run, other) if one.checkpoint is not None and one.made_from is None]:
            fault = f"{foreign[0]} is imported, which is no seed of another"
        elif (run.made_from is None) != (other.made_from is None):
            fault = f"{(run if run.made_from else other).name} has weights that were made of a trained run's"
        else:
            ours, theirs = _averaged(run), _averaged(other)
            if different := [key for key in (ours | theirs) if ours.get(key) != theirs.get(key)]:
                fault = f"another {different[0]}"
            elif run.of(Train).seed == other.of(Train).seed:
                fault = f"the same train.seed, {run.of(Train).seed}"
        if fault:
            yield (
                f"has the method {shown(run.method)} of {other.name}, but {fault}; runs of one method are averaged as "
                "seeds, so give it a method of its own"
            )


def _averaged(run: Run) -> dict[str, object]:
    """All that seeds of one row have in common, by key."""
    kinds = (Train, Sample, Quality, *([Weights] if run.made_from else []))
    found = {
        f"{kind.__name__.lower()}.{key}": getattr(run.of(kind), key) for kind in kinds for key in kind.model_fields
    }
    del found["train.seed"]
    trained = run.made_from or run
    decisive = trained.of(Compute).decisive(trained.of(Train))
    return found | {f"compute.{DECISIVE[key]}": value for key, value in decisive.items()}
