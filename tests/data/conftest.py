"""What the tests of the data share: the committed splits."""

import pytest

from data.generated import GENERATORS, load_committed
from data.splits import SPLITS


@pytest.fixture(scope="session")
def committed():
    """The committed problems, by benchmark and split."""
    return {(name, split): load_committed(name, split) for name in GENERATORS for split in SPLITS}


@pytest.fixture(scope="session")
def all_problems(committed):
    """All committed problems."""
    return [problem for problems in committed.values() for problem in problems]


@pytest.fixture(scope="session")
def of_family(all_problems):
    """Gives all committed problems of a family."""

    def select(family):
        problems = [problem for problem in all_problems if problem.family == family]
        assert len(problems) > 400
        return problems

    return select
