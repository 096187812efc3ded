"""Tables: rows, seeds, published figures beside ours, reasons for what is missing, formats."""

import io

import pandas as pd
import pytest

from mebm.errors import DataError
from mebm.measure import networks
from mebm.settings.checks import HELDOUT, INITIAL
from mebm.settings.schema import TABLES
from mebm.show import tables
from mebm.show.formats import to_csv, to_latex, to_markdown
from mebm.show.rows import Result, published
from mebm.show.summaries import METRICS, PAIRS, label, summarise
from mebm.show.tables import make


def summary(fcd: float, accuracy: float | None = None) -> dict:
    loss = None if accuracy is None else 0.1
    return {"fcd": fcd, "classifier_score": 8.0, "n_images": 500, "accuracy": accuracy, "loss": loss}


def fid(value: float, score: float = 8.0, accuracy: float | None = None, release: float | None = None) -> dict:
    record = {"fid": value, "is_mean": score, "n_images": 10000}
    other = {} if release is None else {"release": {**record, "fid": release, "n_images": 9000}}
    return {**record, **other, "n_test": 1000, "accuracy": accuracy, "loss": None if accuracy is None else 0.2}


@pytest.fixture
def demo() -> pd.DataFrame:
    results = [
        Result("mnist", "M-EBM", summary(1.0), True),
        Result("mnist", "M-JEM", summary(1.0, 0.97), True),
        Result("mnist", "M-JEM", summary(3.0, 0.99), True),
        Result("mnist", INITIAL, summary(25.0), False),
    ]
    return make("demo", results, {"mnist": "mnist"}, 2)


@pytest.fixture
def paper() -> list[Result]:
    both = ("full", "release")
    return [
        Result("c10", "M-EBM, K = 5", fid(12.0, release=13.0), True, n_steps=5, protocols=both, hours=2.0),
        Result("c10", "M-EBM, K = 5", fid(14.0, release=15.0), True, n_steps=5, protocols=both, hours=3.0),
        Result("c10", "M-EBM, K = 2", None, True, "train failed: training diverged", 2, protocols=both),
        Result("c10", "M-EBM, K = 5, no regularisation", fid(20.0), True, n_steps=5),
        Result("c10", "M-JEM", fid(11.38, 8.1, 0.94, 10.87), True, n_steps=5, classifies=True, protocols=both),
        Result("c10", INITIAL, fid(221.0), False),
        Result("hq", INITIAL, fid(395.0), False),
        Result("hq", HELDOUT, {"fid": None, "is_mean": None, "n_images": 0, "status": "all train"}, False),
    ]


TITLES = {"c10": "CIFAR-10", "hq": "CelebA-HQ 128"}


def rows(table: pd.DataFrame, **where: str) -> list[dict]:
    for column, value in where.items():
        table = table[table[column] == value]
    return table.to_dict("records")


def test_seeds_become_mean_and_standard_deviation(demo):
    assert demo["method"].tolist() == ["M-EBM", "M-JEM", INITIAL]
    assert demo["fcd ↓"].tolist() == ["1.00", "2.00 ± 1.41", "25.00"]
    assert demo["accuracy %"].tolist() == ["–", "98.00 ± 1.41", "–"]
    assert demo["seeds"].tolist() == ["1", "2", "–"]


def test_published_figures_stand_beside_ours(paper):
    table = make("generation", paper, TITLES, 2)
    release, full = (
        rows(table, method="M-JEM", metric="FID ↓", protocol=protocol)[0] for protocol in ("release", "full")
    )
    assert (release["published"], release["ours"], release["difference"]) == ("9.87", "10.87", "+1.00")
    assert (full["published"], full["ours"], full["difference"]) == ("10.38", "11.38", "+1.00")
    assert (release["images"], full["images"]) == ("9000", "10000")
    (ours,) = rows(table, method="M-EBM, K = 5", metric="FID ↓", protocol="full")
    assert (ours["published"], ours["ours"], ours["seeds"]) == ("–", "13.00 ± 1.41", "2")


def test_a_missing_run_shows_a_dash_and_its_reason(paper):
    table = make("generation", paper, TITLES, 2)
    missing = rows(table, method="M-EBM, K = 2")
    assert {row["ours"] for row in missing} == {"–"}
    assert {row["note"] for row in missing} == {"train failed: training diverged"}
    (held_out,) = rows(make("start", paper, TITLES, 2), **{"data set": "CelebA-HQ 128", "method": HELDOUT})
    assert (held_out["ours"], held_out["note"]) == ("–", "all train")


def test_competing_methods_stand_below_with_their_sources(paper):
    table = make("generation", paper, TITLES, 2)
    (jem,) = rows(table, method="JEM", metric="FID ↓")
    assert (jem["published"], jem["ours"]) == ("38.4", "–")
    assert "arXiv 2208.07791" in jem["note"]
    assert rows(table, **{"data set": "CelebA 128"})  # the nearest to CelebA-HQ 128 that others report
    assert not rows(table, **{"data set": "CIFAR-100"})
    assert table.index[table["method"] == "JEM"].min() > table.index[table["method"] == "M-JEM"].max()
    assert not rows(table, protocol="OOD vs SVHN")


def test_classification(paper):
    table = make("classification", paper, TITLES, 2)
    ours = rows(table, method="M-JEM")
    assert [(row["metric"], row["published"], row["ours"], row["difference"]) for row in ours] == [
        ("accuracy % ↑", "94.08", "94.00", "-0.08"),
        ("test loss ↓", "0.212", "0.200", "-0.012"),
    ]
    assert {row["images"] for row in ours} == {"1000"}
    assert not rows(table, method="M-EBM, K = 5")
    assert rows(table, method="WRN-28-10")[0]["published"] == "96.2"


def test_steps_leave_ablations_out(paper):
    table = make("steps", paper, TITLES, 2)
    assert set(table["method"]) == {"M-EBM, K = 2", "M-EBM, K = 5"}
    (row,) = rows(table, K="5", protocol="full")
    assert (row["distance ↓"], row["training h"]) == ("13.00 ± 1.41", "2.50 ± 0.71")
    assert table["K"].tolist() == ["2", "2", "5", "5"]


def test_start(paper):
    table = make("start", paper, TITLES, 1)
    found = {row["data set"]: (row["published"], row["ours"], row["difference"]) for row in rows(table, method=INITIAL)}
    assert found == {"CIFAR-10": ("220.3", "221.0", "+0.7"), "CelebA-HQ 128": ("395.3", "395.0", "-0.3")}


def test_every_published_figure_of_the_method_has_a_row_of_ours():
    figures = published()
    assert (figures["source"] != "").all()
    ours = figures[figures["our_method"] != ""]
    assert sorted(ours["value"]) == sorted(
        ["94.08", "0.212", "8.31", "9.87", "8.18", "10.38", "395.3", "415.6", "220.3", "208.9"]
    )


def test_formats_hold_every_cell(demo):
    markdown, latex = (render(demo, tables.module("demo").CAPTION) for render in (to_markdown, to_latex))
    read = pd.read_csv(io.StringIO(to_csv(demo)), dtype=str)
    assert read["fcd ↓"].tolist() == demo["fcd ↓"].tolist()
    assert "| mnist | M-JEM | 2.00 ± 1.41 |" in markdown
    assert r"2.00 $\pm$ 1.41" in latex
    assert r"accuracy \%" in latex
    for text in (markdown, latex):
        assert "neither FID nor Inception Score" in text


def test_summary_takes_what_tables_need():
    record = {"fcd": 1.0, "classifier_score": 8.0, "n_images": 500, "other": 1}
    short = {"fcd": 1.0, "classifier_score": 8.0, "n_images": 500}
    quality = {"full": record, "release": record}
    accuracy = {"accuracy": 0.9, "loss": 0.1}
    assert summarise(quality, {**accuracy, "n_images": 9}) == {**short, "release": short, "n_test": 9, **accuracy}
    assert summarise({"full": record}) == short
    near = {"precision": 0.7, "recall": None, "neighbours": 3, "n_features": 500}
    assert summarise({"full": record | near | {"precision_status": "ok"}}) == short | near
    with pytest.raises(DataError, match="lacks the key 'fcd'"):
        summarise({"full": {}})


def test_a_table_is_an_entry_of_the_registry():
    assert set(tables.TABLES.names()) == {*TABLES, "start"}
    for name in tables.TABLES.names():
        found = tables.module(name)
        assert found.TITLE, name
        assert found.CAPTION.endswith("."), name
        assert list(make(name, [], {}, 2).columns) == list(found.COLUMNS), name
    with pytest.raises(KeyError):
        tables.module("rows")


def test_names_of_metrics_are_those_of_the_networks():
    found = [networks.module(name) for name in networks.NETWORKS.names()]
    assert [(network.DISTANCE, network.SCORE) for network in found] == list(PAIRS)
    assert [label(key) for key in METRICS] == [
        *("fcd ↓", "FID ↓", "classifier score ↑", "IS ↑", "precision ↑", "recall ↑", "accuracy % ↑", "test loss ↓")
    ]


ODD_NAMES = {
    # text: as CSV, Markdown and LaTeX have it
    "=HYPERLINK(1)": ("'=HYPERLINK(1)", "=HYPERLINK(1)", "=HYPERLINK(1)"),
    "+1-800": ("'+1-800", "+1-800", "+1-800"),
    "-cmd": ("'-cmd", "-cmd", "-cmd"),
    "@SUM": ("'@SUM", "@SUM", "@SUM"),
    "\t=1": ("'=1", "=1", " =1"),
    "\r=1": ("'=1", "=1", " =1"),
    "+1.25": ("+1.25", "+1.25", "+1.25"),
    "-0.50 ± 0.10": ("-0.50 ± 0.10", "-0.50 ± 0.10", r"-0.50 $\pm$ 0.10"),
    "a|b": ("a|b", r"a\|b", r"a\textbar{}b"),
    "a\nb": ("a b", "a b", "a b"),
    "<b>&amp;": ("<b>&amp;", r"\<b\>\&amp;", r"\textless{}b\textgreater{}\&amp;"),
    "*a* `b`": ("*a* `b`", r"\*a\* \`b\`", "{*}a{*} `b`"),
    "[x](http://y)": ("[x](http://y)", r"\[x\](http://y)", "{[}x{]}(http://y)"),
    "_a_ b_c": ("_a_ b_c", r"\_a\_ b_c", r"\_a\_ b\_c"),
    r"\input{/etc/passwd}": (
        r"\input{/etc/passwd}",
        r"\\input{/etc/passwd}",
        r"\textbackslash{}input\{/etc/passwd\}",
    ),
    "$x^2~#%": ("$x^2~#%", r"\$x^2\~#%", r"\$x\textasciicircum{}2\textasciitilde{}\#\%"),
}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_no_text_is_a_formula_markup_or_a_command(name):
    table = make("demo", [Result("mnist", name, summary(1.0), True)], {"mnist": "mnist"}, 2)
    as_csv, as_markdown, as_latex = ODD_NAMES[name]
    assert pd.read_csv(io.StringIO(to_csv(table)), dtype=str)["method"].tolist() == [as_csv]
    assert to_csv(table).count("\n") == 2
    assert to_markdown(table, "caption").splitlines()[2].startswith(f"| mnist | {as_markdown} | 1.00 | 8.00 |")
    assert f"mnist & {as_latex} & 1.00 & 8.00 &" in to_latex(table, "caption")
