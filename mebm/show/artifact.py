"""docs/artifact.md: every claim with the command that checks it, what to expect, how long it takes, where it lands.

Made from README's table of the demo, the spread in docs/performance.md, published.csv, the suite `paper` in params.yaml
and the estimates of mebm/training/cost.py, so that none of it is written twice. Sections are those that artefact
evaluation (ACM's badges) and the reproducibility checklist of NeurIPS ask for.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from mebm.engine.refusal import size
from mebm.errors import DataError
from mebm.files import read_text
from mebm.settings.checks import INITIAL
from mebm.settings.schema import Sample
from mebm.settings.suite import Params, parse_params, read_params
from mebm.show.formats import from_markdown, markdown
from mebm.show.rows import DASH, published
from mebm.training.cost import estimate

CARD = "H100"  # of the estimates
PAGE = Path(__file__).with_name("artifact.md.j2")
DEMO, SPREAD = "README.md", "docs/performance.md"
GRIDS = {  # README's pictures, and the files that they are copies of
    "docs/demo/mjem.png": "results/mjem_mnist/sample/grid.png",
    "docs/demo/mebm.png": "results/mebm_mnist/sample/grid.png",
    "docs/demo/initial.png": "results/baseline/mnist/initial.png",
}


def artifact(root: Path) -> str:
    """The page, for the project in the folder `root`.

    Raises DataError where README or docs/performance.md has no such table as is read here, ParamsError where
    params.yaml is not valid or has no suite `paper`.
    """
    paper = _suite(root, "paper")
    hours = {name: _hours(paper, name) for name in paper.trained}
    known = [value for value in hours.values() if value is not None]
    page = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(read_text(PAGE))
    return page.render(
        demo=_demo(read_text(root / DEMO), read_text(root / SPREAD)),
        grids=_table(("picture", "is a copy of"), ((f"`{a}`", f"`{b}`") for a, b in GRIDS.items())),
        published=_published(paper, hours),
        runs=_runs(paper, hours),
        card=CARD,
        total=f"{sum(known):.0f}",
        count=len(known),
        unknown=", ".join(f"`{name}`" for name, value in hours.items() if value is None),
    )


def _suite(root: Path, name: str) -> Params:
    path = root / "params.yaml"
    text, found = re.subn(r"^suite: \*\w+", f"suite: *{name}", read_params(path), flags=re.MULTILINE)
    if found != 1:
        raise DataError(f"{path}: has {found} lines `suite: *NAME`, expected one; restore it from version control")
    return parse_params(path, text)


def _hours(settings: Params, run: str) -> float | None:
    """Hours of a training on the card; None where nobody measured. The data set counts as published."""
    shape, n_images, labelled = size(settings, settings.trained[run].dataset, Path(os.devnull))
    return estimate(settings.resolve("train", run).train, shape, n_images, labelled, CARD).hours


def _demo(readme: str, measured: str) -> str:
    """A row for every figure of README's table, with the spread over seeds where it was measured."""
    head, rows = _table_of(readme, r"\| data set \| method \| fcd", DEMO)
    names, values = _table_of(measured, r"\| method \| fcd \| classifier score", SPREAD)
    seeds = {method: dict(zip(names[1:], figures, strict=True)) for method, *figures in values}
    minutes = re.search(r"in (about \w+ minutes on two CPU cores)", " ".join(readme.split()))
    if minutes is None:
        raise DataError(f"{DEMO}: does not say how long the demo takes; write `in about N minutes on two CPU cores`")
    claims = []
    for dataset, method, *cells in rows:
        for metric, cell in zip(head[2:-2], cells[:-2], strict=True):
            if cell != DASH:
                spread = DASH if cells[-1] == DASH else seeds.get(method, {}).get(metric.rstrip(" ↓↑"), "not measured")
                claims.append((dataset, method, metric, cell, spread, minutes[1]))
    columns = ("data set", "method", "figure", "expected", "mean ± standard deviation over three seeds", "time")
    return _table(columns, claims)


def _table_of(text: str, start: str, path: str) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table that begins so."""
    found = re.search(rf"^{start}.*?\n(?:\|.*\n)+", text, re.MULTILINE)
    if found is None:
        raise DataError(f"{path}: has no table that begins with {start!r}; restore it, or change {__name__}")
    head, rows, _ = from_markdown(f"{found[0]}\n")
    return head, rows


def _published(paper: Params, hours: dict[str, float | None]) -> str:
    """A row for every published figure that a row of ours belongs to."""
    rows = []
    for figure in published().query("our_method != ''").itertuples():
        datasets = [name for name, entry in paper.datasets.items() if entry.title == figure.dataset]
        runs = [
            name for name, run in paper.trained.items() if run.dataset in datasets and run.method == figure.our_method
        ]
        if len(datasets) != 1 or not (runs or figure.our_method == INITIAL):
            raise DataError(
                f"params.yaml: the suite paper has {len(datasets)} data sets titled {figure.dataset!r} and {len(runs)} "
                f"runs of {figure.our_method} on them, but published.csv has a figure; restore it from version control"
            )
        (dataset,) = datasets
        if figure.our_method == INITIAL:
            table, time, seeds, made = "start_paper", "no training", DASH, [f"results/baseline/{dataset}/initial.json"]
        else:
            protocols = [paper.trained[name].of(Sample).protocols for name in runs]
            scored = sum(figure.our_protocol in (*each, "") for each in protocols)
            file = "quality" if figure.our_protocol else "accuracy"
            table = "generation" if figure.our_protocol else "classification"
            made = [f"results/{name}/{file}.json" for name in runs]
            time, seeds = _added(hours[name] for name in runs), str(scored)
        value = f"{figure.value} {figure.unit}".strip()
        rows.append(
            (
                *(figure.dataset, figure.our_method, figure.metric, figure.our_protocol or DASH, value, seeds, time),
                *(f"`snakemake {' '.join(made)}`", f"`results/tables/{table}.csv`", figure.source),
            )
        )
    columns = ("data set", "method", "figure", "protocol", "published", "seeds here", "time")
    return _table((*columns, "command", "table, of all runs", "source"), rows)


def _runs(paper: Params, hours: dict[str, float | None]) -> str:
    """A row for every training of the suite."""
    rows = (
        (
            f"`{name}`",
            run.method,
            paper.datasets[run.dataset].title,
            _added([hours[name]]),
            f"`snakemake results/{name}/quality.json`",
        )
        for name, run in paper.trained.items()
    )
    return _table(("run", "method", "data set", "time", "command"), rows)


def _added(hours: Iterable[float | None]) -> str:
    found = list(hours)
    return "not measured" if None in found else f"{sum(found):.1f} h on an {CARD}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a cell in backquotes stays code."""
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *rows]
    cells = ([cell if re.fullmatch(r"`[^`|]*`", cell) else markdown(cell) for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
