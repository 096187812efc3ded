"""Compare two versions of the results: parameters, metrics, tables, samples, code.

A version is a git revision, a tag, a DVC experiment, or `workspace`. Files come from git and from DVC's cache or
remote; the workspace is not touched. Metrics are judged against the spread over seeds. Prints tables and writes
compare.md, compare.html and the samples' grids.
"""

import argparse
import re
import sys
from pathlib import Path

from mebm.engine.versions import WORKSPACE, Version
from mebm.files import owning, replacing, write_text


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="REV_A", help="the older version")
    parser.add_argument("b", metavar="REV_B", nargs="?", default=WORKSPACE, help="the newer version (%(default)s)")
    parser.add_argument("--out", type=Path, help="folder to write (results/compare/REV_A..REV_B)")


def run(args: argparse.Namespace) -> None:
    from mebm.show.compare import compare, to_html, to_markdown  # slow: scipy

    found = compare(Version(args.a), Version(args.b))
    _print(found)
    name = "..".join(re.sub(r"[^\w.-]", "-", rev) for rev in (args.a, args.b))
    out = args.out or Path("results") / "compare" / name
    pictures = {}
    for grid in found.grids:
        sides = (("a", grid.a), ("b", grid.b))
        pictures[grid.run] = tuple(f"{grid.run}.{side}.png" if content else None for side, content in sides)
    made = [path for paths in pictures.values() for path in paths if path]
    with owning(out, "compare", ["compare.md", "compare.html", *made]):
        for grid in found.grids:
            for path, content in zip(pictures[grid.run], (grid.a, grid.b), strict=True):
                if path:
                    with replacing(out / path) as temporary:
                        temporary.write_bytes(content)
        write_text(out / "compare.md", to_markdown(found, pictures))
        write_text(out / "compare.html", to_html(found))
    print(f"Page with samples side by side: {out}/compare.html (also compare.md)")


def _print(found) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    for note in found.notes:
        console.print(f"note: {note}")
    for part in found.parts:
        if not part.table.rows:
            console.print(f"\n{part.title}: {part.empty}")
            continue
        table = Table(title=part.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for cell, numeric in zip(part.table.head, part.table.numeric, strict=True):
            table.add_column(cell, justify="right" if numeric else "left", overflow="fold")
        for row in part.table.rows:
            table.add_row(*row)
        console.print(table)
        if part.text:
            console.print(part.text)
