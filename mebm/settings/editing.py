"""Values set in a parameter file or on a command line, without touching the rest of it."""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mebm.errors import ParamsError, shown
from mebm.files import write_text
from mebm.settings.reading import flow, parse_yaml
from mebm.settings.schema import SECTIONS, Section
from mebm.settings.stages import RUN_SECTIONS
from mebm.settings.suite import Params, parse_params, read_params
from mebm.settings.wording import explain


def differ(path: str | Path, assignments: list[str]) -> bool:
    """Whether setting the values would change the file."""
    text = Path(path).read_text(encoding="utf-8")
    return with_values(text, assignments) != text


def override(path: str | Path, assignments: list[str], write: bool) -> Params:
    """Read and check a parameter file with values set as `with_values` does, and write them into it if all is well.

    Raises ParamsError as `load_params` does, and for a shared value that the suite's defaults lie over.
    """
    path = Path(path)
    before = read_params(path)
    text = with_values(before, assignments) if assignments else before
    params = parse_params(path, text)
    for assignment in assignments:
        section, *key = str(assignment).lstrip("+").partition("=")[0].strip().split(".")
        if section != "runs" and params.suite_sets(section, key[0]):
            by_run = f"set runs.NAME.{section}.{key[0]}, or " if section in RUN_SECTIONS else ""
            raise ParamsError(
                f"{shown(assignment)}: has no effect, since the defaults of the suite {params.suite!r} set "
                f"{section}.{key[0]}; {by_run}edit {path}"
            )
    if write and text != before:
        write_text(path, text)
    return params


def comments(path: str | Path, section: str) -> dict[str, str]:
    """What a parameter file says of each key of a section: the comments at the ends of its lines."""
    found, inside = {}, False
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line and not line[0].isspace():
            inside = line.startswith(f"{section}:")
        elif inside and (match := re.match(r"  (\w+): [^#]*# (.*)", line)):
            found[match[1]] = match[2]
    return found


def changed(section: Section, text: dict[str, str]) -> Section:
    """The section with values from a command line, by key, as the parameter file would hold them.

    Raises ParamsError naming the flag, what was found and what is accepted.
    """
    values = section.model_dump()
    for key, word in text.items():
        flag = f"--{key.replace('_', '-')}"
        try:
            value = parse_yaml(word)
            field = type(section).model_fields[key]
            wants_float = float in (field.annotation, *getattr(field.annotation, "__args__", ()))
            values[key] = value
            type(section).model_validate(values)
            values[key] = float(value) if wants_float and value is not None else value
        except (yaml.YAMLError, RecursionError) as error:
            raise ParamsError(f"{flag}: {shown(word)} is not a value") from error
        except ValidationError as error:
            raise ParamsError(f"{flag}: {explain(error.errors()[0], type(section))}") from error
    return type(section).model_validate(values)


def with_values(text: str, assignments: list[str]) -> str:
    """A parameter file's text with values set: "SECTION.KEY=VALUE" or "runs.NAME.SECTION.KEY=VALUE", VALUE as in YAML.

    Only the lines of those values change. The "+" or "++" before a path, with which DVC adds a key, is allowed. Raises
    ParamsError for what is no such assignment; whether the result is a valid file is for `load` to say.
    """
    for assignment in map(str, assignments):
        path, sign, word = assignment.lstrip("+").partition("=")
        keys = path.strip().split(".")
        try:
            value = parse_yaml(word)
        except (yaml.YAMLError, RecursionError) as error:
            raise ParamsError(f"{shown(assignment)}: {shown(word)} is not a value") from error
        if sign and keys[0] == "runs" and len(keys) == 4:
            text = _with_run_value(text, keys[1:], value)
        elif sign and keys[0] in SECTIONS and len(keys) == 2:
            line = re.compile(
                rf"(^{keys[0]}:.*\n(?:[ #].*\n|\n)*?  {re.escape(keys[1])}: )[^#\n]*?( *#.*)?$", re.MULTILINE
            )
            text, count = line.subn(lambda match, v=value: f"{match[1]}{flow(v)}{match[2] or ''}", text)
            if not count:
                raise ParamsError(f"{shown(assignment)}: the section {keys[0]} has no line of the key {shown(keys[1])}")
        else:
            raise ParamsError(
                f"{shown(assignment)}: is no assignment; expected SECTION.KEY=VALUE or runs.NAME.SECTION.KEY=VALUE, "
                "such as runs.mjem_mnist.train.n_steps=10"
            )
    return text


def _with_run_value(text: str, keys: list[str], value: Any) -> str:
    # what belongs to it ends with its last indented line; blank lines and comments may stand between those
    block = re.compile(r"^runs:[^\n#]*(#.*)?\n(?:(?:[ \t]*\n|#.*\n)*[ ]+[^\s].*\n)*", re.MULTILINE)
    match = block.search(text)
    runs = (parse_yaml(match[0])["runs"] if match else None) or {}
    name, section, key = keys
    runs.setdefault(name, {}).setdefault(section, {})[key] = value
    comment = f" {match[1]}" if match and match[1] else ""
    line = f"runs: {flow(runs)}{comment}\n"
    return text[: match.start()] + line + text[match.end() :] if match else f"{line}\n{text}"
