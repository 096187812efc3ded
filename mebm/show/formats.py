"""Tables as Markdown, CSV and LaTeX. Text in them is escaped: it is never markup, a formula or a command."""

import re

import pandas as pd

from mebm.show.rows import DASH


def markdown(text: str) -> str:
    """Text as a cell of a Markdown table shows it: marks have no meaning, and a bar or a line's end closes no cell."""
    escaped = re.sub(r"([\\`*\[\]<>|~&$])|(?<!\w)(_)|(_)(?!\w)", lambda match: f"\\{match[0]}", _on_one_line(text))
    return escaped.strip()


def to_markdown(table: pd.DataFrame, caption: str) -> str:
    """A Markdown table with its caption below."""
    lines = ["| " + " | ".join(table.columns) + " |", "| " + " | ".join(["---"] * len(table.columns)) + " |"]
    lines += ["| " + " | ".join(map(markdown, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + f"\n\n{caption}\n"


def to_csv(table: pd.DataFrame, caption: str = "") -> str:
    """Comma-separated values with a header. An apostrophe stands before what a spreadsheet would take for a formula."""
    return table.map(_no_formula).to_csv(index=False, lineterminator="\n")


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


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """A LaTeX table environment (needs booktabs). No text in it is a command."""

    def escape(text: str) -> str:
        return "".join(LATEX.get(character, character) for character in _on_one_line(text))

    lines = [r"\begin{table}", r"\centering", r"\begin{tabular}{ll" + "r" * (len(table.columns) - 2) + "}", r"\toprule"]
    lines += [" & ".join(map(escape, table.columns)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(escape, row)) + r" \\" for row in table.itertuples(index=False)]
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{escape(caption)}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


FORMS = {"md": to_markdown, "csv": to_csv, "tex": to_latex}  # by the suffix of their files
