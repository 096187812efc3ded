"""Write the record of every job of the suite: the parameters and the meaning of the code that decide what it computes.

Jobs depend on their records and not on params.yaml or source files, so an edit makes stale exactly the jobs whose
numbers it changes. This stage also checks the whole parameter file before any other stage starts, and refuses training
that would take too long here before anything is downloaded. It is the only stage that runs once, without a name.
"""

import argparse
import os
import sys
from pathlib import Path

from mebm.engine import locks as engine
from mebm.engine import mend, records
from mebm.engine.refusal import refuse_what_was_asked
from mebm.errors import MebmError, one_line
from mebm.files import refuse_links
from mebm.settings.suite import load_params
from stages import cli

DVC_STAGE = "DVC_STAGE"  # set for the commands of DVC's jobs


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stages.params", description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--logs", type=Path, default=Path("logs"), help="folder of the log file (%(default)s)")
    args = parser.parse_args(argv)
    try:
        if DVC_STAGE in os.environ:
            engine.refuse_beside_snakemake()
            mend.mend_or_stop()
        settings = load_params(args.params)
        refuse_links([str(args.out)])
        cli.open_log(args.logs / "params.log")
        refuse_what_was_asked(settings)
        written, removed = records.write(settings, args.out)
        cli.log.info("records of %d jobs: %d written, %d removed", len(settings.jobs()), written, removed)
    except MebmError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
