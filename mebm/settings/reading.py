"""YAML 1.2, read by the library with which DVC reads the same file: as plain data, or as nodes with their places.

What is read is bounded in size, depth, and in how much its aliases stand for; no key may occur twice.
"""

import warnings
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from mebm.errors import shown
from mebm.files import DEPTH, EXPANDED, TEXT

MERGE = "tag:yaml.org,2002:merge"


class NotYaml(ValueError):
    """A text is not YAML that is read, for the reason given."""


def parse(text: str) -> Any:
    """YAML as plain data: 1e-4 is a float, `no` and `on` are strings. Raises NotYaml."""
    return _read(text)[1]


def nodes(text: str) -> Node | None:
    """The same as nodes with the places where they start and end; None for an empty text. Raises NotYaml."""
    return _read(text, construct=False)[0]


def flow(value: Any) -> str:
    """A value on one line of YAML."""
    yaml, stream = YAML(typ="safe", pure=True), StringIO()
    yaml.default_flow_style, yaml.width, yaml.allow_unicode = True, 2**31, True
    yaml.dump(value, stream)
    return stream.getvalue().removesuffix("\n").removesuffix("\n...")


def _read(text: str, construct: bool = True) -> tuple[Node | None, Any]:
    if len(text) > TEXT // 4:
        raise NotYaml(f"{len(text)} characters are more than the {TEXT // 4} that are read")
    yaml = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings(action="ignore"):  # of anchors that are set again, in several lines
            node = yaml.compose(text)
            if node is not None:
                _measure(node, len(text) + EXPANDED, {})
            return node, yaml.constructor.construct_document(node) if construct and node is not None else None
    except MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise NotYaml(f"{error.problem or error.context}{place}") from error
    except YAMLError as error:
        raise NotYaml(str(error)) from error
    except RecursionError as error:
        raise NotYaml(f"it is nested more than {DEPTH} levels deep") from error
    except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:  # a tag on another value
        if isinstance(error, NotYaml):
            raise
        raise NotYaml(f"a value does not fit its type ({str(error)[:80]})") from error


def _measure(node: Node, limit: int, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Characters that a node stands for, its aliases written out, and how deep it is.

    Raises NotYaml for more than the limits, for an alias that refers to itself, and for a key that occurs twice.
    """
    if id(node) in known:
        if (measured := known[id(node)]) is None:
            raise NotYaml("an alias refers to itself")
        return measured
    known[id(node)] = None
    if isinstance(node, ScalarNode):
        parts, own = [], len(node.value)
    elif isinstance(node, MappingNode):
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, ScalarNode) and key.tag != MERGE):
            if key.value in seen:
                raise NotYaml(f"the key {shown(key.value)} occurs twice, line {key.start_mark.line + 1}")
            seen.add(key.value)
        parts, own = [part for pair in node.value for part in pair], 0
    else:
        parts, own = node.value, 0
    sizes = [_measure(part, limit, known) for part in parts]
    size = 1 + own + sum(size for size, _ in sizes)
    depth = 1 + max((depth for _, depth in sizes), default=0)
    if size > limit:
        raise NotYaml("its aliases multiply too much")
    if depth > DEPTH:
        raise NotYaml(f"nested more than {DEPTH} levels deep")
    known[id(node)] = size, depth
    return size, depth
