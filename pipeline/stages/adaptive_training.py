"""The training of stage 5, in the order in which it is done.

The choice is trained, and then its operating point is looked for on the way from the parent's weights to the trained
ones: the further, the more problems are answered directly. The way is halved a few times, towards the furthest point
that on dev is within ``accuracy_margin`` of always thinking; of all that were tried the one with the fewest tokens
within the margin is kept. It is what greedy decoding does, so an exported adapter behaves like that anywhere.
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from data.files import UserError, write_json, write_jsonl
from data.problem import Problem
from eval.grade import grade_all
from pipeline import choice
from pipeline.choice import GREEDY, THINKING, Answer, Outcome, Point
from pipeline.evaluate import evaluate
from pipeline.models.adapters import mix_adapters
from pipeline.models.load import load_tokenizer
from pipeline.processes import on_main_process
from pipeline.progress import say
from pipeline.prompts import DIRECT
from pipeline.stages.adaptive import LOOKS
from pipeline.stages.sft import train_adapter
from pipeline.stages.stage import TrainingContext


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

    def run(self) -> Path:
        """Train, and return the folder of the adapter that is the operating point on dev."""
        parent = self.context.parent_adapter
        assert parent is not None

        # The parent sets the bar, so that no training can lower it.
        thinking = self.answer(parent, self.dev, "dev, thinking", THINKING)
        min_accuracy = fmean(answer.is_right for answer in thinking) - self.settings.accuracy_margin

        outcomes = self.measure(parent, self.problems)
        price = self.settings.price
        if not any(outcome.compute_advantage(price) for outcome in outcomes):
            raise UserError(
                f"{self.context.stage.name}: with and without a thought, all {len(outcomes)} answers are as right and "
                "as long, so there is nothing to choose; train sft longer, or raise adaptive.generation.max_new_tokens"
            )

        trained = self.train(parent, outcomes)
        points = self.search(parent, trained, min_accuracy)
        kept = choice.choose_point(points, min_accuracy)
        say(f"{self.context.stage.name}: share {kept.share:g} of the training is the best on dev")

        adapter = self.mix(parent, trained, kept.share)
        model, tokenizer = self.context.load_model(adapter)
        probabilities = choice.compute_direct_probabilities(model, tokenizer, self.problems)
        on_main_process(lambda: self.write_results(outcomes, probabilities, points, kept, min_accuracy))
        return adapter

    def search(self, parent: Path, trained: Path, min_accuracy: float) -> list[Point]:
        """Return points on dev from the parent to what was trained, in the order of their shares."""
        low, high = 0.0, 1.0
        points = [self.measure_share(parent, trained, low)]

        share = high
        for _ in range(LOOKS):
            point = self.measure_share(parent, trained, share)
            points.append(point)
            if point.accuracy >= min_accuracy:
                low = share
            else:
                high = share

            # What is accurate enough at the end is at its best there.
            if low == high:
                break
            share = (low + high) / 2
        return sorted(points, key=lambda point: point.share)

    def measure_share(self, parent: Path, trained: Path, share: float) -> Point:
        """Return what greedy answers to dev come to at a share of the way."""
        answers = self.answer(self.mix(parent, trained, share), self.dev, f"dev, share {share:g}")
        return choice.measure_point(share, answers)

    def answer(
        self,
        adapter: Path,
        problems: Sequence[Problem],
        name: str,
        beginning: str = "",
    ) -> list[Answer]:
        """Return greedy answers, which are kept as they come; all begin in one way, or each as the model chooses."""
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

    def measure(self, adapter: Path, problems: Sequence[Problem]) -> list[Outcome]:
        """Return the outcomes of problems under an adapter."""
        thinking = self.answer(adapter, problems, "train, thinking", THINKING)
        direct = self.answer(adapter, problems, "train, direct", DIRECT)
        return list(map(Outcome, problems, thinking, direct))

    def train(self, adapter: Path, outcomes: Sequence[Outcome]) -> Path:
        """Train an adapter further on the choice; returns the folder of what comes of it."""
        settings = self.settings
        advantages = choice.compute_advantages(outcomes, settings.price, settings.group_share)
        rows = choice.build_choice_rows(self.tokenizer, outcomes, advantages, settings, self.context.seed)
        model, _ = self.context.load_model(adapter)
        rows = choice.add_parent_logprobs(model, rows)

        # The weights are columns that transformers does not know.
        trainer = {**settings.trainer, "remove_unused_columns": False}
        return train_adapter(
            self.context,
            rows,
            trainer,
            self.context.work,
            adapter,
            last_layers=settings.last_layers,
            # It is scored where it is tried at shares of the way.
            score_dev=None,
            trainer_class=choice.ChoiceTrainer,
            data_collator=functools.partial(choice.collate_weighted, self.tokenizer.pad_token_id),
        )

    def mix(self, parent: Path, trained: Path, share: float) -> Path:
        """Return the folder of the adapter at a share of the way from the parent to what was trained."""
        ends = {0.0: parent, 1.0: trained}
        if share in ends:
            return ends[share]

        folder = self.context.work / f"share-{share:g}"
        return on_main_process(lambda: mix_adapters(parent, trained, share, folder))

    def write_results(
        self,
        outcomes: Sequence[Outcome],
        probabilities: Sequence[float],
        points: Sequence[Point],
        kept: Point,
        min_accuracy: float,
    ) -> None:
        """Write what is known of every training problem, what the kept adapter chooses, and the points on dev."""
        work = self.context.work
        write_json(work / "curve.json", [asdict(point) for point in points])
        write_jsonl(work / "outcomes.jsonl", list(map(_to_record, outcomes, probabilities)))

        summary = {
            "share": kept.share,
            "min_accuracy": min_accuracy,
            "direct_rate": compute_direct_rates(self.problems, probabilities),
        }
        write_json(work / "choice.json", summary)


def compute_direct_rates(problems: Sequence[Problem], probabilities: Sequence[float]) -> dict[str, float]:
    """Return the share of problems that greedy decoding answers directly, by family and level ("sums 3").

    A probability is that of the direct beginning of a problem, of the two.
    """
    groups: dict[str, list[bool]] = {}
    for problem, probability in zip(problems, probabilities, strict=True):
        # A problem may have no family.
        name = f"{problem.family} {problem.level}".strip()
        group = groups.setdefault(name, [])
        group.append(probability > GREEDY)
    return {name: fmean(groups[name]) for name in sorted(groups)}


def _to_record(outcome: Outcome, probability: float) -> dict[str, Any]:
    problem = outcome.problem
    return {
        "id": problem.id,
        "family": problem.family,
        "level": problem.level,
        "thinking": outcome.thinking.verdict,
        "thinking_tokens": outcome.thinking.tokens,
        "direct": outcome.direct.verdict,
        "direct_tokens": outcome.direct.tokens,
        "probability": probability,
    }
