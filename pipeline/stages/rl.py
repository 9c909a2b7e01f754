"""Stage 4: the sft adapter learns from rewards, on problems whose solutions it never saw; the reward is the grader.

One recipe, one reward, two algorithms. Expert iteration samples, keeps what is verified and trains on it
(expert_iteration.py). GRPO trains the adapter further on the difference between a problem's samples (grpo.py).
"""

import shutil
from dataclasses import replace
from pathlib import Path

from data.files import UserError
from data.solutions import has_procedure
from pipeline.learnability import NoSignal
from pipeline.processes import on_main_process
from pipeline.progress import say
from pipeline.settings import Recipe, RlSettings
from pipeline.stages.problems import select_stage_problems
from pipeline.stages.stage import Stage, TrainingContext


def check_guessable(recipe: Recipe, settings: RlSettings) -> None:
    """Raise UserError where all answers can be guessed and expert iteration can check the steps to none of them.

    Args:
        recipe: Of the run.
        settings: Of stage 4, or of a control of it.
    """
    from pipeline.traces.verify import is_guessable

    if settings.algorithm == "grpo" or not settings.expert_iteration.require_checked_steps:
        return

    problems = select_stage_problems(recipe, "rl", settings)
    can_check_some = any(has_procedure(problem) or not is_guessable(problem) for problem in problems)
    if not can_check_some:
        raise UserError(
            f"rl.problems: the answers of all {len(problems)} problems, such as {problems[0].id}, can be guessed, and "
            "no step to them can be checked; add problems of another kind, or set "
            "rl.expert_iteration.require_checked_steps=false"
        )


def train(context: TrainingContext) -> Path:
    """Train an adapter by the recipe's algorithm; returns its folder."""
    if context.settings.algorithm == "grpo":
        from pipeline.stages.grpo import train_grpo

        return train_grpo(context)

    from pipeline.stages.expert_iteration import train_expert_iteration

    adapter = train_expert_iteration(context)
    if context.settings.algorithm == "both":
        return train_further(context, adapter)
    return adapter


def train_further(context: TrainingContext, adapter: Path) -> Path:
    """Train the adapter of expert iteration by GRPO; returns the better of the two on dev."""
    from pipeline.stages.grpo import train_grpo

    # Both algorithms write files of the same names.
    work = context.work / "grpo"
    on_main_process(lambda: work.mkdir(exist_ok=True))
    try:
        best = train_grpo(replace(context, work=work, start=adapter))
    except NoSignal as error:
        say(f"{error}; the adapter of expert iteration is kept")
        return adapter

    on_main_process(lambda: keep_notes(work))
    return best


def keep_notes(work: Path) -> None:
    """Copy what GRPO wrote beside what expert iteration wrote, as grpo_curve.json and the like."""
    for note in work.iterdir():
        if note.name == "alarm.txt":
            shutil.copy(note, work.parent)
        elif note.suffix in (".json", ".jsonl"):
            shutil.copy(note, work.parent / f"grpo_{note.name}")


RL = Stage(
    name="rl",
    number=4,
    help="learn from rewards: expert iteration or GRPO",
    prompt="think",
    compared_to=("sft",),
    settings=RlSettings,
    parent="sft",
    train=train,
)
