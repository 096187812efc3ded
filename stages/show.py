"""Print the tables of the suite in use and say where its pictures are. Reads only what the pipeline made."""

import argparse
import sys
from pathlib import Path

from mebm import params
from mebm.errors import MebmError, one_line
from mebm.files import read_text, require


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stages.show", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file (%(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the results (%(default)s)")
    args = parser.parse_args(argv)
    try:
        settings = params.load(args.params)
        names = [*settings.tables, f"start_{settings.suite}"]
        tables = [require(args.results / "tables" / f"{name}.md") for name in names]
        for table in tables[: len(settings.tables)]:
            print(f"\n{read_text(table)}")
    except MebmError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    print(f"Tables:  {', '.join(map(str, tables))} (also .csv and .tex)")
    print(f"Report:  {args.results}/{settings.suite}/report.html")
    for run in settings.runs:
        folder = args.results / run
        more = f", curves {args.results}/analyses/{run}/curves/figures/" if run in settings.trained else ""
        print(f"{run}:  samples {args.results}/analyses/{run}/sample/grid.png{more}")
    for dataset in settings.datasets:
        folder = args.results / "baseline" / dataset
        print(f"{dataset}:  initial draws {folder}/initial.png, held-out images {folder}/heldout.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
