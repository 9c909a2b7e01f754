"""The recipes of the studies, and the tiny model as a base."""

from types import SimpleNamespace

import pytest

from pipeline.config import load_studies
from pipeline.studies.study import load_study


@pytest.fixture
def settings():
    """The function that gives a study's settings with some values changed: settings("planning", tested=4)."""

    def change(name, **values):
        recipe = load_studies({name: load_study(name).Settings})[name]
        return recipe.model_copy(update=values)

    return change


@pytest.fixture
def tiny_base(tiny):
    """A base that loads the tiny model."""
    return SimpleNamespace(name="tiny", load=lambda: tiny)
