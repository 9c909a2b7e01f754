"""The reward is the grader: 1.0 for a correct answer, else 0.0. It has no logic of its own."""

from data.records import Completion, Problem
from eval.grade import grade
from pipeline.prompts import DIRECT


def correctness(problem: Problem, text: str, finish: str) -> float:
    """1.0 where the grader says correct; the same call that scores the table."""
    return float(grade(problem, Completion(problem.id, text, 0, 0, 0, finish)).correct)


def correctness_and_mode(problem: Problem, text: str, finish: str, direct_bonus: float) -> float:
    """Correctness, and ``direct_bonus`` for an answer without a thought (AdaptThink, arXiv 2505.13417, eq. 6: the
    bonus is the accuracy one would give up on a problem for not having to think about it)."""
    return correctness(problem, text, finish) + direct_bonus * text.startswith(DIRECT.strip())
