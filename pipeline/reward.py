"""The reward is the grader: 1.0 for a correct answer, else 0.0. It has no logic of its own.

A reward is a function of a problem and a completion, and so is one of a user's own, which a recipe names as
``FILE.py:name``. Two of ours are controls, which must not raise accuracy: a gain under them is none of the reward's.
"""

import importlib.util
import math
import random
from collections.abc import Callable
from pathlib import Path

from data.records import BadInput, Completion, Problem, nearest
from eval.errors import wrong_step
from eval.extract import thinks
from eval.grade import grade
from pipeline.prompts import DIRECT
from pipeline.recipe import RlSettings

Reward = Callable[[Problem, Completion], float]
TOLERANCE = 64  # tokens beyond the asked for, of which half take all of a reward (1 / alpha in L1)


class NoSignal(BadInput):
    """The samples of every problem earn the same: this recipe has nothing to teach this model."""


def correctness(problem: Problem, completion: Completion) -> float:
    """1.0 where the grader says correct; the same call that scores the table."""
    return float(grade(problem, completion).correct)


def coin(problem: Problem, completion: Completion) -> float:
    """1.0 or 0.0 by chance, the same for the same text (R. Shao et al. 2025, "Spurious rewards", arXiv 2506.10947)."""
    return float(random.Random(f"{problem.id} {completion.text}").random() < 0.5)


def form(problem: Problem, completion: Completion) -> float:
    """1.0 for a boxed answer after a closed thought, right or wrong."""
    return float(grade(problem, completion).boxed)


REWARDS: dict[str, Reward] = {"correctness": correctness, "random": coin, "format": form}


def reward_of(settings: RlSettings) -> Reward:
    """The reward that a recipe names, with what it adds and takes away."""
    earned = REWARDS[settings.reward] if settings.reward in REWARDS else own(settings.reward)

    def shaped(problem: Problem, completion: Completion) -> float:
        total = earned(problem, completion)
        if settings.format_bonus:
            total += settings.format_bonus * form(problem, completion)
        if settings.wrong_step_penalty and wrong_step(problem, completion.text) is not None:
            total -= settings.wrong_step_penalty
        if settings.overlong:
            length = completion.thinking_tokens + completion.answer_tokens
            over = length - (settings.max_tokens - settings.overlong)
            total -= min(1.0, max(0.0, over / settings.overlong))
        # For not thinking: the accuracy one would give up on a problem (AdaptThink, arXiv 2505.13417, eq. 6). Who
        # reasons after the closed tag has thought.
        direct = completion.text.startswith(DIRECT.strip()) and not thinks(completion.text)
        if direct and (settings.bonus_for == "any" or correctness(problem, completion)):
            total += settings.direct_bonus
        return total

    return shaped


def within(spent: int, at_most: int) -> float:
    """What a right answer earns whose thought took ``spent`` tokens where ``at_most`` were asked for: L1-Max's clip
    (arXiv 2503.04697, section 3), so that a right answer a little beyond still earns more than a wrong one."""
    return min(1.0, max(0.0, (at_most - spent) / TOLERANCE + 0.5))


def own(spec: str) -> Reward:
    """The function of a user's file, from ``FILE.py:name``; BadInput says what of it is missing."""
    path, colon, name = spec.rpartition(":")
    if not colon:
        raise BadInput(f"reward {spec!r} is unknown; {nearest(spec, REWARDS)}, or FILE.py:name of your own")
    file = Path(path)
    if not file.is_file():
        raise BadInput(f"reward {spec}: no file {path}; check the path")
    found = importlib.util.spec_from_file_location(file.stem, file)
    if found is None or found.loader is None:
        raise BadInput(f"reward {spec}: {path} is no Python file; name one that ends in .py")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as error:  # whatever a user's file does
        raise BadInput(f"reward {spec}: {path} does not load ({type(error).__name__}: {error}); mend it") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise BadInput(f"reward {spec}: {path} has no function {name!r}; define {name}(problem, completion) -> float")

    def checked(problem: Problem, completion: Completion) -> float:
        value = function(problem, completion)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise BadInput(f"reward {spec}: it gave {value!r} for {problem.id}; it must return a finite number")
        return float(value)

    return checked
