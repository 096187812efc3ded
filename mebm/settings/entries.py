"""A suite as typed values: its data sets and runs, each with all sections that its stages read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mebm import sources
from mebm.settings.schema import Dataset, Section

AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True)
class Entry:
    """A data set, to train on or to compare with.

    sections: with the suite's values and its own laid over the shared ones; differences: its own, by SECTION.KEY.
    """

    name: str
    sections: Mapping[str, Section]
    differences: Mapping[str, Any]

    def of(self, kind: type[AnySection]) -> AnySection:
        """The section of that class."""
        return self.sections[kind.__name__.lower()]  # type: ignore[return-value]

    @property
    def title(self) -> str:
        """A data set's name in tables: that of the publications where its source is theirs."""
        return sources.about(self.of(Dataset).source).title or self.name


@dataclass(frozen=True)
class Run(Entry):
    """A run: its row in tables, the name of its data set, and the path of its checkpoint if it is imported.

    made_from: the run of the suite that trains this checkpoint, whose section `train` an imported run has.
    """

    method: str
    dataset: str
    checkpoint: str | None = None
    made_from: "Run | None" = None


@dataclass(frozen=True)
class Entries:
    """The entries of a suite by name. `analysed` are those of its runs that every analysis looks at.

    suite: its own name; sections: those that stages of the whole suite read; shared: all sections as entries share
    them, and defaults: what of that is the suite's own, both as plain data.
    """

    suite: str
    sections: Mapping[str, Section]
    shared: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, Mapping[str, Any]]
    datasets: Mapping[str, Entry]
    compared: Mapping[str, Entry]
    trained: Mapping[str, Run]
    imported: Mapping[str, Run]
    analysed: Mapping[str, Run]
    tables: list[str]

    @property
    def runs(self) -> dict[str, Run]:
        """Trained and imported ones."""
        return {**self.trained, **self.imported}
