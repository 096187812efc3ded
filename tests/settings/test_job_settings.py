"""What each stage is told: sections of their own types, and for an analysis what its section asks for."""

import ast

import pytest
from smoke import ROOT

from mebm.settings import schema, stages
from mebm.settings.reading import parse
from mebm.settings.stages import ANALYSIS_STAGES, STAGES, AnalysisSettings, _of_analysis
from mebm.settings.suite import Params, check_params


class Brightness(schema.Analysis):
    """A new analysis, which comes too late to be a section of the file."""

    reads = ("plots",)
    knows_compared = True

    n_bins: int


def test_a_new_analysis_is_told_what_its_section_asks_for(monkeypatch):
    monkeypatch.setitem(stages.SECTIONS, "brightness", Brightness)
    settings = _of_analysis(Brightness)
    assert issubclass(settings, AnalysisSettings)
    assert set(settings.sections()) == {"compute", "brightness", "plots"}
    assert set(settings.model_fields) == {"name", "dataset_name", "compared", *settings.sections()}


def test_every_analysis_has_its_section_and_the_means_to_compute():
    assert "generate" in ANALYSIS_STAGES
    for stage, settings in ANALYSIS_STAGES.items():
        assert {stage, "compute"} <= set(settings.sections())


@pytest.fixture(scope="module")
def params() -> Params:
    """The project's own, with an imported run, which its suites have none of."""
    path = ROOT / "params.yaml"
    content = parse(path.read_text())
    released = {"method": "released", "dataset": "mnist", "checkpoint": "released.pt"}
    content["suite"]["imported"] = {"released": released}
    return check_params(path, content)


@pytest.mark.parametrize("stage", STAGES)
def test_every_job_gets_values_of_the_types_that_its_class_says(params, stage):
    names = [name for of, name in params.jobs() if of == stage]
    assert names
    for name in names:
        told = params.resolve(stage, name)
        assert type(told) is STAGES[stage]
        assert STAGES[stage].model_validate({key: getattr(told, key) for key in STAGES[stage].model_fields}) == told


def test_the_work_of_a_stage_says_what_it_is_told():
    """In the signature, for a reader: the class is that of mebm/settings/stages.py."""
    for stage, settings in STAGES.items():
        if stage == "compared":  # which is the stage `dataset` for other sets
            continue
        tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8"))
        (work,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "work"]
        said = work.args.args[1].annotation
        expected = "AnalysisSettings" if stage in ANALYSIS_STAGES else settings.__name__
        assert ast.unparse(said) == expected, stage
