"""Which sections each stage reads, and once for what it runs."""

from mebm.settings.schema import ANALYSES

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
ANALYSIS_STAGES: dict[str, tuple[str, ...]] = {name: (name, *section.reads) for name, section in ANALYSES.items()}
TABLE_STAGES: dict[str, tuple[str, ...]] = {"tables": ("tables",)}
SUITE_STAGES: dict[str, tuple[str, ...]] = {"start": ("tables",), "metrics": (), "report": ()}


STAGES = frozenset(
    {*DATASET_STAGES, *COMPARED_STAGES, *TRAINED_STAGES, *IMPORTED_STAGES, *RUN_STAGES, *ANALYSIS_STAGES}
    | {*TABLE_STAGES, *SUITE_STAGES}
)


def sections_of(*stages: dict[str, tuple[str, ...]]) -> set[str]:
    return {section for group in stages for names in group.values() for section in names}


RUN_SECTIONS = sections_of(TRAINED_STAGES, IMPORTED_STAGES, RUN_STAGES, ANALYSIS_STAGES)  # a run may set these
