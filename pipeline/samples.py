"""Samples of a model, as stages 4 and 5 take, reward and score them."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeAlias

from data.records import Completion, Problem
from eval.errors import steps, wrong_step
from eval.extract import thinks
from pipeline.generate import Sample, completion, generate, stop_ids
from pipeline.progress import bar
from pipeline.prompts import encode, messages, render
from pipeline.recipe import RlSettings
from pipeline.reward import Reward, correctness, form, within


@dataclass(frozen=True)
class Row:
    """One sample of a rollout: what it earned, and whether it is right (1.0 or 0.0)."""

    problem: Problem
    completion: Completion
    sample: Sample
    earned: float
    right: float
    at_most: int | None = None  # the tokens of thought that were asked for


Group: TypeAlias = list[Row]


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """The means of some samples: reward, right answers, boxed ones, tokens."""
    return {
        "reward": fmean(row.earned for row in rows),
        "correct": fmean(row.right for row in rows),
        "boxed": fmean(form(row.problem, row.completion) for row in rows),
        "length": fmean(len(row.sample.ids) for row in rows),
    }


@dataclass(frozen=True)
class Task:
    """What one RL stage is: the reward, and the prefixes its samples take in turn, the choice among which is then all
    that is trained. Without prefixes the samples are the model's own from the first token, and all is trained."""

    reward: Reward
    prefixes: tuple[str, ...] = ()
    budgets: tuple[int, ...] = ()

    def at_most(self, i: int) -> int | None:
        """The tokens of thought that the i-th problem is asked for: the budgets in turn."""
        return self.budgets[i % len(self.budgets)] if self.budgets else None

    def earned(self, problem: Problem, completion: Completion, at_most: int | None) -> float:
        """The reward, less what is taken for thinking beyond ``at_most`` tokens."""
        whole = self.reward(problem, completion)
        return whole if at_most is None else whole * within(completion.thinking_tokens, at_most)

    def better(self, point: dict[str, float], kept: dict[str, float], start: dict[str, float], loss: float) -> bool:
        """Whether a point of the dev curve is to be kept instead of ``kept``: where content is trained, for more
        accuracy; where budgets are obeyed, for more reward; where the choice is, for fewer tokens at no more than
        ``loss`` of the starting accuracy (the constrained objective of AdaptThink, arXiv 2505.13417, section 3.2)."""
        if self.budgets:
            return point["reward"] > kept["reward"]
        if not self.prefixes:
            return point["accuracy"] > kept["accuracy"]
        return point["accuracy"] >= start["accuracy"] - loss and point["tokens"] < kept["tokens"]


def asked(tokenizer, problem: Problem, at_most: int | None = None) -> str:
    """The prompt of the trained rungs, as text."""
    return render(tokenizer, messages(problem, "think", at_most=at_most))


def sample(
    model, tokenizer, prompts: Sequence[str], task: Task, settings: RlSettings, seed: int, progress=None
) -> list[Sample]:
    """One sample of each prompt; among those of a problem the task's prefixes are taken in turn."""
    prefixes = task.prefixes or ("",)
    return generate(
        model,
        tokenizer,
        [encode(tokenizer, prompt) for prompt in prompts],
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        seed=seed,
        prefixes=[encode(tokenizer, prefixes[i % settings.samples % len(prefixes)]) for i in range(len(prompts))],
        progress=progress,
    )


def completions(model, tokenizer, problems: Sequence[Problem], samples: Sequence[Sample]) -> list[Completion]:
    """Each sample as a completion of the problem beside it."""
    stops = stop_ids(model, tokenizer)
    return [completion(tokenizer, problem, one, stops) for problem, one in zip(problems, samples, strict=True)]


def blamed(tokenizer, problem: Problem, completion: Completion, ids: Sequence[int]) -> list[int]:
    """1 for each token that a wrong answer is held against: those of the first line that is wrong by recomputation, for
    what led to it was right (the label of a process reward model, arXiv 2305.20050, section 2.3); all of them where the
    answer is right, or no step can be found wrong."""
    wrong = None if correctness(problem, completion) else wrong_step(problem, completion.text)
    begin = 0
    for line in completion.text.split("\n") if wrong else ():
        if line.strip() == wrong or not all(right for *_, right in steps(line)):
            ends = [len(tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]
            spans = zip([0, *ends], ends, strict=False)
            return [int(end > begin and before < begin + len(line)) for before, end in spans]
        begin += len(line) + 1
    return [1] * len(ids)


def references(
    model, tokenizer, problems: Sequence[Problem], task: Task, settings: RlSettings, seed: int
) -> dict[str, float]:
    """What ``reference`` samples of each problem are right in the mean: R_ref of AdaptThink (section 3.2)."""
    each = [p for p in problems for _ in range(settings.reference)]
    with bar("sampling the reference", len(each)) as advance:
        samples = sample(
            model, tokenizer, [asked(tokenizer, p) for p in each], Task(task.reward), settings, seed, advance
        )
    right: dict[str, list[float]] = {}
    for problem, text in zip(each, completions(model, tokenizer, each, samples), strict=True):
        right.setdefault(problem.id, []).append(correctness(problem, text))
    return {name: fmean(of_it) for name, of_it in right.items()}


def teaches(earned: Sequence[float], right: Sequence[float], settings: RlSettings) -> bool:
    """Whether a group of samples carries a signal: they do not all earn the same, and where right answers are what is
    paid for, one of them is right, however the reward of the others is shaped."""
    return len(set(earned)) > 1 and (any(right) or settings.reward != "correctness")


def dev_scores(model, tokenizer, dev: Sequence[Problem], task: Task, max_tokens: int) -> dict[str, Any]:
    """Accuracy, mean reward, and mean tokens a completion, of greedy decoding on the dev problems; where thinking is a
    choice, also the share that thinks, by level."""
    told = [task.at_most(i) for i in range(len(dev))]
    prompts = [encode(tokenizer, asked(tokenizer, p, n)) for p, n in zip(dev, told, strict=True)]
    with bar("scoring on dev", len(dev)) as advance:
        samples = generate(model, tokenizer, prompts, max_tokens=max_tokens, progress=advance)
    texts = completions(model, tokenizer, dev, samples)
    found: dict[str, Any] = {
        "n": len(dev),
        "accuracy": fmean(correctness(p, c) for p, c in zip(dev, texts, strict=True)),
        "reward": fmean(task.earned(p, c, n) for p, c, n in zip(dev, texts, told, strict=True)),
        "tokens": fmean(len(s.ids) for s in samples),
    }
    if task.prefixes:
        levels = sorted({p.level for p in dev})
        found["thinks"] = {
            str(level): fmean(thinks(c.text) for p, c in zip(dev, texts, strict=True) if p.level == level)
            for level in levels
        }
    return found
