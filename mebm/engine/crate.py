"""What a bundle holds and how it was made, for machines: `ro-crate-metadata.json`, a Workflow Run RO-Crate.

Profiles: RO-Crate 1.1, Workflow RO-Crate 1.0, and Process, Workflow and Provenance Run Crate 0.5
(https://w3id.org/ro/wfrun). The workflow is the Snakefile with its rules as steps. One action stands for the whole run,
and one for each job in DVC's lock file, with what it read and made. What is recorded there and not in the bundle
(weights, chains, data) is described by its MD5.
"""

import hashlib
import json
import mimetypes
import tomllib
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from mebm.engine.graph import parts
from mebm.errors import DataError, shown

METADATA = "ro-crate-metadata.json"
WORKFLOW, PARAMETERS, PROJECT = "Snakefile", "params.yaml", "pyproject.toml"
CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
LANGUAGE = "https://w3id.org/workflowhub/workflow-ro-crate#snakemake"
WORKFLOW_CRATE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
RUN_PROFILES = {name: f"https://w3id.org/ro/wfrun/{name}/0.5" for name in ("process", "workflow", "provenance")}
SOFTWARE = ("snakemake", "dvc", "torch", "mebm")  # beside Python; environment.json lists every package
TYPES = {".yaml": "application/yaml", ".lock": "text/plain", ".toml": "application/toml", ".md": "text/markdown"}
TYPES |= {".tex": "application/x-tex", ".webp": "image/webp"}

Entity = dict[str, Any]
SUMS: Entity = {"@id": "SHA256SUMS", "@type": "File", "name": "SHA256SUMS", "encodingFormat": "text/plain"}


def crate(suite: str, contents: dict[str, bytes], stages: dict[str, dict], environment: dict) -> bytes:
    """The metadata of a bundle as JSON-LD. Equal arguments give equal bytes.

    suite: its name. contents: the other files of the bundle, by path. stages: the jobs in DVC's lock file, by address.
    environment: as `bundle.environment` gives it. Raises DataError where the bundle lacks the workflow, its parameters
    or the project's licence.
    """
    if missing := [name for name in (WORKFLOW, PARAMETERS, PROJECT) if name not in contents]:
        raise DataError(f"{missing[0]}: no such file, but a bundle describes it; restore it from version control")
    licence = _licence(contents[PROJECT])
    made = _Made(contents)
    steps = list(dict.fromkeys(parts(address)[0] for address in stages))
    actions = [_job(address, stage, made) for address, stage in stages.items()]
    written = {entry["path"] for stage in stages.values() for entry in stage.get("outs", [])}
    read = [entry for stage in stages.values() for entry in stage.get("deps", [])]
    inside = written.union(*map(_above, written))  # and folders of outputs, which some jobs read as a whole
    origins = [
        made.id_of(entry) for entry in read if entry["path"] not in inside and not written & _above(entry["path"])
    ]
    results = [result for action in actions for result in action["result"]]
    software = [_software(name, environment) for name in ("python", *SOFTWARE)]
    software = [entity for entity in software if entity["softwareVersion"]]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"mebm: results of the suite {suite}",
        "description": "Parameters, metrics, tables, figures and the record of every job. Of weights, chains and data "
        "sets there is the MD5 alone.",
        "conformsTo": [_ref(address) for address in (*RUN_PROFILES.values(), WORKFLOW_CRATE)],
        "datePublished": environment["date"],
        "license": _ref(f"https://spdx.org/licenses/{licence}"),
        "mainEntity": _ref(WORKFLOW),
        "mentions": [_ref("#run"), _ref("#organise"), *(_ref(action["@id"]) for action in actions)],
        "hasPart": made.top(),
    }
    run = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"run of the suite {suite}",
        "actionStatus": _ref("http://schema.org/CompletedActionStatus"),
        "instrument": _ref(WORKFLOW),
        "object": _unique(origins),
        "result": _unique(results),
    }
    graph = [
        {
            "@id": METADATA,
            "@type": "CreativeWork",
            "about": _ref("./"),
            "conformsTo": [_ref("https://w3id.org/ro/crate/1.1"), _ref(WORKFLOW_CRATE)],
        },
        root,
        {"@id": root["license"]["@id"], "@type": "CreativeWork", "name": licence},
        *(
            {"@id": address, "@type": "CreativeWork", "name": f"{name.title()} Run Crate", "version": "0.5"}
            for name, address in RUN_PROFILES.items()
        ),
        {"@id": WORKFLOW_CRATE, "@type": "CreativeWork", "name": "Workflow RO-Crate", "version": "1.0"},
        _language(environment),
        *software,
        *_workflow(steps, software, made),
        run,
        *_organised(actions),
        *actions,
        *made.entities(),
    ]
    return (json.dumps({"@context": CONTEXT, "@graph": graph}, indent=1, sort_keys=True) + "\n").encode()


def _licence(project: bytes) -> str:
    """The project's licence, as its pyproject.toml names it."""
    try:
        found = tomllib.loads(project.decode()).get("project", {}).get("license")
    except ValueError as error:  # TOML's, and of other encodings
        raise DataError(f"{PROJECT}: cannot be read ({error}); restore it from version control") from error
    if not isinstance(found, str):
        raise DataError(f'{PROJECT}: project.license is {shown(found)}, expected an SPDX name such as "MIT"')
    return found


def _ref(identifier: str) -> Entity:
    return {"@id": identifier}


def _above(path: str) -> set[str]:
    return set(map(str, PurePosixPath(path).parents))


def _unique(refs: list[Entity]) -> list[Entity]:
    return [_ref(identifier) for identifier in dict.fromkeys(ref["@id"] for ref in refs)]


class _Made:
    """Files and folders by their paths: as parts of the bundle, or, where it lacks them, as what was recorded."""

    def __init__(self, contents: dict[str, bytes]):
        self._files = {name: self._file(name, content) for name, content in sorted(contents.items())}
        self._folders: dict[str, Entity] = {}
        self._outside: dict[str, Entity] = {}

    @staticmethod
    def _file(name: str, content: bytes) -> Entity:
        suffix = PurePosixPath(name).suffix
        return {
            "@id": quote(name),
            "@type": "File",
            "name": name,
            "contentSize": str(len(content)),
            "sha256": hashlib.sha256(content).hexdigest(),
            "encodingFormat": TYPES.get(suffix) or mimetypes.types_map.get(suffix, "text/plain"),
        }

    def id_of(self, entry: Entity, parameter: str | None = None) -> Entity:
        """The entity of an entry of DVC's lock file. parameter: of the workflow, whose value it is."""
        path = entry["path"]
        inside = [file for name, file in self._files.items() if name.startswith(f"{path}/")]
        if path in self._files:
            entity = self._files[path]
        elif inside:
            new = {
                "@id": quote(f"{path}/"),
                "@type": "Dataset",
                "name": path,
                "hasPart": [_ref(f["@id"]) for f in inside],
            }
            entity = self._folders.setdefault(path, new)
        else:
            new = {"@id": f"#{quote(path)}", "@type": "CreativeWork", "name": path, "identifier": f"md5:{entry['md5']}"}
            size = {"contentSize": str(entry["size"])} if "size" in entry else {}
            entity = self._outside.setdefault(path, new | size)
        if parameter:
            entity["exampleOfWork"] = _ref(parameter)
        return _ref(entity["@id"])

    def with_more(self, name: str, more: Entity) -> Entity:
        """A file of the bundle, of which there is more to say."""
        return self._files[name] | more

    def top(self) -> list[Entity]:
        """References to all files and folders of the bundle."""
        return [_ref(entity["@id"]) for entity in (*self._files.values(), SUMS, *self._folders.values())]

    def entities(self) -> list[Entity]:
        """All of them but the workflow, which says more of itself."""
        files = [file for name, file in self._files.items() if name != WORKFLOW]
        return [*files, SUMS, *self._folders.values(), *self._outside.values()]


def _job(address: str, stage: dict, made: _Made) -> Entity:
    """A job as DVC recorded it."""
    step, _ = parts(address)
    return {
        "@id": f"#job/{quote(address)}",
        "@type": "CreateAction",
        "name": address,
        "description": stage["cmd"],
        "actionStatus": _ref("http://schema.org/CompletedActionStatus"),
        "instrument": _ref(f"#tool/{step}"),
        "object": [
            made.id_of(entry, f"#parameter/{PARAMETERS}" if entry["path"] == PARAMETERS else None)
            for entry in stage.get("deps", [])
        ],
        "result": [made.id_of(entry, f"#parameter/{step}") for entry in stage.get("outs", [])],
    }


def _organised(actions: list[Entity]) -> list[Entity]:
    """How the engine ran the jobs: a control of each, and the whole."""
    controls = [
        {
            "@id": action["@id"].replace("#job/", "#control/"),
            "@type": "ControlAction",
            "name": f"orchestrate {action['name']}",
            "instrument": _ref(action["instrument"]["@id"].replace("#tool/", "#step/")),
            "object": _ref(action["@id"]),
        }
        for action in actions
    ]
    whole = {
        "@id": "#organise",
        "@type": "OrganizeAction",
        "name": "DVC, which runs and records every job under either engine",
        "instrument": _ref("#software/dvc"),
        "object": [_ref(control["@id"]) for control in controls],
        "result": _ref("#run"),
    }
    return [whole, *controls]


def _workflow(steps: list[str], software: list[Entity], made: _Made) -> list[Entity]:
    """The Snakefile, its steps, the tools that they run, and its parameters."""
    tools = [{"@id": f"#tool/{step}", "@type": "SoftwareApplication", "name": f"stages.{step}"} for step in steps]
    marks = [
        {
            "@id": f"#step/{step}",
            "@type": "HowToStep",
            "name": step,
            "position": str(position),
            "workExample": _ref(f"#tool/{step}"),
        }
        for position, step in enumerate(steps)
    ]
    names = {PARAMETERS: "every number of the suite", **{step: f"what the stage {step} makes" for step in steps}}
    formal = [
        {
            "@id": f"#parameter/{name}",
            "@type": "FormalParameter",
            "additionalType": "File",
            "conformsTo": _ref("https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"),
            "name": name,
            "description": text,
            "multipleValues": "True" if name != PARAMETERS else "False",
        }
        for name, text in names.items()
    ]
    workflow = made.with_more(
        WORKFLOW,
        {
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
            "name": "mebm",
            "programmingLanguage": _ref(LANGUAGE),
            "conformsTo": _ref("https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"),
            "input": [_ref(formal[0]["@id"])],
            "output": [_ref(entity["@id"]) for entity in formal[1:]],
            "step": [_ref(step["@id"]) for step in marks],
            "hasPart": [_ref(tool["@id"]) for tool in tools],
            "softwareRequirements": [_ref(entity["@id"]) for entity in software],
        },
    )
    return [workflow, *formal, *marks, *tools]


def _language(environment: dict) -> Entity:
    return {
        "@id": LANGUAGE,
        "@type": "ComputerLanguage",
        "name": "Snakemake",
        "identifier": _ref("https://doi.org/10.1093/bioinformatics/bts480"),
        "url": _ref("https://snakemake.readthedocs.io"),
        "version": environment["packages"].get("snakemake", ""),
    }


def _software(name: str, environment: dict) -> Entity:
    version = environment["python"] if name == "python" else environment["packages"].get(name)
    return {"@id": f"#software/{name}", "@type": "SoftwareApplication", "name": name, "softwareVersion": version}
