"""Tables: rows, seeds, formats."""

import io

import pandas as pd
import pytest

from mebm.errors import DataError
from mebm.tables import Result, rows, summarise, to_csv, to_latex, to_markdown


def summary(fcd: float, accuracy: float | None = None) -> dict:
    loss = None if accuracy is None else 0.1
    return {"fcd": fcd, "classifier_score": 8.0, "n_images": 500, "accuracy": accuracy, "loss": loss}


@pytest.fixture
def table() -> pd.DataFrame:
    results = [
        Result("mnist", "M-EBM", summary(1.0), True),
        Result("mnist", "M-JEM", summary(1.0, 0.97), True),
        Result("mnist", "M-JEM", summary(3.0, 0.99), True),
        Result("mnist", "initial distribution", summary(25.0), False),
    ]
    return rows(results, 2)


def test_seeds_become_mean_and_standard_deviation(table):
    assert table["method"].tolist() == ["M-EBM", "M-JEM", "initial distribution"]
    assert table["fcd ↓"].tolist() == ["1.00", "2.00 ± 1.41", "25.00"]
    assert table["accuracy %"].tolist() == ["–", "98.00 ± 1.41", "–"]
    assert table["seeds"].tolist() == ["1", "2", "–"]


def test_formats_hold_every_cell(table):
    markdown, latex = to_markdown(table), to_latex(table)
    read = pd.read_csv(io.StringIO(to_csv(table)), dtype=str)
    assert read["fcd ↓"].tolist() == table["fcd ↓"].tolist()
    assert "| mnist | M-JEM | 2.00 ± 1.41 |" in markdown
    assert r"2.00 $\pm$ 1.41" in latex
    assert r"accuracy \%" in latex
    for text in (markdown, latex):
        assert "not FID and Inception score" in text


def test_summary_takes_what_tables_need():
    quality = {"fcd": 1.0, "classifier_score": 8.0, "n_images": 500, "other": 1}
    assert summarise(quality, {"accuracy": 0.9, "loss": 0.1, "n_images": 9}) == {
        **{"fcd": 1.0, "classifier_score": 8.0, "n_images": 500, "accuracy": 0.9, "loss": 0.1}
    }
    assert summarise(quality)["accuracy"] is None
    with pytest.raises(DataError, match="lacks the key 'fcd'"):
        summarise({})
