"""What the families of logic share: nouns, labels, and how a problem is put together."""

import random
from collections.abc import Sequence

from data.problem import Problem
from data.words import NAMES, is_too_long

ROLES = (
    "baker singer dancer painter farmer pilot runner swimmer gardener writer sailor teacher driver hiker cook "
    "lawyer artist builder climber skater reporter hunter rider juggler trader camper diver poet actor"
)
INVENTED = "wug zorp blicket florp tove mib grib quam snark plim vork lorp tam nurk yib gorp zill brap fep dorn"

YES_NO = ("yes", "no")
TRUE_FALSE = ("True", "False")
VALIDITY = ("valid", "invalid")
LABELS = (YES_NO, TRUE_FALSE, VALIDITY)


def draw_names(rng: random.Random, count: int) -> list[str]:
    """People, no one twice."""
    names = " ".join(NAMES.values()).split()
    return rng.sample(names, count)


def draw_nouns(rng: random.Random, count: int) -> list[str]:
    """Roles of people, or invented words; none twice."""
    # With invented words nobody can answer by what is true of the world.
    nouns = rng.choice((ROLES, INVENTED)).split()
    return rng.sample(nouns, count)


def make_problem(
    family: str,
    level: int,
    question: str,
    answer: str,
    choices: tuple[str, ...],
    solution: Sequence[str],
    key: str,
) -> Problem | None:
    """A problem without an id; None where it takes too many words.

    Args:
        family: the name of its family.
        level: 1 to 5.
        question: the whole text.
        answer: one of the choices.
        choices: what may be answered.
        solution: its lines.
        key: the content, the same for every wording.
    """
    rationale = "\n".join(solution)
    if is_too_long(question, rationale):
        return None

    return Problem(
        id="",
        question=question,
        answer=answer,
        kind="label" if choices in LABELS else "text",
        choices=choices,
        family=family,
        level=level,
        rationale=rationale,
        extra={"key": f"{family}: {key}"},
    )
