"""A project for tests of staleness, made once for all files here."""

from pathlib import Path

import pytest
from engines import copy_project
from recorded import record_as_done


@pytest.fixture(scope="session")
def recorded(tmp_path_factory) -> Path:
    """A project whose jobs are recorded as done."""
    folder = copy_project(tmp_path_factory.mktemp("recorded") / "project")
    record_as_done(folder)
    return folder
