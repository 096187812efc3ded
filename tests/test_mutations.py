"""benchmarks/mutations.py: its faults apply to the code as it is, and it tells seen ones from others."""

import sys
from dataclasses import replace

import pytest
from smoke import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from mutations import FAULTS, Fault, copy_of, edited, main

SEEN = Fault("a wrong sum", "sums.py", "a + b", "a - b", ("test_sums.py",))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_applies_and_names_tests_that_are_there(fault):
    after = edited((ROOT / fault.file).read_text(encoding="utf-8"), fault)
    assert after is not None, f"{fault.file} has changed: give the fault its text as it is now"
    assert fault.tests
    for test in fault.tests:
        path, _, name = test.partition("::")
        assert f"def {name or 'test_'}" in (ROOT / path).read_text(encoding="utf-8"), test
    if fault.file.endswith(".py"):
        compile(after, fault.file, "exec")


def test_the_page_lists_each_fault_once():
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    table = page[page.index("\n| fault |") :].splitlines()[3:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in table] == [fault.name for fault in FAULTS]
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) > 40


@pytest.fixture
def project(tmp_path):
    """A project of one function and its test, which looks at sums of unequal numbers only."""
    root = tmp_path / "project"
    (root / "results").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['slow', 'gpu']\n")
    (root / "sums.py").write_text("def add(a, b):\n    return a + b if a != b else 2 * a\n")
    (root / "test_sums.py").write_text("from sums import add\n\n\ndef test_sum():\n    assert add(1, 2) == 3\n")
    return root


def test_what_every_named_test_sees_ends_well(project, capsys):
    assert main(["sum"], (SEEN, replace(SEEN, name="other", old="none")), project) == 0
    said = capsys.readouterr().out
    assert "| a wrong sum | `sums.py` | test_sums (1) |" in said
    assert "1 faults, 1 seen, 0 not" in said


def test_anything_else_does_not_and_the_project_stays_as_it_was(project, capsys):
    others = {
        "NOT SEEN by test_sums.py": replace(SEEN, old="2 * a", new="3 * a"),
        "NOT TRIED: its text does not occur once in sums.py": replace(SEEN, old="a * b"),
        "NOT TRIED: its text does not occur once": replace(SEEN, old="a"),
        "CANNOT BE TRIED: pytest ended with 2": replace(SEEN, new="a +"),
    }
    before = (project / "sums.py").read_text()
    assert main([], (SEEN, *others.values()), project) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if "`sums.py`" in line]
    assert all(said in row for said, row in zip(others, rows[1:], strict=True)), rows
    assert (project / "sums.py").read_text() == before


def test_tests_that_fail_without_a_fault_are_no_witnesses(project, capsys):
    (project / "test_sums.py").write_text("def test_sum():\n    assert False\n")
    assert main([], (SEEN,), project) == 1
    assert "without any fault these fail: test_sums.py::test_sum" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["nobody"], (SEEN,), project)


def test_a_copy_holds_no_results(project, tmp_path):
    copy = copy_of(project, tmp_path / "copy")
    assert sorted(path.name for path in copy.iterdir()) == ["pyproject.toml", "sums.py", "test_sums.py"]
