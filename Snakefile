# The graph for Snakemake, built from dvc.yaml: one rule per stage, one job per entry of the suite. Every rule runs DVC's
# own single stage, so that DVC keeps what was made and both engines make the same artifacts. Which jobs are stale is
# decided once, by contents (mebm/engine/plan.py): neither file times nor what Snakemake remembers of its own runs count. A
# stale job has the file of reasons as one more input, newer than everything; the inputs of all others are `ancient`.
#   dataset, gaussian, features, reference, baseline   once per data set
#   compared                                           once per set that models are only compared on
#   train, curves                                      once per trained run
#   import_checkpoint                                  once per checkpoint of the public release
#   sample, quality, accuracy, summary                 once per run of either kind
#   generate, pictures, neighbours, embedding, ood, calibration, robustness   once per analysed run
#   tables, start                                      once per table, and once the table of initial distributions
#   metrics, report                                    once
import os
import shlex
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # python of this environment

from mebm.engine import planning
from mebm.errors import MebmError, one_line
from mebm.engine.graph import PARAMS_STAGE, RECORDS

ALL = f"{RECORDS}/all.yaml"  # written last of the records
JOB = f"{shlex.quote(sys.executable)} -m mebm.engine.job "
PRIORITY = {"train": 10}  # the longest jobs first


def stop(error):
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(1)


try:
    PLANNED = planning.Planned(workflow, config)
except MebmError as error:
    stop(error)
GRAPH = PLANNED.graph


def needs(stage):
    return lambda wildcards: PLANNED.inputs(stage, wildcards.get("name", ""), ancient)


def force(address):
    return lambda wildcards: "--force" if address.format(**wildcards) in PLANNED.forced else ""


def makes(stage):
    """Outputs; those without a suffix are folders."""
    return [out if "." in Path(out).name else directory(out) for out in GRAPH.patterns(stage)]


onstart:
    try:
        PLANNED.start()
    except (MebmError, OSError) as error:
        stop(error)


rule all:
    input:
        ALL,
        [out for job in GRAPH.jobs.values() for out in job.outs if job.stage != PARAMS_STAGE],


rule params:
    # It takes all cores to run first and alone, because DVC locks the folder that every other job reads from.
    input:
        needs(PARAMS_STAGE),
    output:
        ALL,
    params:
        force=force(PARAMS_STAGE),
    threads: workflow.resource_settings.cores or 1
    priority: 100
    shell:
        JOB + "{params.force} " + PARAMS_STAGE


for stage in GRAPH.stages:
    if stage != PARAMS_STAGE and GRAPH.of(stage):

        rule:
            name:
                stage
            wildcard_constraints:
                name="|".join(job.name for job in GRAPH.of(stage)),
            input:
                needs(stage),
            output:
                makes(stage),
            log:
                f"logs/{stage}.{{name}}.log",
            params:
                force=force(f"{stage}@{{name}}"),
            threads: lambda wildcards, rule=stage: PLANNED.threads(rule, wildcards.name)
            priority: PRIORITY.get(stage, 0)
            resources:
                gpu=lambda wildcards, rule=stage: PLANNED.devices(rule, wildcards.name),
            shell:  # formatted when the job runs, so it must not use the loop's variable
                JOB + "{params.force} {rule}@{wildcards.name}"
