# The graph for Snakemake, built from dvc.yaml: one rule a stage, one job an entry of the suite. Every rule runs DVC's own
# single stage, so that DVC decides what is stale, keeps what was made, and both engines make the same artifacts. A job
# that starts although nothing changed costs a second: DVC restores its outputs from the cache.
#   dataset, gaussian, features, reference, baseline   once a data set
#   compared                                           once a set that models are only compared on
#   train, curves                                      once a trained run
#   import_checkpoint                                  once a checkpoint of the public release
#   sample, quality, accuracy, summary                 once a run of either kind
#   generate, pictures, neighbours, embedding, ood, calibration, robustness   once an analysed run
#   tables, start                                      once a table, and once the table of initial distributions
#   metrics, report                                    once
import atexit
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # dvc of this environment

from mebm import params
from mebm.errors import MebmError, ParamsError
from mebm.files import write_text
from mebm.pipeline import PARAMS_STAGE, Graph
from mebm.times import settle
from stages.locks import readers, repair_record

# --config set=runs.NAME.train.n_steps=10 plans with the value and, when jobs start, writes it into params.yaml, as
# `dvc exp run -S` does, so that both engines go on from the same file.
SET = config.pop("set", [])
SET = SET if isinstance(SET, list) else [SET]


def stop(error):
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(1)


def follow_file():
    """The resolved parameters are those of params.yaml again: after a dry run, or where nothing was started."""
    try:
        params.write_resolved(params.load("params.yaml"), "results/params", readers())
    except (MebmError, OSError):
        pass  # the next command says what is wrong


repair_record()
try:
    if config:
        raise ParamsError(f"--config {next(iter(config))}: unknown; known: set=runs.NAME.SECTION.KEY=VALUE")
    PARAMS = params.override("params.yaml", SET, write=False)
    GRAPH = Graph("dvc.yaml", PARAMS)
    params.write_resolved(PARAMS, "results/params", readers())
    if SET and workflow.is_main_process:
        atexit.register(follow_file)
    if workflow.is_main_process:
        settle(GRAPH)
    PENDING = ["logs/set.txt"] if SET and params.differ("params.yaml", SET) else []
    for path in PENDING:
        write_text(path, "".join(f"{assignment}\n" for assignment in SET))
except MebmError as error:
    stop(error)

DVC = "dvc --wait-for-lock repro --single-item "
PRIORITY = {"train": 10}  # the longest jobs first


def needs(stage):
    return lambda wildcards: GRAPH.inputs(stage, wildcards.name)


def n_threads(stage, name):
    """Threads of a job, as the parameter file fixes them."""
    compute = getattr(PARAMS.resolve(stage, name), "compute", None)
    return compute.cpu_threads if compute else 1


def n_devices(stage, name):
    """GPUs of a job: it takes them itself and waits for them; --resources gpu=N bounds how many are asked for at once."""
    return PARAMS.resolve("train", name).train.devices if stage == "train" else 0


def makes(stage):
    """Outputs; those without a suffix are folders."""
    return [out if "." in Path(out).name else directory(out) for out in GRAPH.patterns(stage)]


onstart:
    before = Path("params.yaml").read_text(encoding="utf-8")
    try:
        params.override("params.yaml", SET, write=True)
    except (MebmError, OSError) as error:
        stop(error)
    # Elsewhere (Slurm), this machine's speed says nothing: every training checks its own cost where it runs.
    if workflow.local_exec and any(not Path(out).exists() for job in GRAPH.of("train") for out in job.outs):
        if subprocess.run([sys.executable, "-m", "stages.cost"]).returncode:
            if SET:
                write_text("params.yaml", before)
            stop("nothing was started, for the reason above")


rule all:
    input:
        "results/params/all.yaml",
        [out for job in GRAPH.jobs.values() for out in job.outs if job.stage != PARAMS_STAGE],


rule params:
    # Reading this file has already written the resolved parameters; the job records them for DVC. It takes all cores
    # to run first and alone, because DVC locks the folder that every other job reads from.
    input:
        GRAPH.inputs(PARAMS_STAGE) + PENDING,
    output:
        "results/params/all.yaml",
    threads: workflow.resource_settings.cores or 1
    priority: 100
    shell:
        DVC + PARAMS_STAGE


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
            threads: lambda wildcards, rule=stage: n_threads(rule, wildcards.name)
            priority: PRIORITY.get(stage, 0)
            resources:
                gpu=lambda wildcards, rule=stage: n_devices(rule, wildcards.name),
            shell:  # formatted when the job runs, so it must not use the loop's variable
                DVC + "{rule}@{wildcards.name}"
