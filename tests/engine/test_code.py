"""What code means, which no version of Python may see in another way: a clone with another one would train again."""

import ast
from pathlib import Path

import pytest

from mebm.engine import code

SYNTAX = Path(__file__).with_name("syntax.txt")


def test_every_python_reads_the_same_meaning():
    """`make test-pythons` runs this with each of them."""
    assert code.fingerprint_of(SYNTAX.read_bytes(), "mebm/syntax.py") == "54137232f05e9eed"


def test_the_text_holds_what_there_is_of_syntax():
    bases = (ast.stmt, ast.expr, ast.pattern, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)
    known = {kind for base in bases for kind in base.__subclasses__()}
    later = {kind for kind in known if kind.__name__ == "TypeAlias"}  # of Python 3.12
    assert known - later == {type(node) for node in ast.walk(ast.parse(SYNTAX.read_bytes()))} & known


@pytest.mark.parametrize("text", ['f"{what:{width}}  {path}"', 'f"{a}" "b"', 'f"{x!r:>{n}}"'])
def test_an_empty_end_of_a_formatted_text_means_nothing(text):
    """Python 3.12 has one after a width that is computed."""
    tree = ast.parse(text, mode="eval").body
    before = code._said(tree)
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.JoinedStr):
            node.values.append(ast.Constant(""))
    assert code._said(tree) == before
