"""The numbers of one benchmark and variant, from completions and their grades."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from data.problem import VERDICTS, Completion, Grade, Problem
from eval.extract import has_reasoning, parse_value
from eval.grade import is_equal
from eval.stats import pass_at_k, wilson_interval

SCORES_VERSION = 4  # of what score_completions returns

# At which several samples of a problem are drawn: the model's own distribution.
SAMPLING_TEMPERATURE = 1.0


def score_completions(
    problems: Sequence[Problem],
    completions: Sequence[Completion],
    grades: Sequence[Grade],
    seconds: float,
) -> dict[str, Any]:
    """Score one completion a problem; completions and grades may be in any order.

    Args:
        problems: the problems of the benchmark, at least one.
        completions: one for each problem.
        grades: one for each problem.
        seconds: what the decoding took; passed through.

    Returns:
        Shares in [0, 1], token means over all completions. ``thinking_rate`` is the share that reasons
        (:func:`eval.extract.has_reasoning`): a text without tags does not, so read it beside ``tokens_mean`` (thought
        and answer). ``format_rate`` is the share of boxed answers, ``truncated_rate`` that of texts which the token
        limit stopped, ``undecided_rate`` that of answers which the grader could neither accept nor reject.

    Raises:
        KeyError: where a problem has no completion or no grade.
    """
    # By id, so that no order is assumed.
    completion_of = {completion.id: completion for completion in completions}
    grade_of = {grade.id: grade for grade in grades}
    completions = [completion_of[problem.id] for problem in problems]
    grades = [grade_of[problem.id] for problem in problems]

    n = len(problems)
    correct = [grade.correct for grade in grades]
    boxed = [grade.boxed for grade in grades]
    counts = Counter(grade.verdict for grade in grades)
    # All of them, those that none got too.
    verdicts = {verdict: counts[verdict] for verdict in VERDICTS}

    thinking_tokens = [c.thinking_tokens for c in completions]
    tokens = [c.tokens for c in completions]
    reasoned = [has_reasoning(c.text) for c in completions]
    truncated = [c.finish == "length" for c in completions]

    # As JSON gives them back: its keys are texts.
    levels = [str(problem.level) for problem in problems]
    families = [problem.family for problem in problems]

    return {
        "n": n,
        **_share(sum(correct), n),
        "tokens_mean": fmean(tokens),
        "thinking_tokens_mean": fmean(thinking_tokens),
        "thinking_rate": fmean(reasoned),
        "format_rate": fmean(boxed),
        "truncated_rate": fmean(truncated),
        "undecided_rate": verdicts["undecided"] / n,
        "seconds": seconds,
        "verdicts": verdicts,
        **guess_baselines(problems),
        "by_level": _score_groups(levels, correct),
        "by_family": _score_groups(families, correct),
    }


def _share(total: float, n: int) -> dict[str, float]:
    low, high = wilson_interval(total, n)
    return {
        "accuracy": total / n,
        "ci_low": low,
        "ci_high": high,
    }


def _score_groups(
    names: Sequence[str],
    correct: Sequence[bool],
) -> dict[str, dict[str, float]]:
    """Return the accuracy of each group; ``names`` holds the group of each problem."""
    groups = defaultdict(list)
    for name, is_correct in zip(names, correct, strict=True):
        groups[name].append(is_correct)

    scores = {}
    for name in sorted(groups):
        hits = groups[name]
        scores[name] = {"n": len(hits), "accuracy": fmean(hits)}
    return scores


def guess_baselines(problems: Sequence[Problem]) -> dict[str, float]:
    """Return the accuracy of two ways to answer without reading the problem.

    Returns:
        ``chance`` picks one of the choices (nothing where there are none); ``majority`` gives each family's most common
        answer, as a text or as a choice's letter.
    """
    counts: dict[str, Counter[Any]] = defaultdict(Counter)
    chances = []

    for problem in problems:
        # Each family has a most common answer of its own.
        answers = counts[problem.family]
        gold = parse_value(problem.answer, problem.kind, problem.choices)
        answers[gold] += 1

        choices = problem.choices or ()
        for place, choice in enumerate(choices):
            if parse_value(choice, problem.kind, problem.choices) == gold:
                # Another way to answer the same: the letter at this place.
                answers["letter", place] += 1

        chances.append(1 / len(choices) if choices else 0.0)

    # Each family is answered by its own guess.
    guessed = sum(max(answers.values()) for answers in counts.values())
    return {
        "chance": fmean(chances),
        "majority": guessed / len(problems),
    }


def score_samples(
    problems: Sequence[Problem],
    samples: Sequence[Sequence[Grade]],
) -> dict[str, Any]:
    """Score several samples of every problem.

    Args:
        problems: the problems of the benchmark.
        samples: the grades of all problems, in their order, once for each sample.

    Returns:
        ``pass_at``: pass@k (:func:`eval.stats.pass_at_k`) for some k up to the number of samples. ``maj``: the share
        where the most common answer is correct. Each with its 95 % interval.

    Source: majority vote: X. Wang et al. 2022, arXiv 2203.11171.
    """
    n = len(problems)
    count = len(samples)
    grades_by_problem = list(zip(*samples, strict=True))

    votes = []
    correct_counts = []
    for problem, grades in zip(problems, grades_by_problem, strict=True):
        votes.append(_majority_vote(problem, grades))
        correct_counts.append(sum(grade.correct for grade in grades))

    # The powers of two up to the number of samples, and that itself.
    ks = {2**i for i in range(count.bit_length())}
    ks.add(count)
    pass_at = {}
    for k in sorted(ks):
        shares = [pass_at_k(k, count, correct) for correct in correct_counts]
        pass_at[str(k)] = _share(sum(shares), n)

    return {
        "pass_at": pass_at,
        "maj": _share(sum(votes), n),
    }


def _majority_vote(problem: Problem, grades: Sequence[Grade]) -> float:
    """Return 1 where the most common answer is correct; a tie counts for the share of correct answers in it."""
    votes: Counter[tuple[Any, bool]] = Counter()

    for grade in grades:
        # An answer that cannot be read has no vote.
        is_decided = grade.verdict in ("correct", "wrong")
        if grade.extracted is None or not is_decided:
            continue

        answer = parse_value(grade.extracted, problem.kind, problem.choices)
        if answer is None:
            continue

        if grade.correct:
            answer = problem.answer
        elif problem.kind == "text" and not problem.choices:
            # "x+1" and "1+x" are one answer.
            equal = [text for text, is_correct in votes if not is_correct and is_equal(text, grade.extracted, "text")]
            answer = equal[0] if equal else grade.extracted
        # An answer with a second guess beside it is none, and must not vote with the answer itself.
        votes[answer, grade.correct] += 1

    if not votes:
        return 0.0

    most = max(votes.values())
    return fmean(correct for (_, correct), count in votes.items() if count == most)
