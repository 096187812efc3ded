# The graph for Snakemake, built from dvc.yaml: one rule per stage, one job per data set, run, table or suite that the
# stage is for. Every rule runs DVC's own single stage, so that DVC keeps what was made and both engines make the same
# artifacts. Which jobs are stale is decided once, by contents (mebm/engine/plan.py): neither file times nor what Snakemake
# remembers of its own runs count. docs/engines.md says why, and what `snakemake --lint` finds.
#
#   params                                                once: the record of every job, from params.yaml and the code
#   dataset, gaussian, features, reference, baseline      per data set
#   compared                                              per data set that models are only compared on
#   train, curves                                         per trained run
#   import_checkpoint                                     per imported run
#   sample, quality, accuracy, summary, inventory         per run of either kind
#   generate, pictures, neighbours, embedding, ood, calibration, robustness   per analysed run
#   tables                                                per table
#   start, metrics, report                                per suite
import sys

from snakemake.utils import min_version

min_version("9.27")
sys.path.insert(0, workflow.basedir)  # the package beside this file, wherever Snakemake is installed

from mebm.engine.planning import PARAMS_STAGE, PYTHON, open_plan

PLAN = open_plan(workflow, config)  # changes nothing; --config 'set=[runs.NAME.SECTION.KEY=VALUE, ...]'
PRIORITY = {"train": 10}  # the longest jobs first


onstart:
    PLAN.start()


rule all:
    input:
        PLAN.targets,


rule params:
    # It takes all cores to run first and alone, because DVC locks the folder that every other job reads from.
    input:
        PLAN.inputs(PARAMS_STAGE),
    output:
        PLAN.outputs(PARAMS_STAGE),
    log:
        "logs/params.log",
    params:
        python=PYTHON,
        job=PARAMS_STAGE,
        force=PLAN.force(PARAMS_STAGE),
    threads: workflow.resource_settings.cores or 1
    priority: 100
    shell:
        "{params.python} -m mebm.engine.job {params.force} {params.job}"


for stage in PLAN.stages:

    rule:
        name:
            stage
        wildcard_constraints:
            name="|".join(PLAN.names(stage)),
        input:
            PLAN.inputs(stage),
        output:
            PLAN.outputs(stage),
        log:
            f"logs/{stage}.{{name}}.log",
        params:
            python=PYTHON,
            job=PLAN.job(stage),
            force=PLAN.force(stage),
        threads: PLAN.threads(stage)
        priority: PRIORITY.get(stage, 0)
        resources:
            gpu=PLAN.devices(stage),
        shell:
            "{params.python} -m mebm.engine.job {params.force} {params.job}"
