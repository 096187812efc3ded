"""A project for tests of staleness, made once for all files here."""

from pathlib import Path

import pytest
from engines import copy_project
from recorded import record_as_done


@pytest.fixture(scope="session")
def recorded(made_once) -> Path:
    """A project whose jobs are recorded as done."""
    return made_once("recorded", lambda folder: record_as_done(copy_project(folder)))
