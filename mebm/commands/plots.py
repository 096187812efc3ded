"""Draw the curves of finished runs with DVC, on a page that needs no network.

The page of `dvc plots show` takes its scripts from the network. Here they are put into it, from the copies that
Snakemake brings for its own report.

    python -m mebm plots                 # curves of the results that lie here
    python -m mebm plots HEAD~1          # those of other versions beside them
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from mebm.errors import DataError
from mebm.files import owning, read_text, write_text

NAME = "index.html"
SCRIPT = re.compile(r'<script[^>]*\ssrc="https://[^"]*/(vega|vega-lite|vega-embed)@[^"]*"[^>]*></script>')


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("revisions", nargs="*", metavar="REV", help="versions to draw besides the present results")
    parser.add_argument(
        "--out", type=Path, default=Path("dvc_plots"), metavar="FOLDER", help="folder to write (%(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    what = ["diff", *args.revisions, "workspace"] if args.revisions else ["show"]
    with owning(args.out, "plots", [NAME]), tempfile.TemporaryDirectory() as folder:  # DVC would write over any file
        command = [sys.executable, "-m", "dvc", "plots", *what, "--out", folder]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
        page = Path(folder) / NAME
        if done.returncode:
            raise DataError(f"dvc plots: {_reason(done.stderr)}")
        if not page.is_file():
            raise DataError(
                "dvc plots: found no curves; run `snakemake` first, with runs that the suite lists as analysed"
            )
        write_text(args.out / NAME, with_scripts(read_text(page)))
    print(args.out / NAME)


def with_scripts(page: str) -> str:
    """The text of a page of DVC with the scripts in it that it names. Raises DataError where one is not known."""
    from snakemake.assets import Assets

    def script(found: re.Match) -> str:
        return f"<script>{Assets.get_content(f'{found[1]}/{found[1]}.js')}</script>"

    page = SCRIPT.sub(script, page)
    if other := re.search(r'<script[^>]*\ssrc="([^"]*)"', page):
        raise DataError(f"dvc plots: its page wants {other[1]}, which is not known here; use `dvc plots show`")
    return page


def _reason(said: str) -> str:
    """DVC's own line of what went wrong."""
    lines = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    return (lines or said.strip().splitlines() or ["it failed and said nothing"])[-1]
