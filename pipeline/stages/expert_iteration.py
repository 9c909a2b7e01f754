"""Stage 4 by expert iteration: sample, keep the solutions that are verified, train on them.

Each round asks problems of which it has too few solutions, with the adapter of the round before. That adapter is then
trained further, or a new one from the base, on all that were kept and a share of sft's first solutions. Of all
adapters, sft's included, the best on dev is returned.

Source: STaR, arXiv 2203.14465, section 3.1; ReST-EM, arXiv 2312.06585, section 3 (both anew from the base).
"""

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.files import read_json, write_json, write_jsonl, write_text
from data.problem import Problem
from eval.grade import grade
from pipeline.models.load import load_tokenizer
from pipeline.processes import on_main_process
from pipeline.progress import printable, progress_bar, say
from pipeline.prompts import has_think_tags
from pipeline.rewards import combine_rewards
from pipeline.settings import ExpertIterationSettings
from pipeline.stages.problems import select_stage_problems
from pipeline.stages.sft import build_training_rows, train_adapter
from pipeline.stages.stage import TrainingContext
from pipeline.traces.sample import sample_candidates
from pipeline.traces.sources import choose_solutions
from pipeline.traces.verify import (
    Candidate,
    Rules,
    Selection,
    describe_account,
    find_path,
    select_solutions,
    to_conversation,
    to_dropped_conversation,
    write_solution,
)
from pipeline.training import build_dev_scorer

# Samples of a round that are shown while it runs.
SHOWN_SAMPLES = 2

# What a training leaves that is worth keeping: those of the last round.
TRAINING_NOTES = ("train.jsonl", "alarm.txt")


@dataclass(frozen=True)
class Sample:
    """A text of the model, and at which attempt at its problem it was written, from 0 over all rounds."""

    candidate: Candidate
    attempt: int


def train_expert_iteration(context: TrainingContext) -> Path:
    """Train by expert iteration and return the folder of the best adapter on dev."""
    return ExpertIteration(context).run()


class ExpertIteration:
    """One training. Each step of it finds what an interrupted run left in ``work``, and goes on from there."""

    def __init__(self, context: TrainingContext) -> None:
        self.context = context
        self.settings: ExpertIterationSettings = context.settings.expert_iteration
        self.recipe = context.run.recipe
        self.label = context.stage.name
        self.work = context.work

        self.tokenizer = load_tokenizer(context.run.base_folder)
        rewards = context.settings.rewards
        self.reward = combine_rewards(rewards, context.settings.reward_weights)

        self.problems = context.train_problems()
        self.dev = context.dev_problems()

        self.samples: list[Sample] = []
        self.asked: Counter[str] = Counter()
        self.solved: Counter[str] = Counter()
        self.paths: set[tuple] = set()
        self.rounds: list[dict[str, Any]] = []
        # A point for each round; round 0 is the adapter that it all starts from.
        self.curve: list[dict[str, Any]] = on_main_process(self.read_curve)

    def run(self) -> Path:
        """Do all rounds; returns the folder of the best adapter on dev."""
        self.score_round(0)

        for number in range(1, self.settings.rounds + 1):
            problems = self.find_unsolved(number)
            if not problems:
                say(f"{self.label}: all problems are solved after {number - 1} rounds")
                break

            self.sample_round(problems, number)
            solutions = self.keep_solutions(number, len(problems))
            if not solutions:
                break

            self.train_round(solutions, number)
            self.score_round(number)
            self.write_round(number)

        # The first of equals: a new adapter must be better than the ones before.
        best = max(self.curve, key=lambda point: point["accuracy"])
        say(f"{self.label}: the adapter of round {best['round']} is the best on dev ({best['accuracy']:.1%})")
        return self.find_adapter(best["round"])

    def find_adapter(self, number: int) -> Path:
        """Return the folder of a round's adapter."""
        if number:
            return self.work / f"adapter-{number}"

        assert self.context.parent_adapter is not None
        return self.context.parent_adapter

    def score_round(self, number: int) -> None:
        """Score the adapter of a round on dev, unless that is done already."""
        if number < len(self.curve):
            return

        adapter = self.find_adapter(number)
        model, tokenizer = self.context.load_model(adapter)
        evaluation = self.recipe.eval
        score_dev = build_dev_scorer(tokenizer, self.dev, evaluation.generation, evaluation.batch_size)
        scores = score_dev(model)
        self.curve.append({"round": number, **scores})
        on_main_process(lambda: write_json(self.work / "curve.json", self.curve))

    def write_round(self, number: int) -> None:
        """Write the accounts of all rounds so far."""
        point = self.curve[number]
        self.rounds[-1]["dev_accuracy"] = point["accuracy"]
        on_main_process(lambda: write_json(self.work / "rounds.json", self.rounds))

    def read_curve(self) -> list[dict[str, Any]]:
        """Return the scores that an interrupted run left."""
        path = self.work / "curve.json"
        return read_json(path) if path.is_file() else []

    def find_unsolved(self, number: int) -> list[Problem]:
        """Return what a round asks: its share of new problems, and the earlier ones with too few solutions."""
        unsolved = []
        places: Counter[Any] = Counter()
        for problem in self.problems:
            # Families and levels take turns in a data set, so every second problem would leave out some of them.
            group = get_group(problem)
            is_due = places[group] % self.settings.rounds < number
            places[group] += 1
            if is_due and self.needs_solutions(problem):
                unsolved.append(problem)
        return unsolved

    def needs_solutions(self, problem: Problem) -> bool:
        """Return whether there are fewer solutions of a problem than may be kept."""
        return self.solved[problem.id] < self.settings.max_per_problem

    def sample_round(self, problems: Sequence[Problem], number: int) -> None:
        """Ask problems up to ``samples`` times each; those that are solved often enough are not asked again."""
        adapter = self.find_adapter(number - 1)
        model, _ = self.context.load_model(adapter)

        for attempt in range(self.settings.samples):
            pending = list(filter(self.needs_solutions, problems))
            candidates = self.ask(model, pending, number, attempt)
            for candidate in candidates:
                problem = candidate.problem
                self.samples.append(Sample(candidate, self.asked[problem.id]))
                self.asked[problem.id] += 1

            if attempt == 0:
                shown = candidates[:SHOWN_SAMPLES]
                show_samples(shown, f"{self.label} round {number}")

            # Each problem was asked once here, so a solution has its problem's id.
            selection = self.select(candidates)
            for solution in selection.solutions:
                # The same steps again are no other solution.
                path = find_path(solution)
                if path not in self.paths:
                    self.paths.add(path)
                    self.solved[solution.id] += 1

    def ask(
        self,
        model,
        problems: Sequence[Problem],
        number: int,
        attempt: int,
    ) -> list[Candidate]:
        """Have one text of each problem written; texts go to a file as they come."""
        # Other texts at every attempt, and the same ones where an interrupted run goes on.
        origin = f"round {number} attempt {attempt}"
        adapter = self.find_adapter(number - 1)
        generation = self.settings.generation
        place = self.context.run.dir.find_samples(adapter, problems, origin, generation, self.context.seed)

        label = f"{self.label} round {number}: sampling, attempt {attempt + 1} of {self.settings.samples}"
        with progress_bar(label, len(problems)) as on_progress:
            return sample_candidates(
                model,
                self.tokenizer,
                problems,
                1,
                generation,
                self.context.seed,
                place.with_suffix(".jsonl"),
                on_progress,
                origin=origin,
            )

    def select(self, candidates: Sequence[Candidate]) -> Selection:
        """Return the verified solutions among candidates."""
        rules = Rules(
            max_tokens=self.recipe.eval.generation["max_new_tokens"],
            max_per_problem=self.settings.max_per_problem,
            keep_at=self.settings.keep_at,
            require_checked_steps=self.settings.require_checked_steps,
        )
        return select_solutions(
            candidates,
            self.label,
            tokenizer=self.tokenizer,
            rules=rules,
            # The gate has checked all training problems before any stage ran.
            held_out=(),
            reward=self.reward,
        )

    def keep_solutions(self, number: int, asked: int) -> list[Problem]:
        """Return what to train on, of all rounds so far, and write it and its account; nothing where all is dropped."""
        candidates = [sample.candidate for sample in self.samples]
        selection = self.select(candidates)
        dropped = selection.account["dropped"]
        if self.settings.keep == "verified":
            rows = [to_dropped_conversation(*each) for each in selection.dropped]
            on_main_process(lambda: write_jsonl(self.work / "dropped.jsonl", rows))

        if not selection.solutions:
            alarm = f"nothing was kept in round {number} ({describe_account(selection.account)})"
            say(f"{self.label}: {alarm}; train sft longer, or take easier problems")
            on_main_process(lambda: write_text(self.work / "alarm.txt", alarm + "\n"))
            return []

        solutions = selection.solutions
        if self.settings.keep == "random":
            # The control has the same samples, and differs in what is kept of them alone.
            solutions = keep_at_random(self.samples, solutions, self.context.seed)
            dropped = {"not drawn": len(candidates) - len(solutions)}
        elif self.settings.keep == "first":
            # The other control trains for as long, on nothing new.
            first = self.choose_first_solutions()
            solutions = repeat_solutions(first, solutions, self.context.seed)
            dropped = {"not trained on": len(candidates)}

        samples = describe_samples(candidates, solutions)
        self.rounds.append({"round": number, "problems": asked, "dropped": dropped, **samples})
        on_main_process(lambda: write_jsonl(self.work / "kept.jsonl", map(to_conversation, solutions)))

        account = {
            **selection.account,
            "kept": samples["kept"],
            "levels": samples["kept_by_level"],
            "dropped": dropped,
        }
        say(f"round {number}: {describe_account(account)}")
        return solutions

    def train_round(self, solutions: Sequence[Problem], number: int) -> None:
        """Train on the kept solutions and a share of sft's, unless that is done already."""
        adapter = self.find_adapter(number)
        if on_main_process(adapter.is_dir):
            return

        # On the kept ones alone it would forget what it was not asked again: the easier problems.
        seed = self.context.seed
        first = self.choose_first_solutions()
        count = round(self.settings.replay * len(first))
        replayed = random.Random(seed).sample(first, count)
        sft = self.recipe.stages["sft"]
        rows = build_training_rows(self.tokenizer, [*replayed, *solutions], sft, seed)

        training = self.work / f"training-{number}"
        start = None if self.settings.anew else self.find_adapter(number - 1)
        # A round is scored on dev when it is trained, once.
        trained = train_adapter(self.context, rows, self.settings.trainer, training, start, score_dev=None)
        on_main_process(lambda: self.finish_training(trained, adapter))

    def choose_first_solutions(self) -> list[Problem]:
        """Return the solutions that sft was trained on."""
        sft = self.recipe.stages["sft"]
        problems = select_stage_problems(self.recipe, "sft", sft)
        return choose_solutions(problems, sft.solutions, self.context.seed)

    def finish_training(self, trained: Path, adapter: Path) -> None:
        """Take a finished adapter, and what says how it was trained, out of its training's folder."""
        for name in TRAINING_NOTES:
            note = trained.parent / name
            if note.is_file():
                shutil.copy(note, self.work / name)

        # From now on the round counts as trained.
        trained.rename(adapter)
        shutil.rmtree(trained.parent)


def show_samples(candidates: Sequence[Candidate], label: str) -> None:
    """Show texts of the model with the grader's verdicts."""
    for candidate in candidates:
        verdict = grade(candidate.problem, candidate.completion).verdict
        text = f"{candidate.problem.question}\n{candidate.completion.text}"
        say(f"{label}, a sample ({verdict}):\n{printable(text)}")


def keep_at_random(
    samples: Sequence[Sample],
    verified: Sequence[Problem],
    seed: int,
) -> list[Problem]:
    """Return as many solutions as are verified, of each family and level, whatever their verdict: the control.

    First attempts come first, since further ones are made only where the earlier ones failed.
    """
    wanted = Counter(map(get_group, verified))
    shuffled = random.Random(seed).sample(list(samples), len(samples))
    # The sort is stable, so each attempt stays shuffled.
    shuffled.sort(key=lambda sample: sample.attempt)

    kept = []
    numbers: Counter[str] = Counter()
    for sample in shuffled:
        solution = read_solution(sample.candidate)
        if solution is None:
            continue

        group = get_group(solution)
        if not wanted[group]:
            continue

        wanted[group] -= 1
        numbers[solution.id] += 1
        number = numbers[solution.id]
        if number > 1:
            # Several of a problem need ids of their own.
            solution = replace(solution, id=f"{solution.id}#{number}")
        kept.append(solution)
    return kept


def repeat_solutions(
    first: Sequence[Problem],
    verified: Sequence[Problem],
    seed: int,
) -> list[Problem]:
    """Return as many of the first solutions as are verified, of each family and level: the other control.

    Where there are too few of a family and level they come several times; where there are none, any are taken.
    """
    # Another order than that in which they are replayed.
    shuffled = random.Random(f"{seed} again").sample(list(first), len(first))
    by_group: dict[Any, list[Problem]] = {}
    for solution in shuffled:
        by_group.setdefault(get_group(solution), []).append(solution)

    again = []
    numbers: Counter[Any] = Counter()
    for number, solution in enumerate(verified, 1):
        group = get_group(solution)
        # What sft has none of is drawn from one pool.
        key = group if group in by_group else None
        pool = by_group.get(key, shuffled)
        repeated = pool[numbers[key] % len(pool)]
        numbers[key] += 1
        again.append(replace(repeated, id=f"{repeated.id}#again{number}"))
    return again


def get_group(solution: Problem) -> tuple[str, int]:
    """Return the family and the level of a solution."""
    return solution.family, solution.level


def read_solution(candidate: Candidate) -> Problem | None:
    """Return a text as a solution with its own answer, right or wrong; None where it has none, or is truncated."""
    if candidate.completion.finish != "stop":
        return None

    solution = write_solution(candidate)
    # There is nothing to learn from an answer alone, and the training refuses tags in the steps.
    if not solution or not solution.rationale or has_think_tags(solution.rationale):
        return None
    return solution


def describe_samples(
    candidates: Sequence[Candidate],
    solutions: Sequence[Problem],
) -> dict[str, Any]:
    """Return how much was sampled and kept in all rounds so far, by level and family."""
    completions = [candidate.completion for candidate in candidates]
    tokens = [each.tokens for each in completions]
    levels = Counter(str(solution.level) for solution in solutions)
    families = Counter(solution.family for solution in solutions)
    return {
        "samples": len(candidates),
        "tokens": sum(tokens),
        "kept": len(solutions),
        "kept_by_level": dict(sorted(levels.items())),
        "kept_by_family": dict(sorted(families.items())),
    }
