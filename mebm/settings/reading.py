"""YAML 1.2 as plain data, bounded in size and depth."""

import re
from typing import Any

import yaml

from mebm.errors import shown
from mebm.files import BoundedLoader


class _Core(BoundedLoader):
    """PyYAML with the scalars of YAML 1.2, as DVC reads the file: 1e-4 is a float, `no` and `on` are strings."""

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                text = f"the key {shown(key.value)} occurs twice"
                raise yaml.constructor.ConstructorError(None, None, text, node.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _construct_core_float(loader: _Core, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _construct_core_int(loader: _Core, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Core.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Core.add_constructor("tag:yaml.org,2002:float", _construct_core_float)
_Core.add_constructor("tag:yaml.org,2002:int", _construct_core_int)


def parse_yaml(text: str) -> Any:
    """YAML as plain data. Raises YAMLError, also for a tag whose text is no such value, as in `!!int x`."""
    try:
        return yaml.load(text, Loader=_Core)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise yaml.YAMLError(f"a value cannot be read ({error})") from error


def flow(value: Any) -> str:
    """A value on one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("\n").removesuffix("\n...")
