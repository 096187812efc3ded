"""Tables: rows, seeds, published figures beside ours, reasons for what is missing, formats."""

import io
import re
from statistics import mean, stdev

import pandas as pd
import pytest
import smoke

from mebm.errors import DataError
from mebm.measure import networks
from mebm.settings.checks import HELDOUT, INITIAL
from mebm.settings.schema import TABLES
from mebm.show import tables
from mebm.show.formats import from_markdown, to_csv, to_latex, to_markdown
from mebm.show.rows import Result, published
from mebm.show.summaries import METRICS, PAIRS, label, summarise
from mebm.show.tables import Made, make


def summary(fcd: float, accuracy: float | None = None, **more: object) -> dict:
    loss = None if accuracy is None else 0.1
    return {"fcd": fcd, "classifier_score": 8.0, "n_images": 500, "accuracy": accuracy, "loss": loss, **more}


def fid(value: float, score: float = 8.0, accuracy: float | None = None, **release: float) -> dict:
    """A summary; release: other FIDs by protocol, release_10000 as release_10000=11.0, release_0.9 as release_09."""
    record = {"fid": value, "is_mean": score, "n_images": 10000, "n_reference": 50000, "reference_split": "train"}
    names = {"release_09": ("release_0.9", 8996), "release_10000": ("release_10000", 10000)}
    other = {names[key][0]: {**record, "fid": found, "n_images": names[key][1]} for key, found in release.items()}
    return {**record, **other, "n_test": 1000, "accuracy": accuracy, "loss": None if accuracy is None else 0.2}


MNIST = {
    "preprocessing": "classifier",
    "features_accuracy": 0.9648,
    "features_warning": None,
    "n_reference": 3500,
    "reference_split": "train",
}


@pytest.fixture
def demo() -> Made:
    results = [
        Result("mnist", "M-EBM", summary(1.0, **MNIST), True),
        Result("mnist", "M-JEM", summary(1.0, 0.97), True),
        Result("mnist", "M-JEM", summary(3.0, 0.99), True),
        Result("mnist", INITIAL, summary(25.0), False),
    ]
    return make("demo", results, {"mnist": "mnist"}, 2)


THREE = ("full", "release_0.9", "release_10000")


@pytest.fixture
def paper() -> list[Result]:
    mjem = fid(11.5, 8.1, 0.94, release_09=10.87, release_10000=11.38)
    return [
        Result("c10", "M-EBM, K = 5", fid(12.0), True, n_steps=5, hours=2.0),
        Result("c10", "M-EBM, K = 5", fid(14.0), True, n_steps=5, hours=3.0),
        Result("c10", "M-EBM, K = 2", None, True, "train failed: training diverged", 2),
        Result("c10", "M-EBM, K = 5, no regularisation", fid(20.0), True, n_steps=5),
        Result("c10", "M-JEM", mjem, True, n_steps=5, classifies=True, protocols=THREE),
        Result("c10", INITIAL, fid(221.0), False),
        Result("hq", INITIAL, fid(395.0), False),
        Result("hq", HELDOUT, {"fid": None, "is_mean": None, "n_images": 0, "status": "all train"}, False),
    ]


TITLES = {"c10": "CIFAR-10", "hq": "CelebA-HQ 128"}


def rows(table: pd.DataFrame, **where: str) -> list[dict]:
    for column, value in where.items():
        table = table[table[column] == value]
    return table.to_dict("records")


def read(made: Made) -> pd.DataFrame:
    """The CSV as a reader of CSV takes it, without help."""
    return pd.read_csv(io.StringIO(to_csv(made.numbers)))


def test_seeds_become_mean_and_standard_deviation(demo):
    table = demo.printed
    assert table["method"].tolist() == ["M-EBM", "M-JEM", INITIAL]
    assert table["fcd ↓"].tolist() == ["1.00", "2.00 ± 1.41", "25.00"]
    assert table["accuracy % ↑"].tolist() == ["–", "98.00 ± 1.41", "–"]
    assert table["seeds"].tolist() == ["1", "2", "–"]


def test_published_figures_stand_beside_ours_by_the_same_protocol(paper):
    table = make("generation", paper, TITLES, 2).printed
    found = {
        protocol: rows(table, method="M-JEM", metric="FID ↓", protocol=protocol)[0]
        for protocol in ("full", "release_0.9", "release_10000")
    }
    keys = ("published", "ours", "difference", "images")
    assert {protocol: tuple(row[key] for key in keys) for protocol, row in found.items()} == {
        "full": ("–", "11.50", "–", "10000"),
        "release_0.9": ("9.87", "10.87", "+1.00", "8996"),
        "release_10000": ("10.38", "11.38", "+1.00", "10000"),
    }
    scores = rows(table, method="M-JEM", metric="IS ↑")
    assert [row["published"] for row in scores] == ["–", "8.31", "8.18"]
    (ours,) = rows(table, method="M-EBM, K = 5", metric="FID ↓", protocol="full")
    assert (ours["published"], ours["ours"], ours["seeds"]) == ("–", "13.00 ± 1.41", "2")
    assert {row["protocol"] for row in rows(table, method=INITIAL)} == {"–"}  # which are no chains


def test_what_is_measured_otherwise_has_no_difference():
    other = {**fid(11.5, 8.1, 0.94, release_10000=11.38), "preprocessing": "pytorch_fid"}
    other["release_10000"]["preprocessing"] = "pytorch_fid"
    tuned = Result("c10", "M-JEM", other, True, classifies=True, protocols=THREE[::2], evaluate_on="validation")
    (row,) = rows(make("generation", [tuned], TITLES, 2).printed, metric="FID ↓", protocol="release_10000")
    assert (row["published"], row["ours"], row["difference"]) == ("10.38", "11.38", "–")
    assert row["note"] == "ours with the preprocessing pytorch_fid, the published figure with tf1"
    (row,) = rows(make("classification", [tuned], TITLES, 2).printed, method="M-JEM", metric="accuracy % ↑")
    assert (row["published"], row["ours"], row["difference"]) == ("94.08", "94.00", "–")
    assert row["note"] == "ours on the validation split, the published figure on the test split"
    made = make("start", [Result("c10", INITIAL, {**fid(221.0), "preprocessing": "pytorch_fid"}, False)], TITLES, 1)
    assert (made.printed["difference"].tolist(), made.numbers["difference"].tolist()) == (["–"], [None])


def test_a_protocol_that_only_the_release_has_stays_in_sight(paper):
    ours = Result("c10", "M-JEM", fid(11.5, 8.1, release_10000=11.38), True, protocols=("full", "release_10000"))
    table = make("generation", [ours], TITLES, 2).printed
    (row,) = rows(table, method="M-JEM", metric="FID ↓", protocol="release_0.9")
    assert (row["published"], row["ours"], row["difference"]) == ("9.87", "–", "–")
    assert row["note"] == "for ours, add release_0.9 to sample.protocols"
    (row,) = rows(table, method="M-JEM", metric="FID ↓", protocol="release_10000")
    assert (row["published"], row["ours"], row["note"]) == ("10.38", "11.38", "")


def test_published_figures_stand_beside_an_imported_run_of_the_method(paper):
    made = fid(9.9, 8.3, 0.9408, release_09=9.87)
    for method, imported, expected in (
        ("M-JEM (release)", True, "9.87"),
        ("M-JEM (uniform start)", False, None),  # another method of ours
        ("M-JEM, released", True, None),
    ):
        result = Result("c10", method, made, True, classifies=True, protocols=THREE[:2], imported=imported)
        found = rows(make("generation", [result], TITLES, 2).printed, method=method, protocol="release_0.9")
        assert [row["published"] for row in found if row["metric"] == "FID ↓"] == [expected or "–"]
        accuracy = rows(make("classification", [result], TITLES, 2).printed, method=method, metric="accuracy % ↑")
        assert [row["published"] for row in accuracy] == ["94.08" if expected else "–"]
        assert {row["protocol"] for row in accuracy} == {"imported weights" if imported else "last epoch"}


def test_what_two_sources_say_of_a_method_stands_in_two_rows():
    made = make("generation", [Result("c10", "M-JEM", fid(11.5), True, classifies=True)], TITLES, 2).printed
    made = made[made["data set"] == "CIFAR-10"]
    for method, value, source in (
        ("SADA-JEM", "9.41", "2209.07959"),
        ("SADA-JEM (as listed by EB-JDAT)", "17.38", "2505.19459"),
        ("EGC", "3.30", "2304.02012"),
    ):
        (row,) = rows(made, method=method, metric="FID ↓")
        assert row["published"] == value
        assert source in row["note"]


def test_a_row_says_which_weights_were_chosen_and_by_what():
    for by, epochs, expected in (
        ("accuracy", (10, 10), "best by validation accuracy (epoch 10 of 200)"),
        ("quality", (30, 10), "best by validation quality (epochs 30, 10 of 200)"),
        ("epoch", (10, 10), "weights of one epoch (epoch 10 of 200)"),
        ("last", (200, 200), "last epoch kept (epoch 200 of 200)"),
    ):
        made = [fid(9.9, 8.3, 0.94) | {"choice": {"by": by, "epoch": epoch, "epochs": 200}} for epoch in epochs]
        results = [Result("c10", "best", one, True, classifies=True, imported=True) for one in made]
        for table in ("generation", "classification"):
            found = rows(make(table, results, TITLES, 2).printed, method="best")
            assert {row["note"] for row in found} == {expected}
        assert {row["protocol"] for row in found} == {"chosen weights"}
        (row,) = make("demo", results, TITLES, 2).printed.to_dict("records")
        assert row["note"] == expected


def test_a_missing_run_shows_a_dash_and_its_reason(paper):
    table = make("generation", paper, TITLES, 2).printed
    missing = rows(table, method="M-EBM, K = 2")
    assert {row["ours"] for row in missing} == {"–"}
    assert {row["note"] for row in missing} == {"train failed: training diverged"}
    (held_out,) = rows(make("start", paper, TITLES, 2).printed, **{"data set": "CelebA-HQ 128", "method": HELDOUT})
    assert (held_out["ours"], held_out["note"]) == ("–", "all train")


def test_competing_methods_stand_below_with_their_sources(paper):
    table = make("generation", paper, TITLES, 2).printed
    (jem,) = rows(table, method="JEM", metric="FID ↓")
    assert (jem["published"], jem["ours"]) == ("38.4", "–")
    assert "arXiv 2208.07791" in jem["note"]
    assert rows(table, **{"data set": "CelebA 128"})  # the nearest to CelebA-HQ 128 that others report
    assert not rows(table, **{"data set": "CIFAR-100"})
    assert table.index[table["method"] == "JEM"].min() > table.index[table["method"] == "M-JEM"].max()
    assert not rows(table, protocol="OOD vs SVHN")


def test_classification(paper):
    made = make("classification", paper, TITLES, 2)
    ours = rows(made.printed, method="M-JEM")
    assert [(row["metric"], row["published"], row["ours"], row["difference"]) for row in ours] == [
        ("accuracy % ↑", "94.08", "94.00", "-0.08"),
        ("test loss ↓", "0.212", "0.200", "-0.012"),
    ]
    assert {row["images"] for row in ours} == {"1000"}
    assert {row["protocol"] for row in ours} == {"last epoch"}
    assert not rows(made.printed, method="M-EBM, K = 5")
    assert rows(made.printed, method="WRN-28-10")[0]["published"] == "96.2"
    for words in ("Ours is the last epoch", "best test accuracy", "may have been chosen on the test set"):
        assert words in made.caption


def test_steps_leave_ablations_out(paper):
    made = make("steps", paper, TITLES, 2)
    table = made.printed
    assert set(table["method"]) == {"M-EBM, K = 2", "M-EBM, K = 5"}
    (row,) = rows(table, K="5", protocol="full")
    assert (row["distance ↓"], row["training h"]) == ("13.00 ± 1.41", "2.50 ± 0.71")
    assert table["K"].tolist() == ["2", "5"]
    assert made.numbers["n_steps"].tolist() == [2, 5]


def test_start(paper):
    made = make("start", paper, TITLES, 1)
    found = {
        row["data set"]: (row["published"], row["ours"], row["difference"])
        for row in rows(made.printed, method=INITIAL)
    }
    assert found == {"CIFAR-10": ("220.3", "221.0", "+0.7"), "CelebA-HQ 128": ("395.3", "395.0", "-0.3")}
    assert "that of ImageNet 32x32 may be of and against the validation split" in made.caption


def test_captions_say_number_selection_rounding_order_and_reference(paper):
    elsewhere = {**fid(20.0), "n_reference": None, "reference_split": None}
    paper.append(Result("hq", "M-EBM, K = 10", elsewhere, True, n_steps=10))
    for name in ("generation", "steps"):
        said = make(name, paper, TITLES, 2).caption
        for words in (
            "Protocol full: all chains of the replay buffer in their own order, rounded to bytes",
            "of each predicted class of its first 10,000 chains the most confident, the share R if that is below 1",
            "class by class, truncated to bytes",
            "Reference of distances: CIFAR-10, the 50000 images of its train split; CelebA-HQ 128, statistics from",
        ):
            assert words in said, name
    assert (
        "Difference is ours minus published, and both are by the same protocol" in make("generation", [], {}, 2).caption
    )


def test_captions_say_how_good_the_feature_classifier_is(demo):
    assert "Accuracy of the feature classifier on held-out images: mnist, 96.5 %." in demo.caption
    assert "Warning" not in demo.caption
    low = {**MNIST, "features_accuracy": 0.712, "features_warning": "right on 71.2 %, less than 90 %"}
    results = [Result("d", "M", summary(1.0, **MNIST), True), Result("e", "M", summary(1.0, **low), True)]
    for name in ("demo", "generation", "steps", "start"):
        said = make(name, results, {"d": "d", "e": "e"}, 2).caption
        assert "on held-out images: d, 96.5 %; e, 71.2 %." in said, name
        assert "Warning for e: right on 71.2 %, less than 90 %." in said, name
        assert "Warning for d" not in said, name
        assert "compare them only within one data set" in said or name != "demo"


def test_precision_and_recall_have_columns_where_they_were_measured(demo, paper):
    assert not {"precision % ↑", "recall % ↑", "note"} & set(demo.printed)
    assert {"precision_percent_mean", "precision_percent_std", "recall_percent_mean", "recall_percent_std"} <= set(
        demo.numbers
    )
    shares = {"precision": 0.875, "recall": 0.5}
    results = [Result("mnist", "M-EBM", summary(1.0, **shares), True), Result("mnist", INITIAL, summary(25.0), False)]
    made = make("demo", results, {"mnist": "mnist"}, 3)
    assert made.printed["precision % ↑"].tolist() == ["87.5", "–"]
    assert made.printed["recall % ↑"].tolist() == ["50.0", "–"]
    assert read(made)["recall_percent_mean"].tolist()[0] == 50.0
    found = [Result("c10", "M-EBM, K = 5", {**fid(12.0), **shares}, True, n_steps=5)]
    assert make("steps", found, TITLES, 2).printed["precision % ↑"].tolist() == ["88"]
    table = make("generation", found, TITLES, 2).printed
    assert [(row["metric"], row["ours"]) for row in rows(table, method="M-EBM, K = 5")] == [
        *(("FID ↓", "12.00"), ("IS ↑", "8.00"), ("precision % ↑", "88"), ("recall % ↑", "50"))
    ]
    assert not rows(make("generation", paper, TITLES, 2).printed, metric="precision % ↑")


def test_every_published_figure_of_the_method_has_a_row_of_ours():
    figures = published()
    assert (figures["source"] != "").all()
    ours = figures[figures["our_method"] != ""]
    assert sorted(ours["value"]) == sorted(
        ["94.08", "0.212", "8.31", "9.87", "8.18", "10.38", "395.3", "415.6", "220.3", "208.9"]
    )
    by = {row.value: row.our_protocol for row in ours.itertuples() if row.our_protocol}
    assert by == {
        **dict.fromkeys(("8.31", "9.87"), "release_0.9"),
        **dict.fromkeys(("8.18", "10.38"), "release_10000"),
    }
    for protocol in by.values():
        smoke.section("sample", protocols=[protocol])  # which a run can have


def test_formats_hold_every_cell(demo):
    markdown, latex = to_markdown(demo.printed, demo.caption), to_latex(demo.printed, demo.caption, "demo")
    assert "| mnist | M-JEM | 2.00 ± 1.41 |" in markdown
    assert r"2.00 $\pm$ 1.41" in latex
    assert r"accuracy \%" in latex
    for text in (markdown, latex):
        assert "neither FID nor Inception Score" in text


def test_a_latex_table_can_be_referred_to_and_sets_numbers_right(paper):
    made = make("generation", paper, TITLES, 2)
    lines = to_latex(made.printed, "of 100 %", "generation").splitlines()
    assert lines[:4] == [r"% \usepackage{booktabs}", r"\begin{table}", r"\centering", r"\begin{tabular}{lllrrrrrll}"]
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert lines[-3:] == [r"\caption{of 100 \%}", r"\label{tab:generation}", r"\end{table}"]


def test_what_precision_and_recall_mean_is_said_where_they_stand():
    for shares, said in (({"precision": 0.5, "recall": None}, 1), ({}, 0)):
        found = make("demo", [Result("d", "M", summary(1.0, **shares), True)], {"d": "d"}, 2)
        assert found.caption.count("Precision is the share of the scored images that lie near real ones") == said


def test_csv_holds_numbers_in_full_and_nothing_where_there_is_none(paper):
    seeds = [Result("mnist", "M-JEM", summary(value, 0.97, n_test=9), True) for value in (0.1, 1 / 3)]
    made = make("demo", [*seeds, Result("mnist", INITIAL, summary(25.0), False)], {"mnist": "mnist"}, 2)
    table = read(made)
    assert table["fcd_mean"].tolist() == [mean([0.1, 1 / 3]), 25.0]
    assert table["fcd_std"].tolist()[0] == stdev([0.1, 1 / 3])
    assert table["n_seeds"].tolist()[0] == 2
    assert to_csv(made.numbers).splitlines()[1].endswith(",500,500,2,")
    text = to_csv(made.numbers)
    assert text.splitlines()[2] == f"mnist,{INITIAL},25.0,,8.0,,,,,,,,,,500,500,,"
    for name in tables.TABLES.names():
        made = make(name, paper, TITLES, 2)
        text = to_csv(made.numbers)
        assert not set("–±↓↑") & set(text), name
        head = text.split("\n")[0].split(",")
        assert all(re.fullmatch("[a-z][a-z0-9_]*", column) for column in head), head
        assert len(head) == len(set(head))
        kinds = read(made).dtypes
        for column in head:
            if column.endswith(("_mean", "_std", "_min", "_max", "published", "difference", "n_seeds", "n_steps")):
                assert kinds[column].kind in "fi", (name, column)
    (mjem,) = rows(read(make("generation", paper, TITLES, 2)), method="M-JEM", metric="fid", protocol="release_0.9")
    assert mjem["difference"] == pytest.approx(1.0, abs=1e-12)
    assert (mjem["ours_mean"], mjem["n_images_min"], mjem["published"]) == (10.87, 8996, 9.87)


def test_print_and_csv_are_the_same_rows(paper):
    for name in tables.TABLES.names():
        made = make(name, paper, TITLES, 2)
        assert len(made.printed) == len(made.numbers), name
        assert made.printed["method"].tolist() == made.numbers["method"].tolist(), name


def test_a_table_is_read_back_from_markdown(paper, demo):
    odd = [Result("mnist", name, summary(1.0), True, "not run" if "a" in name else "") for name in ODD_NAMES]
    for made in (demo, make("demo", odd, {"mnist": "mnist"}, 2), make("generation", paper, TITLES, 2)):
        head, found, caption = from_markdown(to_markdown(made.printed, made.caption))
        assert head == list(made.printed)
        expected = [[re.sub(r"\s+", " ", cell).strip() for cell in row] for row in made.printed.to_numpy().tolist()]
        assert found == expected
        assert caption == made.caption
    empty = make("demo", [], {}, 2)
    assert from_markdown(to_markdown(empty.printed, empty.caption))[:2] == (list(empty.printed), [])
    for wrong in ("", "text", "| a |\n\ncaption\n", "| a | b |\n| --- | --- |\n| 1 |\n\nx\n", "a,b\n1,2\n"):
        with pytest.raises(ValueError, match="is not a table"):
            from_markdown(wrong)


def test_summary_takes_what_tables_need():
    record = {"fcd": 1.0, "classifier_score": 8.0, "n_images": 500, "other": 1}
    short = {"fcd": 1.0, "classifier_score": 8.0, "n_images": 500}
    quality = {"full": record, "release_0.9": record}
    accuracy = {"accuracy": 0.9, "loss": 0.1}
    assert summarise(quality, {**accuracy, "n_images": 9}) == {**short, "release_0.9": short, "n_test": 9, **accuracy}
    assert summarise({"full": record}) == short
    more = {"precision": 0.5, "recall": None, "neighbours": 3, "n_features": 500, **MNIST}
    assert summarise({"full": {**record, **more}}) == {**short, **more}
    with pytest.raises(DataError, match="lacks the key 'fcd'"):
        summarise({"full": {}})


def test_a_table_is_an_entry_of_the_registry():
    assert set(tables.TABLES.names()) == {*TABLES, "start"}
    for name in tables.TABLES.names():
        found, made = tables.module(name), make(name, [], {}, 2)
        assert found.TITLE, name
        assert made.caption.endswith("."), name
        assert list(made.printed) == [head for head, *_ in found.COLUMNS], name
        assert list(made.numbers) == [column for _, *names in found.COLUMNS for column in names], name
    with pytest.raises(KeyError):
        tables.module("rows")


def test_names_of_metrics_are_those_of_the_networks():
    found = [networks.module(name) for name in networks.NETWORKS.names()]
    assert [(network.DISTANCE, network.SCORE) for network in found] == list(PAIRS)
    assert [label(key) for key in METRICS] == [
        *("fcd ↓", "FID ↓", "classifier score ↑", "IS ↑", "precision % ↑", "recall % ↑", "accuracy % ↑", "test loss ↓")
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
    made = make("demo", [Result("mnist", name, summary(1.0), True)], {"mnist": "mnist"}, 2)
    as_csv, as_markdown, as_latex = ODD_NAMES[name]
    text = to_csv(made.numbers)
    assert pd.read_csv(io.StringIO(text), dtype=str)["method"].tolist() == [as_csv]
    assert text.count("\n") == 2
    assert to_markdown(made.printed, "caption").splitlines()[2].startswith(f"| mnist | {as_markdown} | 1.00 | 8.00 |")
    assert f"mnist & {as_latex} & 1.00 & 8.00 &" in to_latex(made.printed, "caption", "demo")
