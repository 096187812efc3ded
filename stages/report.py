"""Make one page with all results of a suite: results/<suite>/report.html. It needs no network and no other file."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml
from pydantic import ValidationError

from mebm.data.manifest import Origins, sentences
from mebm.engine import failures, records
from mebm.engine.graph import Graph
from mebm.errors import DataError
from mebm.files import explained, read_json, read_yaml, write_text
from mebm.settings.checks import BASELINES
from mebm.settings.schema import SECTIONS
from mebm.settings.stages import ANALYSIS_STAGES, STAGES, ReportSettings
from mebm.settings.suite import load_params
from mebm.show import tables
from mebm.show.report.page import Analysis, JobPictures, Overview, Run, read_table, render, shown
from mebm.show.rows import DASH, decimals
from mebm.show.summaries import QUALITY, SHARES, Measured, Spent, Summary, in_print, label
from mebm.training.devices import visible_ids
from stages import cli

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "pillow")
PACKAGES += ("dvc", "snakemake")
DIGITS = 2  # decimals of most numbers beside pictures


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("report", __doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of all results")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the prepared data (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    return cli.execute(parser, argv, work)


def work(args, settings: ReportSettings) -> None:
    page = _Page(args, settings, Graph(args.params.parent / "dvc.yaml", load_params(args.params)))
    write_text(
        args.out,
        render(
            "report.html.j2",
            overview=Overview(),
            suite=settings.name,
            datasets=[page.dataset(name) for name in settings.datasets],
            runs=[page.run(name) for name in settings.runs],
            tables=[page.table(name, name) for name in settings.tables]
            + [page.table("start", f"start_{settings.name}")],
            versions=_packages(),
            hardware=_hardware(),
            address=f"report@{settings.name}",
        ),
    )
    cli.log.info("%s: %.1f MB", args.out, args.out.stat().st_size / 1e6)


class _Page:
    """Collects what the page shows of each data set, run and table from the files that the pipeline made."""

    def __init__(self, args, settings, graph: Graph):
        self.args, self.settings, self.graph, self.jobs = args, settings, graph, graph.jobs
        path = args.results / "params" / "all.yaml"
        self._path = path
        self.resolved = read_yaml(path)
        wanted = [("dataset", name) for name in settings.datasets]
        wanted += [("train", name) for name in settings.runs if f"train@{name}" in self.jobs]
        for stage, name in wanted:
            self._check(stage, name)

    def _check(self, stage: str, name: str) -> None:
        """Raises DataError where the file of all parameters lacks those of a job, or holds others than it can have."""
        jobs = self.resolved if isinstance(self.resolved, dict) else {}
        job = jobs.get(f"{stage}.{name}")
        try:
            records.typed(job if isinstance(job, dict) else {}, stage)
        except ValidationError as error:
            raise DataError(
                f"{self._path}: {stage}.{name}: {explained(error)}; make it again with `python -m stages.params`"
            ) from error

    def dataset(self, name: str) -> dict:
        """What the page says of a data set: its settings, counts, and the baselines' pictures and records."""
        wanted = self.resolved[f"dataset.{name}"]["dataset"]
        manifest = self._manifest(name)
        folder = self.args.results / "baseline" / name
        paths = {part: folder / f"{part}.json" for part in BASELINES}
        measured = {part: read_json(path, Measured) for part, path in paths.items() if path.is_file()}
        network = measured.get("initial", {})
        accuracy = network.get("features_accuracy")
        return {
            "name": name,
            "title": self.settings.datasets[name],
            "source": wanted["source"],
            "evaluate_on": wanted["evaluate_on"],
            "shape": " × ".join(map(str, manifest["shape"])) if manifest else f"{wanted['image_size']} pixels",
            "counts": {part: shown(manifest["counts"].get(part)) if manifest else "–" for part in ("train", "test")},
            "classes": shown(len(manifest["labels"])) if manifest and manifest["labels"] else "–",
            "facts": sentences(manifest) if manifest else [],
            "baseline": self._source(folder, f"baseline@{name}"),
            "classwise": measured.get("classwise", {}).get("n_images", 0) > 0,
            "held_out": "heldout" not in measured or measured["heldout"]["n_images"] > 0,
            "numbers": {part: _quality(record) for part, record in measured.items()},
            "classifier": "" if accuracy is None else f"{100 * accuracy:.1f} %",
            "warning": network.get("features_warning"),
        }

    def run(self, name: str) -> Run:
        """What the page says of a run."""
        args, settings, row = self.args, self.settings, self.settings.runs[name]
        trained = f"train@{name}" in self.jobs
        stages = [*(["curves"] if trained else []), *ANALYSIS_STAGES]
        analyses = {stage: self._analysis(stage, name) for stage in stages}
        summary = args.results / "summary" / f"{name}.json"
        return Run(
            name,
            row.method,
            settings.datasets[row.dataset],
            [f"{key} = {_plain(value)}" for key, value in settings.differences[name].items()],
            self._source(args.results / name / "sample", self.graph.address("sample", name)),
            analyses,
            trained,
            name in settings.analysed or any(analyses[stage].record for stage in ANALYSIS_STAGES),
            self._cost(name) if trained else {},
            _quality(read_json(summary, Summary)) if summary.is_file() else [],
        )

    def table(self, table: str, file: str) -> dict:
        """A table of results with its caption, or the reason why it failed; neither where it was not made."""
        path = self.args.results / "tables" / f"{file}.md"
        stage = "start" if table == "start" else "tables"
        job = self.jobs[f"{stage}@{self.settings.name if table == 'start' else table}"]
        content, caption = read_table(path) if path.is_file() else (None, "")
        reason = failures.reason((stage,), job.name, self.args.state)
        return {
            "name": file,
            "title": tables.module(table).TITLE,
            "caption": caption,
            "source": self._source(path.parent, job.address),
            "href": Path(os.path.relpath(path.with_suffix(".csv"), self.args.out.parent)).as_posix(),
            "table": content,
            "reason": reason,
            "applies": content is not None or bool(reason),
        }

    def _analysis(self, stage: str, run: str) -> Analysis:
        folder = self.args.results / run / "analyses" / stage
        address = f"{stage}@{run}"
        parameters = {key for section in STAGES[stage].sections() for key in SECTIONS[section].model_fields}
        reason = failures.reason((stage,), run, self.args.state)
        return Analysis(folder, self.args.out, address, self._cmd(address), parameters, reason)

    def _source(self, folder: Path, address: str) -> JobPictures:
        return JobPictures(folder, self.args.out, address, self._cmd(address))

    def _cmd(self, address: str) -> str:
        return self.jobs[address].cmd if address in self.jobs else ""

    def _manifest(self, dataset: str) -> dict | None:
        path = self.args.data / dataset / "manifest.json"
        return read_json(path, Origins) if path.is_file() else None

    def _cost(self, name: str) -> dict[str, str]:
        """Iterations, arithmetic and measured hours of a run's training, as far as they are known."""
        path = self.args.results / name / "train" / "cost.json"
        spent = read_json(path, Spent) if path.is_file() else {}
        iterations, flops, hours = (spent.get(key) for key in ("iterations", "flops", "hours"))
        return {
            "iterations": shown(iterations),
            "pflop": shown(None if flops is None else flops / 1e15),
            "hours": DASH if hours is None else f"{hours:.2f}",
        }


def _quality(record: dict) -> list[tuple[str, str]]:
    """The numbers of a metric record that head a run or a baseline."""
    keys = [key for key in QUALITY if record.get(key) is not None]
    found = [*keys, *(["accuracy"] if record.get("accuracy") is not None else [])]
    return [(label(key).replace(" %", ""), _with_unit(key, record[key])) for key in found]


def _with_unit(key: str, value: float) -> str:
    text = f"{in_print(key, value):.{decimals(key, DIGITS)}f}"
    return f"{text} %" if key in SHARES else text


def _plain(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _packages() -> list[tuple[str, str]]:
    found = [("Python", platform.python_version())]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found


def _hardware() -> str:
    """Processor, cores and GPU of the machine that makes the page."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    parts = [names[0] if names else platform.processor() or platform.machine(), f"{os.cpu_count()} cores"]
    if visible_ids():
        import torch  # which takes longer to start than the page to make

        if torch.cuda.is_available():
            parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
