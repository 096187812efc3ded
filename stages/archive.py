"""Bundle a suite for a paper's supplement: parameters, lock files, metrics, tables, figures, environment, checksums.

Run it in the project's folder, with all jobs of the suite up to date. `python -m stages.verify FILE` checks the result.
"""

import argparse
import platform
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from mebm.engine.bundle import bundle
from mebm.engine.graph import PARAMS_STAGE, Graph
from mebm.engine.plan import make_plan
from mebm.errors import DataError, MebmError, one_line
from mebm.settings.suite import load_params


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stages.archive", description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, help="file to write (results/<suite>.zip)")
    args = parser.parse_args(argv)
    try:
        settings = load_params("params.yaml")
        out = args.out or Path("results") / f"{settings.suite}.zip"
        graph = Graph("dvc.yaml", settings)
        plan = make_plan(graph, settings, settings.path.read_text(encoding="utf-8"))
        # an edit that changes no record leaves the results what they are
        stale = [
            address for address in plan.stale if address != PARAMS_STAGE or "params.yaml" in str(plan.own[address])
        ]
        if stale:
            more = f" and {len(stale) - 3} more" if len(stale) > 3 else ""
            raise DataError(
                f"{', '.join(stale[:3])}{more}: not up to date, so the bundle would not hold what params.yaml says; "
                "run `snakemake` first"
            )
        count = bundle(Path("."), graph, environment(), out)
    except MebmError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    print(f"{out}: {count} files, {out.stat().st_size / 1e6:.1f} MB")
    return 0


def environment() -> dict:
    """Python, packages, operating system, and the commit of the code."""
    packages = {found.metadata["Name"]: found.version for found in distributions()}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
        "commit": _git("rev-parse", "HEAD"),
        "modified": (_git("status", "--porcelain", "--untracked-files=no") or "").splitlines(),
    }


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], capture_output=True, encoding="utf-8", errors="replace", check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
