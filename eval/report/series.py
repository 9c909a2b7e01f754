"""What the report shows of each stage on a benchmark: its scores, its answers and their kinds of error."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.errors import GradedCompletion
from eval.extract import split_thought
from eval.run_view import RunView, StageView

CORRECT = "correct"
LUCKY = "through a wrong step"  # the kind of a correct answer that was reached so


@dataclass(frozen=True)
class Series:
    """What one stage of one run scored on a benchmark with its most accurate variant.

    Args:
        scores: of the benchmark, as in scores.json.
        answers: what the script shows of each, by the problem's id.
        counts: how many answers are correct, and of each kind of error.
    """

    run: str
    stage: str
    label: str
    scores: dict[str, Any]
    answers: dict[str, dict[str, Any]]
    counts: Counter[str]


def collect_series(runs: Sequence[RunView], benchmark: str) -> list[Series]:
    """Return a series for each stage that was scored on a benchmark, run by run."""
    series = []
    for run in runs:
        for stage in run.stages:
            variants = _find_variants(stage, benchmark)
            if variants:
                best = max(variants, key=lambda variant: variants[variant]["accuracy"])
                # Of one run, its name would stand at every series.
                label = f"{run.name} {stage.name}" if len(runs) > 1 else stage.name
                answers = _describe_answers(run, stage, (best, benchmark), label)
                series.append(
                    Series(
                        run=run.name,
                        stage=stage.name,
                        label=label,
                        scores=variants[best],
                        answers=answers,
                        counts=_count_kinds(answers),
                    )
                )
    return series


def _find_variants(stage: StageView, benchmark: str) -> dict[str, dict[str, Any]]:
    """Return the scores of each variant that has the benchmark."""
    variants = {}
    for variant in stage.scores["variants"]:
        for scores in variant["benchmarks"]:
            if scores["benchmark"] == benchmark:
                variants[variant["variant"]] = scores
    return variants


def _describe_answers(
    run: RunView,
    stage: StageView,
    key: tuple[str, str],
    label: str,
) -> dict[str, dict[str, Any]]:
    """Return what the script shows of the answers of one (variant, benchmark), by the problem's id."""
    completions = {completion.id: completion for completion in stage.completions[key]}
    grades = {grade.id: grade for grade in stage.grades[key]}
    place = {"run": run.name, "stage": stage.name, "label": label}

    _, benchmark = key
    answers = {}
    for problem in run.problems[benchmark]:
        graded = GradedCompletion(problem, completions[problem.id], grades[problem.id])
        answers[problem.id] = place | _describe_answer(graded)
    return answers


def _describe_answer(graded: GradedCompletion) -> dict[str, Any]:
    completion = graded.completion
    thought, rest, is_closed = split_thought(completion.text)
    lucky = LUCKY if graded.is_lucky else ""
    # Under the names that page.js reads.
    return {
        "verdict": graded.grade.verdict,
        "kind": graded.kind or lucky,
        "extracted": graded.grade.extracted,
        "thought": (thought or "").strip(),
        "closed": is_closed,
        "rest": rest.strip(),
        "tokens": completion.tokens,
    }


def _count_kinds(answers: dict[str, dict[str, Any]]) -> Counter[str]:
    counts = Counter(answer["kind"] for answer in answers.values())
    verdicts = Counter(answer["verdict"] for answer in answers.values())
    # An answer that was correct through a wrong step counts as both.
    counts[CORRECT] = verdicts[CORRECT]
    return counts
