"""The training of stage 5, in the order in which it is done.

After the training of the choice, greedy decoding must be the operating point: on dev the fewest tokens whose accuracy
is within ``accuracy_margin`` of always thinking. Where it is another point of the sweep over the probability, a short
last training moves the threshold of that point to 0.5, so an exported adapter behaves like that anywhere. Of the parent
and the adapters of both trainings the best on dev is kept.
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from data.files import UserError, read_json, write_json, write_jsonl
from data.problem import Problem
from eval.grade import grade_all
from pipeline import choice
from pipeline.choice import GREEDY, THINKING, Answer, Label, Outcome, Point
from pipeline.evaluate import evaluate
from pipeline.models.load import load_tokenizer
from pipeline.processes import on_main_process
from pipeline.progress import say
from pipeline.prompts import DIRECT
from pipeline.stages.sft import train_adapter
from pipeline.stages.stage import TrainingContext
from pipeline.training import build_dev_scorer


@dataclass(frozen=True)
class Candidate:
    """An adapter that may be kept, and its cost on dev."""

    name: str
    adapter: Path
    cost: float


class AdaptiveTraining:
    """One training of this stage."""

    def __init__(self, context: TrainingContext) -> None:
        self.context = context
        self.settings = context.settings
        self.problems = context.train_problems()
        self.dev = context.dev_problems()
        self.tokenizer = load_tokenizer(context.run.base_folder)

        self.max_new_tokens = self.settings.generation["max_new_tokens"]
        self.batch_size = context.run.recipe.eval.batch_size
        self.curve: list[dict[str, Any]] = []

    def run(self) -> Path:
        """Train, move greedy decoding to the operating point, and return the folder of the best adapter on dev."""
        parent = self.context.parent_adapter
        assert parent is not None

        # The parent sets the bar, so that no training can lower it.
        margin = self.settings.accuracy_margin
        thinking = self.answer(parent, self.dev, "dev", THINKING)
        accuracy = fmean(answer.is_right for answer in thinking)
        self.least_accuracy = accuracy - margin

        outcomes = self.measure(parent, self.problems, "train")
        price = self.settings.price
        advantages = [outcome.compute_advantage(price) for outcome in outcomes]
        if not any(advantages):
            raise UserError(
                f"{self.context.stage.name}: with and without a thought, all {len(outcomes)} answers are as right and "
                "as long, so there is nothing to choose; train sft longer, or raise adaptive.generation.max_new_tokens"
            )

        labels = list(map(choice.label_by_advantage, advantages))
        chosen = self.train_on(parent, outcomes, labels, "choice")
        # The first point of the curve was measured before the first step.
        parent_cost = self.curve[0]["cost"]
        candidates = [Candidate("parent", parent, parent_cost), chosen]

        dev = self.measure(chosen.adapter, self.dev, "dev after training")
        points = choice.sweep_thresholds(dev)
        # Half of the margin is left to the training that moves there.
        target = choice.choose_point(points, self.least_accuracy + margin / 2)
        greedy = choice.measure_point(dev, GREEDY)
        # Points with the same rate make the same choices: there is nowhere to move.
        if target.direct_rate != greedy.direct_rate:
            moved = self.move_to(target.threshold, chosen.adapter, outcomes)
            candidates.append(moved)

        best = min(candidates, key=lambda candidate: candidate.cost)
        say(f"{self.context.stage.name}: the adapter '{best.name}' is the best on dev")
        outcomes = self.update(best.adapter, outcomes)
        on_main_process(lambda: self.write_results(best.name, outcomes, points, target))
        return best.adapter

    def answer(self, adapter: Path, problems: Sequence[Problem], name: str, beginning: str) -> list[Answer]:
        """Return greedy answers that begin in one way; they are kept as they come."""
        way = "direct" if beginning == DIRECT else "thinking"
        name = f"{name}, {way}"
        model, tokenizer = self.context.load_model(adapter)
        answers = evaluate(
            model,
            tokenizer,
            problems,
            "think",
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            prefix=beginning,
            label=f"{self.context.stage.name}: {name}",
            partial=self.context.run.dir.find_samples(adapter, problems, beginning, self.max_new_tokens),
        )
        completions = answers.completions
        grades = grade_all(problems, completions)
        verdicts = [grade.verdict for grade in grades]
        return list(map(Answer, completions, verdicts))

    def measure(self, adapter: Path, problems: Sequence[Problem], name: str) -> list[Outcome]:
        """Return the outcomes of problems under an adapter."""
        thinking = self.answer(adapter, problems, name, THINKING)
        direct = self.answer(adapter, problems, name, DIRECT)

        outcomes = []
        for answered in zip(problems, thinking, direct, strict=True):
            outcomes.append(Outcome(*answered, probability=0.0))
        # The probabilities of all are computed in batches.
        return self.update(adapter, outcomes)

    def update(self, adapter: Path, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return the outcomes with the probabilities that an adapter gives."""
        model, tokenizer = self.context.load_model(adapter)
        problems = [outcome.problem for outcome in outcomes]
        probabilities = choice.compute_direct_probabilities(model, tokenizer, problems)

        updated = []
        for outcome, probability in zip(outcomes, probabilities, strict=True):
            updated.append(replace(outcome, probability=probability))
        return updated

    def move_to(self, threshold: float, adapter: Path, outcomes: Sequence[Outcome]) -> Candidate:
        """Train half a pass more, until greedy decoding chooses as a threshold does."""
        # The model's own order of the problems stays as it is; only the place where it is divided moves.
        labels = []
        for outcome in self.update(adapter, outcomes):
            labels.append(choice.label_by_threshold(outcome.probability, threshold))
        return self.train_on(adapter, outcomes, labels, "threshold", num_train_epochs=0.5)

    def train_on(
        self,
        adapter: Path,
        outcomes: Sequence[Outcome],
        labels: Sequence[Label],
        name: str,
        **overrides: Any,
    ) -> Candidate:
        """Train an adapter further, and note its points on dev.

        The last weights are kept: of many points on dev, the one with the fewest tokens that is just accurate enough
        would be the luckiest one.
        """
        work = self.context.work / name
        rows = choice.build_choice_rows(self.tokenizer, outcomes, labels, self.settings.content_weight)
        trainer = {
            **self.settings.trainer,
            "eval_strategy": "steps",
            "eval_on_start": True,
            "load_best_model_at_end": False,
            # The weights are a column that transformers does not know.
            "remove_unused_columns": False,
            **overrides,
        }
        trained = train_adapter(
            self.context,
            rows,
            trainer,
            work,
            adapter,
            score_dev=self.score_dev,
            trainer_class=choice.ChoiceTrainer,
            data_collator=functools.partial(choice.collate_weighted, self.tokenizer.pad_token_id),
        )

        points = read_json(work / "curve.json")
        # One curve of both trainings: the steps of the second go on from the first.
        offset = self.curve[-1]["step"] if self.curve else 0
        for point in points:
            step = point["step"] + offset
            self.curve.append(point | {"step": step})
        return Candidate(name, trained, points[-1]["cost"])

    def score_dev(self, model) -> dict[str, float]:
        """Score greedy answers to the dev problems, with the cost that adapters are compared by."""
        score = build_dev_scorer(self.tokenizer, self.dev, self.settings.generation, self.batch_size)
        scores = score(model)
        accuracy = scores["accuracy"]
        tokens = scores["tokens"]
        cost = choice.compute_cost(accuracy, tokens, self.least_accuracy, self.max_new_tokens)
        return {**scores, "cost": cost}

    def write_results(
        self,
        kept: str,
        outcomes: Sequence[Outcome],
        points: Sequence[Point],
        target: Point,
    ) -> None:
        """Write what is known of every training problem, what the kept adapter chooses, and the curve."""
        work = self.context.work
        write_json(work / "curve.json", self.curve)
        records = [_to_record(outcome) for outcome in outcomes]
        write_jsonl(work / "outcomes.jsonl", records)

        summary = {
            "kept": kept,
            "least_accuracy": self.least_accuracy,
            "operating_point": asdict(target),
            "dev_points": [asdict(point) for point in points],
            "direct_rate": compute_direct_rates(outcomes),
        }
        write_json(work / "choice.json", summary)


def compute_direct_rates(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the share of problems that greedy decoding answers directly, by family and level ("sums 3")."""
    groups: dict[str, list[bool]] = {}
    for outcome in outcomes:
        problem = outcome.problem
        # A problem may have no family.
        name = f"{problem.family} {problem.level}".strip()
        group = groups.setdefault(name, [])
        group.append(outcome.probability > GREEDY)
    return {name: fmean(groups[name]) for name in sorted(groups)}


def _to_record(outcome: Outcome) -> dict[str, Any]:
    problem = outcome.problem
    return {
        "id": problem.id,
        "family": problem.family,
        "level": problem.level,
        "thinking": outcome.thinking.verdict,
        "thinking_tokens": outcome.thinking.tokens,
        "direct": outcome.direct.verdict,
        "direct_tokens": outcome.direct.tokens,
        "probability": outcome.probability,
    }
