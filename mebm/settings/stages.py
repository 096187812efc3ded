"""The settings of each stage: one class per stage, whose fields are the sections that the stage reads.

A stage runs once per entry of one mapping of the suite. The groups below are named after that mapping, and stand in the
order of the pipeline. Stages of analyses are not listed: their sections declare what they read
(mebm/settings/schema.py).
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from mebm.settings import schema
from mebm.settings.schema import ANALYSES, SECTIONS, Section


class Settings(BaseModel):
    """A job's name, and the sections that its stage reads."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    name: str

    @classmethod
    def sections(cls) -> tuple[str, ...]:
        """Names of the sections that the stage reads."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return tuple(name for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section))


# ---------------------------------------------------------------- per data set


class DatasetSettings(Settings):
    dataset: schema.Dataset


class GaussianSettings(Settings):
    gaussian: schema.Gaussian
    compute: schema.Compute


class FeaturesSettings(Settings):
    features: schema.Features
    compute: schema.Compute


class ReferenceSettings(Settings):
    reference: schema.Reference
    compute: schema.Compute


class BaselineSettings(Settings):
    gaussian: schema.Gaussian
    baseline: schema.Baseline
    quality: schema.Quality
    plots: schema.Plots
    compute: schema.Compute


# ---------------------------------------------------------------- per run


class RunSettings(Settings):
    dataset_name: str


class TrainSettings(RunSettings):
    train: schema.Train
    compute: schema.Compute


class ImportSettings(RunSettings):
    train: schema.Train
    weights: schema.Weights
    compute: schema.Compute


class CurvesSettings(RunSettings):
    quality: schema.Quality
    plots: schema.Plots
    compute: schema.Compute


class SampleSettings(RunSettings):
    sample: schema.Sample
    plots: schema.Plots
    compute: schema.Compute


class QualitySettings(RunSettings):
    quality: schema.Quality
    compute: schema.Compute


class AccuracySettings(RunSettings):
    compute: schema.Compute


class AnalysisSettings(RunSettings):
    """With the analysis' own section, under its name, and those that it `reads` besides.

    Also `compared`, the names of the suite's sets of that kind, where the section asks for them.
    """

    compute: schema.Compute


def _of_analysis(section: type[schema.Analysis]) -> type[AnalysisSettings]:
    fields: dict[str, Any] = {name: SECTIONS[name] for name in (section.__name__.lower(), *section.reads)}
    if section.knows_compared:
        fields["compared"] = list[str]
    return create_model(f"{section.__name__}Settings", __base__=AnalysisSettings, **fields)


# ---------------------------------------------------------------- per table, and once per suite


class Row(BaseModel):
    """What tables say of a run: the row it belongs to, its data set, and what its numbers are of."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    method: str
    dataset: str
    n_steps: int
    classifies: bool
    protocols: list[str]
    imported: bool
    evaluate_on: str


class SuiteSettings(Settings):
    """datasets: titles by name; runs: rows of tables by name."""

    datasets: dict[str, str]
    runs: dict[str, Row]


class TableSettings(SuiteSettings):
    tables: schema.Tables


class ReportSettings(SuiteSettings):
    """differences: what each run sets by itself, by SECTION.KEY; analysed: names of runs; tables: names."""

    differences: dict[str, dict[str, Any]]
    analysed: list[str]
    tables: list[str]


# ---------------------------------------------------------------- which stages there are

DATASET_STAGES: dict[str, type[Settings]] = {
    "dataset": DatasetSettings,
    "gaussian": GaussianSettings,
    "features": FeaturesSettings,
    "reference": ReferenceSettings,
    "baseline": BaselineSettings,
}
COMPARED_STAGES: dict[str, type[Settings]] = {"compared": DatasetSettings}
TRAINED_STAGES: dict[str, type[Settings]] = {"train": TrainSettings, "curves": CurvesSettings}
IMPORTED_STAGES: dict[str, type[Settings]] = {"import_checkpoint": ImportSettings}
RUN_STAGES: dict[str, type[Settings]] = {
    "sample": SampleSettings,
    "quality": QualitySettings,
    "accuracy": AccuracySettings,
    "summary": RunSettings,
    "inventory": RunSettings,
}
ANALYSIS_STAGES: dict[str, type[Settings]] = {name: _of_analysis(section) for name, section in ANALYSES.items()}
TABLE_STAGES: dict[str, type[Settings]] = {"tables": TableSettings}
SUITE_STAGES: dict[str, type[Settings]] = {"start": TableSettings, "metrics": SuiteSettings, "report": ReportSettings}

STAGES: dict[str, type[Settings]] = {
    **DATASET_STAGES,
    **COMPARED_STAGES,
    **TRAINED_STAGES,
    **IMPORTED_STAGES,
    **RUN_STAGES,
    **ANALYSIS_STAGES,
    **TABLE_STAGES,
    **SUITE_STAGES,
}


def sections_of(*groups: dict[str, type[Settings]]) -> set[str]:
    """Sections that the stages of some groups read, which an entry of their mapping may set."""
    return {section for group in groups for settings in group.values() for section in settings.sections()}


RUN_SECTIONS = sections_of(TRAINED_STAGES, IMPORTED_STAGES, RUN_STAGES, ANALYSIS_STAGES)
