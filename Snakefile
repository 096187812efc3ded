# The graph as a table of contents, in pipeline order. Inputs, outputs and commands stand in dvc.yaml; every rule runs
# DVC's own single stage, so that DVC decides what is stale, keeps what was made, and both engines make the same
# artifacts. A rule that starts although nothing changed costs a second: DVC restores its outputs from the cache.
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # dvc of this environment

from mebm import params
from mebm.errors import MebmError
from mebm.pipeline import Graph

try:
    PARAMS = params.load("params.yaml")
    GRAPH = Graph("dvc.yaml", PARAMS)
    params.write_resolved(PARAMS, "results/params")
except MebmError as error:
    raise WorkflowError(str(error))

# Training takes the threads that the parameter file fixes; there is one CUDA device unless --resources gpu=N says more.
THREADS = PARAMS.resolve("train", next(iter(PARAMS.runs))).compute.cpu_threads
DVC = "dvc --wait-for-lock repro --single-item "


def needs(stage):
    return lambda wildcards: GRAPH.inputs(stage, wildcards.name)


def makes(stage):
    """Outputs; those without a suffix are folders."""
    return [out if "." in Path(out).name else directory(out) for out in GRAPH.patterns(stage)]


wildcard_constraints:
    name="|".join([*PARAMS.datasets, *PARAMS.runs, PARAMS.suite]),


rule all:
    input:
        "results/params/all.yaml",
        [out for job in GRAPH.jobs.values() for out in job.outs if job.stage != "params"],


rule params:
    # Reading this file has already written the resolved parameters; the job records them for DVC. It takes all cores
    # to run first and alone, because DVC locks the folder that every other job reads from.
    input:
        GRAPH.inputs("params"),
    output:
        "results/params/all.yaml",
    threads: workflow.cores or 1
    priority: 100
    shell:
        DVC + "params"


rule dataset:
    input:
        needs("dataset"),
    output:
        makes("dataset"),
    log:
        "logs/dataset.{name}.log",
    shell:
        DVC + "dataset@{wildcards.name}"


rule gaussian:
    input:
        needs("gaussian"),
    output:
        makes("gaussian"),
    log:
        "logs/gaussian.{name}.log",
    shell:
        DVC + "gaussian@{wildcards.name}"


rule features:
    input:
        needs("features"),
    output:
        makes("features"),
    log:
        "logs/features.{name}.log",
    threads: THREADS
    shell:
        DVC + "features@{wildcards.name}"


rule reference:
    input:
        needs("reference"),
    output:
        makes("reference"),
    log:
        "logs/reference.{name}.log",
    shell:
        DVC + "reference@{wildcards.name}"


rule baseline:
    input:
        needs("baseline"),
    output:
        makes("baseline"),
    log:
        "logs/baseline.{name}.log",
    shell:
        DVC + "baseline@{wildcards.name}"


rule train:
    input:
        needs("train"),
    output:
        makes("train"),
    log:
        "logs/train.{name}.log",
    threads: THREADS
    priority: 10
    resources:
        gpu=1,
    shell:
        DVC + "train@{wildcards.name}"


rule sample:
    input:
        needs("sample"),
    output:
        makes("sample"),
    log:
        "logs/sample.{name}.log",
    shell:
        DVC + "sample@{wildcards.name}"


rule quality:
    input:
        needs("quality"),
    output:
        makes("quality"),
    log:
        "logs/quality.{name}.log",
    shell:
        DVC + "quality@{wildcards.name}"


rule accuracy:
    input:
        needs("accuracy"),
    output:
        makes("accuracy"),
    log:
        "logs/accuracy.{name}.log",
    shell:
        DVC + "accuracy@{wildcards.name}"


rule plots:
    input:
        needs("plots"),
    output:
        makes("plots"),
    log:
        "logs/plots.{name}.log",
    shell:
        DVC + "plots@{wildcards.name}"


rule summary:
    input:
        needs("summary"),
    output:
        makes("summary"),
    log:
        "logs/summary.{name}.log",
    shell:
        DVC + "summary@{wildcards.name}"


rule tables:
    input:
        needs("tables"),
    output:
        makes("tables"),
    log:
        "logs/tables.{name}.log",
    shell:
        DVC + "tables@{wildcards.name}"
