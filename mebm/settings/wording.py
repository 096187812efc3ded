"""Messages about values that are not accepted."""

from difflib import get_close_matches
from typing import Any

from mebm.errors import listed, shown
from mebm.settings.schema import Section


def found(value: Any) -> str:
    return "missing" if value is None else shown(value)


def unknown(key: Any, known: list[str], kind: str = "key") -> str:
    """What to do about a key: the one that was meant, or those that there are."""
    return f"unknown {kind}; {meant(key, known)}"


def meant(key: Any, known: list[str]) -> str:
    """The one of the known names that is nearest to a wrong one, or all of them."""
    near = get_close_matches(key[:100], known, 1, 0.75) if isinstance(key, str) else []
    return f"did you mean {near[0]}?" if near else f"known: {listed(known)}"


def explain(error: dict, section: type[Section]) -> str:
    if error["type"] == "extra_forbidden":
        return unknown(error["loc"][-1], list(section.model_fields))
    if error["type"] == "missing":
        return "missing; every value is written in the file"
    value = error["input"]
    if error["type"] == "list_type":
        plain = isinstance(value, str | int | float) and len(shown(value)) < 30
        return f"is {shown(value)}: expected a list, which is written [{value if plain else 'a, b'}]"
    message = error["msg"].removeprefix("Value error, ")
    return f"is {shown(value)}: {message[0].lower()}{message[1:]}"
