"""The reward is the grader: 1.0 for a correct answer, else 0.0. It has no logic of its own.

Two others are controls, which must not raise accuracy: a gain under them is none of the reward's.
"""

import random

from data.records import Completion, Problem
from eval.grade import grade
from pipeline.prompts import DIRECT


class NoSignal(RuntimeError):
    """The samples of every problem earn the same, so there is nothing to learn from them."""


def correctness(problem: Problem, text: str, finish: str) -> float:
    """1.0 where the grader says correct; the same call that scores the table."""
    return float(grade(problem, Completion(problem.id, text, 0, 0, 0, finish)).correct)


def correctness_and_mode(problem: Problem, text: str, finish: str, direct_bonus: float) -> float:
    """Correctness, and ``direct_bonus`` for an answer without a thought (AdaptThink, arXiv 2505.13417, eq. 6: the
    bonus is the accuracy one would give up on a problem for not having to think about it)."""
    return correctness(problem, text, finish) + direct_bonus * text.startswith(DIRECT.strip())


def coin(problem: Problem, text: str, finish: str) -> float:
    """1.0 or 0.0 by chance, the same for the same text (R. Shao et al. 2025, "Spurious rewards", arXiv 2506.10947)."""
    return float(random.Random(f"{problem.id} {text}").random() < 0.5)


def form(problem: Problem, text: str, finish: str) -> float:
    """1.0 for a boxed answer after a closed thought, right or wrong."""
    return float(grade(problem, Completion(problem.id, text, 0, 0, 0, finish)).boxed)


REWARDS = {"correctness": correctness, "random": coin, "format": form}
