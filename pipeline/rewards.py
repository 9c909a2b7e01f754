"""Rewards: functions in TRL's own signature.

One written for TRL works here, and ours work there, with two exceptions. TRL's ``trainer_state``, ``log_extra`` and
``log_metric`` are not given, since expert iteration has none. None, which TRL leaves out of the sum, is refused.

A reward takes ``prompts``, ``completions`` (texts), ``completion_ids`` and columns, each with an entry a completion,
and returns a number for each. The columns are ``question``, ``answer``, ``kind``, ``choices``, ``finish`` (stop or
length), ``completion_tokens``, and ``problem`` with all fields of the problem. For example, in ``mine.py``:

    def short(
        prompts,
        completions,
        completion_ids,
        completion_tokens,
        **columns
    ):
        return [1.0 / tokens for tokens in completion_tokens]

is the reward ``mine.py:short``. The reward ``random`` is a control: accuracy that rises under it is not due to rewards.
"""

import importlib.util
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from data.files import UserError, suggest
from data.problem import Completion, Grade, Problem
from eval.grade import grade
from pipeline.prompts import format_thinking_answer

Reward = Callable[..., list[float]]


def correctness(prompts, completions, completion_ids, problem, finish, **columns) -> list[float]:
    """Return 1.0 where the grader says correct; it is the same grader that scores the table."""
    grades = _grade_texts(problem, completions, finish)
    return [float(each.correct) for each in grades]


def format_reward(prompts, completions, completion_ids, problem, finish, **columns) -> list[float]:
    """Return 1.0 for a boxed answer, right or wrong, that is not in a thought; there need be no thought."""
    grades = _grade_texts(problem, completions, finish)
    return [float(each.boxed) for each in grades]


def random_reward(prompts, completions, completion_ids, problem, **columns) -> list[float]:
    """Return 1.0 or 0.0 by chance, the same for the same text.

    Source: Shao et al. 2025, arXiv 2506.10947 ("Spurious rewards").
    """
    rewards = []
    for fields, text in zip(problem, completions, strict=True):
        # A resumed training must get the same.
        coin = random.Random(f"{fields['id']} {text}").random()
        rewards.append(float(coin < 0.5))
    return rewards


def _grade_texts(
    problems: Sequence[Mapping],
    texts: Sequence[str],
    finishes: Sequence[str],
) -> list[Grade]:
    grades = []
    for fields, text, finish in zip(problems, texts, finishes, strict=True):
        problem = Problem(**fields)
        # A grade does not depend on the numbers of tokens.
        completion = Completion(problem.id, text, 0, 0, 0, finish)
        grades.append(grade(problem, completion))
    return grades


REWARDS: dict[str, Reward] = {
    "correctness": correctness,
    "format": format_reward,
    "random": random_reward,
}


# A user's own


def load_reward(name: str) -> Reward:
    """Return a reward by its name, or a user's own by ``FILE.py:function``; its values are checked.

    Raises:
        UserError: there is no such reward; later, it gives something else than a finite number for each completion.
    """
    # Called by keywords, as TRL does.
    function = REWARDS[name] if name in REWARDS else _load_function(name)

    def reward(prompts, completions, completion_ids, **columns) -> list[float]:
        values = function(
            prompts=prompts,
            completions=completions,
            completion_ids=completion_ids,
            **columns,
        )
        return _check_values(name, values, len(completions))

    return reward


def _load_function(name: str) -> Reward:
    path, colon, function_name = name.rpartition(":")
    if not colon:
        raise UserError(f"reward {name!r} is unknown; {suggest(name, REWARDS)}, or FILE.py:function of your own")
    if not Path(path).is_file():
        raise UserError(f"reward {name}: no file {path}; check the path")

    # A name that takes no other module's place.
    spec = importlib.util.spec_from_file_location(f"ladder_reward_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"reward {name}: {path} is no Python file; name one that ends in .py")

    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look for it.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        # Whatever a user's file does when it is read.
        raise UserError(f"reward {name}: {path} does not load ({type(error).__name__}: {error}); fix it") from error

    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(
            f"reward {name}: {path} has no function {function_name!r}; "
            f"define {function_name}(prompts, completions, completion_ids, **columns)"
        )
    return function


def _check_values(name: str, values: Any, count: int) -> list[float]:
    is_list = isinstance(values, (list, tuple))
    if not is_list or len(values) != count:
        raise UserError(f"reward {name}: it must return a list with a number for each of {count} completions; fix it")

    # One that is no number would spoil the advantages of its whole group.
    for value in values:
        # Those of numpy are real numbers too.
        if not isinstance(value, Real) or not math.isfinite(value):
            raise UserError(f"reward {name}: it gave {value!r}; it must return finite numbers")
    return [float(value) for value in values]


def try_reward(name: str, problems: Sequence[Problem]) -> None:
    """Call a reward on right answers to problems, on thoughts that were cut off, and on empty texts.

    Raises:
        UserError: there is no such reward, it fails, or it gives no numbers.
    """
    reward = load_reward(name)
    right, cut, empty = [], [], []
    for problem in problems:
        text = format_thinking_answer(problem.rationale or problem.answer, problem.answer)
        # A reward may divide by the number of tokens.
        right.append(Completion(problem.id, text, 10, 8, 4, "stop"))
        cut.append(Completion(problem.id, text[: len(text) // 2], 10, 8, 4, "length"))
        # A model may end its turn at once, and that costs a token.
        empty.append(Completion(problem.id, "", 10, 0, 1, "stop"))

    trials = {"a right answer": right, "a thought that is cut off": cut, "an empty text": empty}
    for what, completions in trials.items():
        ids = [list(range(completion.tokens)) for completion in completions]
        try:
            score_rewards(reward, problems, completions, ids)
        except UserError as error:
            # It gave no number.
            raise UserError(f"{error} (on {what})") from None
        except Exception as error:
            # Whatever a user's function does.
            raise UserError(f"reward {name}: it fails on {what} ({type(error).__name__}: {error}); fix it") from error


# Use


def score_rewards(
    reward: Reward,
    problems: Sequence[Problem],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]] | None = None,
) -> list[float]:
    """Return what each completion earns.

    Args:
        reward: In TRL's signature.
        problems: One for each completion.
        completions: What was written.
        completion_ids: Their token ids; None where only the texts are known.
    """
    questions = [problem.question for problem in problems]
    tokens = [each.tokens for each in completions]
    return reward(
        prompts=questions,
        completions=[completion.text for completion in completions],
        completion_ids=completion_ids,
        # Copies: a user's own may write into them.
        problem=[dict(vars(problem)) for problem in problems],
        question=questions,
        answer=[problem.answer for problem in problems],
        kind=[problem.kind for problem in problems],
        choices=[problem.choices for problem in problems],
        finish=[completion.finish for completion in completions],
        completion_tokens=tokens,
    )


@dataclass(frozen=True)
class RewardScore:
    """What one completion earns: the weighted sum, and what each reward gives."""

    total: float
    parts: dict[str, float]


CombinedReward = Callable[..., list[RewardScore]]


def combine_rewards(names: Sequence[str], weights: Sequence[float]) -> CombinedReward:
    """Return the rewards of a recipe as one function, of problems, completions and ids.

    Raises:
        UserError: as :func:`load_reward` does.
    """
    rewards = {name: load_reward(name) for name in names}
    weight_of = dict(zip(names, weights, strict=True))

    def combined(problems, completions, completion_ids=None) -> list[RewardScore]:
        # Each reward sees all completions at once, as under TRL.
        columns = {}
        for name, reward in rewards.items():
            columns[name] = score_rewards(reward, problems, completions, completion_ids)

        scores = []
        for i in range(len(completions)):
            parts = {name: values[i] for name, values in columns.items()}
            weighted = [weight_of[name] * value for name, value in parts.items()]
            # Exact: 0.7 + 0.2 + 0.1 is to reach a keep_at of 1.
            total = math.fsum(weighted)
            scores.append(RewardScore(total, parts))
        return scores

    return combined
