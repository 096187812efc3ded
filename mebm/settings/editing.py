"""Set values in a parameter file, or on a command line. In a file every byte but those of the value stays."""

import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

from mebm.errors import ParamsError, shown
from mebm.files import write_text
from mebm.settings.reading import NotYaml, flow, nodes, parse
from mebm.settings.schema import SECTIONS, Section
from mebm.settings.stages import RUN_SECTIONS
from mebm.settings.suite import Params, parse_params, read_params
from mebm.settings.wording import explain

AnySection = TypeVar("AnySection", bound=Section)


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


def with_values(text: str, assignments: list[str]) -> str:
    """A parameter file's text with values set: "SECTION.KEY=VALUE" or "runs.NAME.SECTION.KEY=VALUE", VALUE as in YAML.

    The "+" or "++" before a path, with which DVC adds a key, is allowed. Raises ParamsError for what is no such
    assignment, and where the text is not YAML; whether the result is a valid file is for `load_params` to say.
    """
    for assignment in map(str, assignments):
        path, sign, word = assignment.lstrip("+").partition("=")
        keys = path.strip().split(".")
        try:
            value = parse(word)
        except NotYaml as error:
            raise ParamsError(f"{shown(assignment)}: {shown(word)} is not a value") from error
        in_runs = keys[0] == "runs" and len(keys) == 4
        if not sign or not (in_runs or (keys[0] in SECTIONS and len(keys) == 2)):
            raise ParamsError(
                f"{shown(assignment)}: cannot be set from a command line; expected SECTION.KEY=VALUE or "
                "runs.NAME.SECTION.KEY=VALUE, such as runs.mjem_mnist.train.n_steps=10"
            )
        try:
            changed_text = _with_value(text, keys, value, add=in_runs)
        except NotYaml as error:
            raise ParamsError(f"{shown(assignment)}: the file is not valid YAML: {error}") from error
        if changed_text is None:
            raise ParamsError(f"{shown(assignment)}: the section {keys[0]} has no line of the key {shown(keys[1])}")
        text = changed_text
    return text


def comments(path: str | Path, section: str) -> dict[str, str]:
    """What a parameter file says of each key of a section: the comments at the ends of its lines."""
    text = read_params(Path(path))
    try:
        root = nodes(text)
    except NotYaml:
        return {}
    found = {}
    of = next((value for key, value in _pairs(root) if key.value == section), None)
    for key, value in _pairs(of):
        _, sign, comment = text[_span(text, key, value)[1] :].partition("\n")[0].partition("#")
        if sign:
            found[key.value] = comment.strip()
    return found


def changed(section: AnySection, text: dict[str, str]) -> AnySection:
    """The section with values from a command line, by key, as the parameter file would hold them.

    Raises ParamsError naming the flag, what was found and what is accepted.
    """
    kind, values = type(section), section.model_dump()
    for key, word in text.items():
        flag = f"--{key.replace('_', '-')}"
        try:
            values[key] = parse(word)
            kind.model_validate(values)
        except NotYaml as error:
            raise ParamsError(f"{flag}: {shown(word)} is not a value") from error
        except ValidationError as error:
            raise ParamsError(f"{flag}: {explain(error.errors()[0], kind)}") from error
    return kind.model_validate(values)


# ---------------------------------------------------------------- places in a text


def _with_value(text: str, keys: list[str], value: Any, add: bool) -> str | None:
    """The text with the value at those keys. add: write keys that are missing; without it None where one is."""
    node = nodes(text)
    for depth, key in enumerate(keys):
        pair = next((pair for pair in _pairs(node) if pair[0].value == key), None)
        rest = value
        for name in reversed(keys[depth + 1 :]):
            rest = {name: rest}
        if pair is None:
            return _inserted(text, node, key, rest) if add and isinstance(node, MappingNode) else None
        start, end = _span(text, *pair)
        last = depth == len(keys) - 1
        if last or _is_alias(*pair) or not isinstance(pair[1], MappingNode):
            new = value if last else _laid_over(_at(parse(text), keys[: depth + 1]), rest)
            space = "" if text[start - 1].isspace() else " "  # after the colon of an empty value
            return f"{text[:start]}{space}{flow(new)}{text[end:]}"
        node = pair[1]
    return None


def _at(content: Any, keys: list[str]) -> Any:
    for key in keys:
        content = content[key]
    return content


def _laid_over(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{key: _laid_over(old.get(key), value) for key, value in new.items()}}


def _inserted(text: str, node: MappingNode, key: str, value: Any) -> str:
    """The text with one more key in a mapping: behind the brace of one in braces, else in a line after its last one."""
    entry = f"{flow(key)}: {flow(value)}"
    if node.flow_style:
        at = text.index("{", node.start_mark.index) + 1
        return f"{text[:at]}{entry}{', ' if node.value else ''}{text[at:]}"
    end = _end(text, node)
    end = end if (line := text.find("\n", end)) < 0 else line
    return f"{text[:end]}\n{' ' * node.value[0][0].start_mark.column}{entry}{text[end:]}"


def _pairs(node: Node | None) -> list[tuple[Node, Node]]:
    return node.value if isinstance(node, MappingNode) else []


def _is_alias(key: Node, value: Node) -> bool:
    """Whether the value stands somewhere else in the text, before its key."""
    return value.start_mark.index < key.start_mark.index


def _span(text: str, key: Node, value: Node) -> tuple[int, int]:
    """Where a key's value stands in the text, without its anchor; of an alias the word that refers to it."""
    if _is_alias(key, value):
        match = re.compile(r"\*[^\s,\]}]+").search(text, key.end_mark.index)
        return match.span()
    start = value.start_mark.index
    if start == value.end_mark.index:  # nothing stands there, but perhaps a comment and another line
        start = text.index(":", key.end_mark.index) + 1
        return start, start
    if isinstance(value, CollectionNode) and not value.flow_style and not value.anchor:  # in the lines below its key
        return text.index(":", key.end_mark.index) + 1, _end(text, value)
    if value.anchor and (anchor := re.compile(r"&\S+\s+").match(text, start)):
        start = anchor.end()
    return start, max(start, _end(text, value))


def _end(text: str, node: Node) -> int:
    """Where a node's text ends: that of a block reaches to what follows it, over comments and blank lines."""
    end = node.end_mark.index
    if (isinstance(node, CollectionNode) and not node.flow_style) or getattr(node, "style", None) in ("|", ">"):
        lines = text[node.start_mark.index : end].splitlines(keepends=True)
        while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
            end -= len(lines.pop())
        end -= len(lines[-1]) - len(lines[-1].rstrip("\r\n")) if lines else 0
    return end
