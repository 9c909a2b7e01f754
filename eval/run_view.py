"""What the table and the report are made from: a run's files, read and checked, as plain records."""

from dataclasses import dataclass, field
from typing import Any

from data.problem import Completion, Grade, Problem

# A variant of a stage's prompt ("zero-shot", "4-shot") and the name of a benchmark.
RowKey = tuple[str, str]


@dataclass(frozen=True)
class TrainingLog:
    """What is on disk of one training of a stage.

    Args:
        name: "grpo" where it follows on expert iteration; else "".
        curve: points on dev problems, each at a "step", a "round" or a "share", with "accuracy", "tokens", ...
        steps: what the trainer logged, a record a step.
    """

    name: str
    curve: list[dict[str, Any]]
    steps: list[dict[str, Any]]


@dataclass(frozen=True)
class StageView:
    """What is on disk of one stage that has been scored.

    Args:
        scores: what scores.json holds.
        completions, grades: in the order of the benchmark's problems.
        trainings: none where nothing was trained.
        manifest: the parts "training" and "scoring", each with inputs, seconds, versions, commit and hardware.
        recipe: the text of recipe.yaml.
    """

    name: str
    scores: dict[str, Any]
    completions: dict[RowKey, list[Completion]]
    grades: dict[RowKey, list[Grade]]
    trainings: list[TrainingLog]
    manifest: dict[str, Any]
    recipe: str


@dataclass(frozen=True)
class RunView:
    """One run: the rows of its table, its stages in order (controls last), and the problems of each benchmark.

    ``studies`` are the results of the studies that were made on its base.
    """

    name: str
    rows: list[dict[str, Any]]
    stages: list[StageView]
    problems: dict[str, list[Problem]]
    studies: list[dict[str, Any]] = field(default_factory=list)
