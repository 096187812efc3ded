"""The sections of params.yaml, typed: every key is declared here, with its range, and nothing else is accepted."""

import re
from collections import Counter
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from mebm import sources
from mebm.errors import listed, shown
from mebm.registry import Registry


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected one line of printable characters")
    return text


def _once(values: list) -> list:
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise ValueError(f"{shown(twice[0])} occurs twice, expected each one once")
    return values


def _among(registry: Registry) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in registry.names():
            raise ValueError(f"expected one of {listed(registry.names())}")
        return name

    return check


def release_ratio(protocol: str) -> float | None:
    """How many images of each predicted class a protocol keeps: a share below 1, or a number; None: no selection."""
    match = RELEASE_PATTERN.fullmatch(protocol)
    return float(match[1]) if match else None


def _protocol(name: str) -> str:
    if name != "full" and release_ratio(name) is None:
        raise ValueError(
            "expected full, or release_ with what it keeps of each predicted class, a share or a number: release_0.9, "
            "release_10000"
        )
    return name


def _tracker(name: str) -> str:
    if name != TENSORBOARD and name not in (known := entry_points(group=TRACKERS).names):
        raise ValueError(f"expected {TENSORBOARD}, or a tracker that an installed package has: {listed(sorted(known))}")
    return name


def _radius(value: float) -> float:
    if 0 < value < 1e-6:  # float32 could not tell it from 0
        raise ValueError("expected 0, or at least 1e-06")
    return value


def _choice(value: object) -> object:
    if value not in ("last", "accuracy", "quality") and not (type(value) is int and 1 <= value <= 1_000_000):
        raise ValueError("expected last, accuracy, quality, or the number of an epoch")
    return value


def _rgb(value: object) -> object:
    levels = value if isinstance(value, list) else []
    if len(levels) != 3 or not all(type(level) is int and 0 <= level <= 255 for level in levels):
        raise ValueError("expected red, green and blue, each from 0 to 255: [255, 255, 255] is white")
    return value


# Ends that no sensible use reaches, and beyond which float32, files' names or memory give way
LARGE = 1_000_000_000
Positive = Annotated[float, Field(ge=1e-12, le=LARGE)]
NonNegative = Annotated[float, Field(ge=0, le=LARGE)]
Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=1e-9, le=1)]
Count = Annotated[int, Field(ge=1, le=LARGE)]
CountOrZero = Annotated[int, Field(ge=0, le=LARGE)]
Batch = Annotated[int, Field(ge=2, le=1_000_000)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
RadiusLinf = Annotated[float, Field(ge=0, le=255), AfterValidator(_radius)]  # grey levels, all that there are
RadiusL2 = Annotated[float, Field(ge=0, le=10_000), AfterValidator(_radius)]
Protocol = Annotated[str, AfterValidator(_protocol)]  # by which images are chosen to be scored
Colour = Annotated[list[int], BeforeValidator(_rgb)]
Choose = Annotated[str | int, BeforeValidator(_choice)]  # which of the weights that a training keeps
FilePath = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_printable)]


# One spelling per value, since the protocol names a file
RELEASE_PATTERN = re.compile(r"release_(0\.[0-9]{0,5}[1-9]|[1-9][0-9]{0,8})")
NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,63}")
PATH_PATTERN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./-]{0,999}")  # stands in command lines
# folders of results/ and data/ that are no entry's
RESERVED = ("baseline", "compare", "compared", "export", "inventory", "params", "summary", "tables")
MADE_SETS = ("interpolated", "constant", "noise")  # made by the stage `ood`, beside those of `compared`
TABLES = tuple(name for name in Registry("mebm.show.tables").names() if name != "start")  # made for every suite
DECISIVE = {"norm_parts": "devices", "restart_from_every": "save_every"}  # of `compute`, by names that say how
OWN_STATISTICS = ("batch", "actnorm")  # norms that look at the part of a batch that their process has
TENSORBOARD, TRACKERS = "tensorboard", "mebm.trackers"  # the tracker that is built in; the entry points of others
EXPORTED = ("model.safetensors", "replay_buffer.safetensors", "config.json")  # files of exported weights
# Keys that came after results of runs without them, with the values that ask for nothing: records and checkpoints leave
# these out, so that what was made before is as it was.
IDLE: dict[str, dict[str, object]] = {"train": {"keep_every": 0, "validation_images": 0}, "weights": {"choose": "last"}}
OTHER_KEYS = ("runs", "suites", "suite")  # of the file, besides the sections


def asked(section: str, values: dict[str, Any]) -> dict[str, Any]:
    """A section's values without those that ask for nothing (IDLE)."""
    idle = IDLE.get(section, {})
    return {key: value for key, value in values.items() if key not in idle or value != idle[key]}


class Section(BaseModel):
    """A closed, frozen section: no unknown key, no conversion between types, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Analysis(Section):
    """The section of an analysis, whose stage has the section's name.

    reads: sections that the stage reads besides this one and `compute`; knows_compared: whether it is also told the
    names of the suite's `compared`. An analysis without parameters has an empty section. Nothing else in mebm/settings
    has to name an analysis.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    knows_compared: ClassVar[bool] = False


class Compute(Section):
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$")]
    cpu_threads: Annotated[int, Field(ge=1, le=256)]
    deterministic: bool
    devices: Annotated[int, Field(ge=1, le=64)]
    eval_batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    save_every: Count
    cpu_hours: Positive | None
    trackers: Annotated[list[Annotated[str, AfterValidator(_tracker)]], Field(max_length=10), AfterValidator(_once)]

    def decisive(self, train: "Train") -> dict[str, int]:
        """What of this section decides the numbers of a training after all, by the names in `DECISIVE`."""
        found = {}
        if self.devices > 1 and train.norm in OWN_STATISTICS and not train.sync_batchnorm:
            found["norm_parts"] = self.devices
        if train.on_divergence == "restart":
            found["restart_from_every"] = self.save_every
        return found


class Dataset(Section):
    source: Annotated[str, AfterValidator(_among(sources.SOURCES))]
    path: FilePath | None
    downloads: FilePath
    urls: dict[str, Annotated[str, Field(pattern=r"^(https?|ftp)://\S+$", max_length=2000)]]
    checksums: dict[str, Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{8,32}|sha256:[0-9a-f]{8,64})$")]]
    image_size: Annotated[int, Field(ge=8, le=1024)]
    background: Colour
    n_source: Count | None
    n_test: CountOrZero
    n_validation: Count
    evaluate_on: Literal["test", "validation"]
    seed: Seed


class Gaussian(Section):
    ridge: NonNegative
    classwise: bool


class Features(Section):
    network: Annotated[str, AfterValidator(_among(Registry("mebm.measure.networks")))]
    preprocessing: Literal["tf1", "pytorch_fid"]
    weights: FilePath | None
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
    width: Annotated[int, Field(ge=1, le=1_000_000)]
    epochs: Epochs
    batch_size: Batch
    lr: Positive
    augment_pad: Annotated[int, Field(ge=0, le=16)]
    augment_flip: bool
    seed: Seed


class Reference(Section):
    file: FilePath | None
    n_features: Count


class Baseline(Section):
    n_images: Annotated[int, Field(ge=2, le=LARGE)]
    seed: Seed


class Train(Section):
    seed: Seed
    depth: Annotated[int, Field(ge=10, le=1000)]
    width: Annotated[int, Field(ge=1, le=10_000)]
    head: Literal["energy", "logsumexp"]
    norm: Literal["batch", "none", "instance", "layer", "actnorm"]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    algorithm: Annotated[str, AfterValidator(_among(Registry("mebm.method.algorithms")))]
    px_weight: NonNegative
    pyx_weight: NonNegative
    l2_coeff: NonNegative
    init: Literal["gaussian", "classwise", "uniform"]
    n_steps: Annotated[int, Field(ge=0, le=10_000)]
    step_size: Positive
    noise_std: NonNegative
    grad_bound: Positive | None
    buffer_size: Count
    reinit_freq: Share
    batch_size: Batch
    label_batch_size: Batch
    augment_pad: Annotated[int, Field(ge=0, le=16)]
    augment_flip: bool
    epochs: Epochs
    optimiser: Literal["sgd", "adam"]
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegative
    warmup_iters: CountOrZero
    decay_epochs: Annotated[list[Epochs], Field(max_length=1000)]
    decay_factor: Factor
    sam_rho: Positive
    sam_adaptive: bool
    ema_decays: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(max_length=10), AfterValidator(_once)]
    precision: Literal["float32", "bf16"]
    execution: Literal[
        *("auto", "eager", "compile", "graph", "graph+compile"),
        *("paired", "compile+paired", "graph+paired", "graph+compile+paired"),
    ]
    sync_batchnorm: bool
    on_divergence: Literal["stop", "restart"]
    max_restarts: Annotated[int, Field(ge=0, le=100)]
    restart_lr_factor: Factor
    log_every: Count
    grid_every: Count
    snapshot_images: Count
    keep_every: CountOrZero
    validation_images: CountOrZero


class Weights(Section):
    choose: Choose
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    bn_images: CountOrZero
    sgld_steps: Annotated[int, Field(ge=0, le=10_000)]


class Sample(Section):
    protocols: Annotated[list[Protocol], Field(min_length=1), AfterValidator(_once)]


class Quality(Section):
    score_splits: Annotated[int, Field(ge=1, le=1_000_000)]
    permutation_seed: Seed
    neighbours: Annotated[int, Field(ge=1, le=1000)]


class Generate(Analysis):
    reads = ("quality", "plots")

    count: Count
    steps: Count
    seed: Seed
    batch_size: Batch
    bn_stats: Literal["running", "batch"]
    noise_std: NonNegative | None
    grad_bound: Positive | None
    grid_every: Count
    quality_every: Count
    png_images: Annotated[int, Field(ge=0, le=100_000)]  # names have five digits


class Pictures(Analysis):
    per_class: Annotated[int, Field(ge=1, le=100)]  # pictures have at most 2^16 pixels per side
    ranked: Annotated[int, Field(ge=1, le=100)]


class Neighbours(Analysis):
    n_samples: Annotated[int, Field(ge=1, le=1000)]  # rows of a figure
    n_neighbours: Annotated[int, Field(ge=1, le=1000)]
    n_references: Annotated[int, Field(ge=1, le=1_000_000)]
    seed: Seed


class Embedding(Analysis):
    n_images: Annotated[int, Field(ge=10, le=100_000)]  # t-SNE of more takes days
    batch_size: Batch
    perplexity: Annotated[float, Field(ge=1, le=100_000)]
    n_neighbours: Annotated[int, Field(ge=1, le=100_000)]
    seed: Seed


class Ood(Analysis):
    knows_compared = True

    sets: Annotated[list[str], AfterValidator(_once)] | None
    n_images: Annotated[int, Field(ge=2, le=LARGE)]
    bn_stats: Literal["running", "batch"]
    batch_size: Batch
    seed: Seed


class Calibration(Analysis):
    n_bins: Annotated[int, Field(ge=2, le=1000)]  # bars of a figure
    fit_share: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed


class Robustness(Analysis):
    n_images: Count
    radii_linf: Annotated[list[RadiusLinf], Field(max_length=100), AfterValidator(_once)]
    radii_l2: Annotated[list[RadiusL2], Field(max_length=100), AfterValidator(_once)]
    steps: Annotated[int, Field(ge=1, le=1_000_000)]
    step_ratio: Annotated[float, Field(ge=1e-12, le=1_000_000)]
    restarts: Annotated[int, Field(ge=1, le=1_000_000)]
    seed: Seed


class Plots(Section):
    grid_columns: Annotated[int, Field(ge=1, le=100)]
    grid_rows: Annotated[int, Field(ge=1, le=100)]


class Tables(Section):
    digits: Annotated[int, Field(ge=0, le=10)]


ANALYSES: dict[str, type[Analysis]] = {section.__name__.lower(): section for section in Analysis.__subclasses__()}
SECTIONS: dict[str, type[Section]] = {
    **{section.__name__.lower(): section for section in Section.__subclasses__() if section is not Analysis},
    **ANALYSES,
}
