"""What a stage of the ladder is, and what its training is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.problem import Problem
from pipeline.stages import problems

if TYPE_CHECKING:
    from pipeline.run import Run
    from pipeline.settings import Settings


@dataclass(frozen=True)
class Stage:
    """One stage: its recipe section, the stage that it starts from, its prompt and its training.

    Args:
        number: its place in the ladder; its recipe is ``recipes/NUMBER_NAME.yaml``.
        prompt: what its model is asked with: plain, cot or think.
        compared_to: the stages whose best row each of its rows is tested against.
        settings: the class of its recipe section.
        parent: the stage whose adapter it trains further; None for the base.
        train: trains an adapter and returns its folder, inside ``context.work``; None for a prompted stage.
        control_of: the real stage that a control imitates.
        overrides: what a control changes in the settings of its real stage, by dotted key.
    """

    name: str
    number: int
    help: str
    prompt: str
    compared_to: tuple[str, ...]
    settings: type[Settings]
    parent: str | None = None
    train: Callable[[TrainingContext], Path] | None = None
    control_of: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def section(self) -> str:
        """The section of the recipe that it runs under."""
        return self.control_of or self.name


@dataclass(frozen=True)
class TrainingContext:
    """What a stage's ``train`` is given.

    Args:
        settings: the stage's section of the recipe, with a control's overrides.
        work: the folder for checkpoints and for files that are kept when training ends (*.json, *.jsonl, *.txt).
        start: the adapter to start from in place of the parent's.
    """

    run: Run
    stage: Stage
    settings: Any
    seed: int
    work: Path
    start: Path | None = None

    @property
    def parent_adapter(self) -> Path | None:
        """The adapter that the training starts from."""
        if self.start:
            return self.start
        if self.stage.parent is None:
            return None
        return self.run.dir.stage(self.stage.parent).adapter

    def load_model(self, adapter: Path | None = None, trainable: bool = False) -> tuple[Any, Any]:
        """Return (model, tokenizer): the base, with an adapter on it where one is named."""
        from pipeline.models.load import load_model

        return load_model(self.run.base_folder, adapter, trainable, self.run.recipe.base.load)

    def train_problems(self) -> list[Problem]:
        """Return the stage's training problems; stages after sft get first what sft has not seen."""
        return problems.select_stage_problems(self.run.recipe, self.stage.section, self.settings)

    def dev_problems(self) -> list[Problem]:
        """Return the problems that adapters are compared on while training: ``dev`` of each data set."""
        return problems.select_dev_problems(self.settings.problems, self.settings.dev)


def make_control(real: Stage, name: str, text: str, overrides: Mapping[str, Any]) -> Stage:
    """Return a stage like ``real`` that differs in a few settings, which take away what it should learn from."""
    return dataclasses.replace(
        real,
        name=name,
        help=text,
        compared_to=(real.name,),
        control_of=real.name,
        overrides=overrides,
    )


def apply_overrides(settings: Any, overrides: Mapping[str, Any]) -> Any:
    """Return settings with each dotted key set to its value."""
    # Settings are frozen, so each level is copied with its change.
    for key, value in overrides.items():
        head, _, rest = key.partition(".")
        if rest:
            value = apply_overrides(getattr(settings, head), {rest: value})
        settings = settings.model_copy(update={head: value})
    return settings
