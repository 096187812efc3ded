"""Tables as Markdown, CSV and LaTeX. Text in them is escaped: it is never markup, a formula or a command."""

import csv
import io
import re

import pandas as pd

from mebm.show.rows import DASH


def markdown(text: str) -> str:
    """Text as a cell of a Markdown table shows it: marks have no meaning, and a bar or a line's end closes no cell."""
    escaped = re.sub(r"([\\`*\[\]<>|~&$])|(?<!\w)(_)|(_)(?!\w)", lambda match: f"\\{match[0]}", _on_one_line(text))
    return escaped.strip()


def to_markdown(table: pd.DataFrame, caption: str) -> str:
    """A Markdown table with its caption below."""
    lines = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "".join(f"| {' | '.join(map(markdown, line))} |\n" for line in lines) + f"\n{caption}\n"


def from_markdown(text: str) -> tuple[list[str], list[list[str]], str]:
    """Heading, rows and caption of a text that `to_markdown` made. Raises ValueError for any other."""
    table, _, caption = text.partition("\n\n")
    lines = [re.findall(r"\| ((?:\\.|[^\\|])*?) (?=\|)", line) for line in table.split("\n")]
    if len(lines) < 2 or set(lines[1]) != {"---"} or any(len(line) != len(lines[0]) for line in lines):
        raise ValueError("is not a table with its caption")
    head, _, *rows = [[re.sub(r"\\(.)", r"\1", cell) for cell in line] for line in lines]
    return head, rows, caption.removesuffix("\n")


def to_csv(table: pd.DataFrame) -> str:
    """Comma-separated values with a header: numbers in full, nothing where there is none.

    An apostrophe stands before text that a spreadsheet would take for a formula.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.itertuples(index=False):
        writer.writerow([_no_formula(value) if isinstance(value, str) else value for value in row])
    return out.getvalue()


def _no_formula(text: str) -> str:
    text = _on_one_line(text).strip()
    is_formula = re.match(r"[=+\-@]", text) and not re.match(r"[+-]?[\d.]+( ± [\d.]+)?$", text)
    return f"'{text}" if is_formula else text


def _on_one_line(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", text)


LATEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}"}
# after the \\ of the row above, [ ] and * would be its own
LATEX |= {"|": r"\textbar{}", "[": "{[}", "]": "{]}", "*": "{*}"}
LATEX |= {"±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", DASH: "--"}


def to_latex(table: pd.DataFrame, caption: str, name: str) -> str:
    r"""A LaTeX table environment with \label{tab:name}; needs booktabs, as its first line says. Numbers are set right.

    No text in it is a command.
    """

    def escape(text: str) -> str:
        return "".join(LATEX.get(character, character) for character in _on_one_line(text))

    columns = "".join("r" if _numeric(table.iloc[:, place]) else "l" for place in range(len(table.columns)))
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
    ]
    lines += [" & ".join(map(escape, table.columns)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(escape, row)) + r" \\" for row in table.itertuples(index=False)]
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{escape(caption)}}}", rf"\label{{tab:{name}}}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _numeric(cells: pd.Series) -> bool:
    """Whether a column holds numbers, or counts in words of them, with dashes where there is none."""
    return all(cell == DASH or re.match(r"[+-]?[\d.]+( |$)", cell) for cell in cells) and set(cells) != {DASH}
