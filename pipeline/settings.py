"""What may stand in a recipe: a class for each section, without defaults.

A value stands in one place, a YAML file of recipes/. ``trainer`` and ``lora`` blocks hold the libraries' own keys,
which :func:`pipeline.config.check_trainers` checks against the libraries themselves.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from typing_extensions import TypedDict

from data.dataset_spec import DEV_NAMES, DatasetSpec, parse_spec
from data.splits import LEVELS

# Blocks of a library's own keys: of peft.LoraConfig, trl.SFTConfig and trl.GRPOConfig.
Lora = dict[str, Any]
SftTrainer = dict[str, Any]
GrpoTrainer = dict[str, Any]


def _read_spec(value: Any) -> Any:
    """A data set may also be written as on the command line: gsm8k?split=train&take=100."""
    return dataclasses.asdict(parse_spec(value)) if isinstance(value, str) else value


def _wrap_one(value: Any) -> Any:
    """One such text needs no list around it."""
    return [value] if isinstance(value, str) else value


def _refuse_held_out(spec: DatasetSpec) -> DatasetSpec:
    """What is held out for choosing and scoring is not trained on, nor shown as an example."""
    if spec.split in ("test", *DEV_NAMES):
        raise ValueError(f"the split {spec.split!r} of {spec.set} is held out; take train, or all")
    return spec


def refuse_twice(items: list) -> list:
    """Two of the same would share one file, or one weight."""
    if len(set(items)) < len(items):
        raise ValueError("names one twice")
    return items


def _refuse_one(samples: int) -> int:
    """One sample of a problem has none to differ from."""
    if samples == 1:
        raise ValueError("must be 0, or 2 or more")
    return samples


Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
# What the random generators take.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Spec = Annotated[DatasetSpec, BeforeValidator(_read_spec), AfterValidator(_refuse_held_out)]
Problems = Annotated[list[Spec], Field(min_length=1), BeforeValidator(_wrap_one)]


class Settings(BaseModel):
    """A section of a recipe."""

    # Frozen, since the manifests say what a stage was made from.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Greedy(TypedDict):
    """Keys of transformers.GenerationConfig that greedy decoding takes."""

    # Another key would be ignored by our own decoding.
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    max_new_tokens: Count


class Sampled(Greedy):
    """Keys of transformers.GenerationConfig that sampling takes."""

    temperature: Positive


class BaseSettings(Settings):
    """How the base's weights are loaded, and whether TRL is patched for speed."""

    load: Literal["auto", "fp32", "bf16", "nf4", "int8"]
    fast_training: bool


class EvalSettings(Settings):
    """Scoring, the same for every stage."""

    benchmarks: Annotated[list[str], Field(min_length=1)]
    limit: Count
    batch_size: Count
    generation: Greedy


class PromptedSettings(Settings):
    """Stages 1 and 2: one row for each number of worked examples."""

    shots: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(refuse_twice)]
    examples: Problems | None


class SftSettings(Settings):
    """Stage 3."""

    problems: Problems
    dev: Count
    solutions: Annotated[list[str], Field(min_length=1)]
    steps: Literal["kept", "shuffled", "none"]
    direct_share: Annotated[list[Share], Field(min_length=len(LEVELS), max_length=len(LEVELS))]
    direct_choice_share: Share
    lora: Lora
    trainer: SftTrainer


class LearnabilitySettings(Settings):
    """The samples of dev problems that say, before a GRPO training, whether there is anything to learn."""

    samples: Annotated[int, Field(ge=0), AfterValidator(_refuse_one)]
    problems_per_level: Count


class ExpertIterationSettings(Settings):
    """Stage 4 by sampling, keeping what earns enough, and training on it."""

    rounds: Count
    samples: Count
    keep: Literal["verified", "random", "first"]
    keep_at: float
    max_per_problem: Count
    require_checked_steps: bool
    anew: bool
    replay: Share
    generation: Sampled
    trainer: SftTrainer


class GrpoSettings(Settings):
    """Stage 4 by GRPO."""

    max_resample: Count
    trainer: GrpoTrainer


class RlSettings(Settings):
    """Stage 4."""

    algorithm: Literal["expert_iteration", "grpo", "both"]
    problems: Problems
    dev: Count
    rewards: Annotated[list[str], Field(min_length=1), AfterValidator(refuse_twice)]
    reward_weights: list[float]
    learnability: LearnabilitySettings
    expert_iteration: ExpertIterationSettings
    grpo: GrpoSettings

    @pydantic.model_validator(mode="after")
    def _check_weights(self) -> "RlSettings":
        if len(self.reward_weights) != len(self.rewards):
            raise ValueError("must have one of reward_weights for each of rewards")
        return self


class AdaptiveSettings(Settings):
    """Stage 5."""

    problems: Problems
    dev: Count
    price: Annotated[float, Field(ge=0)]
    keep_share: Share
    keep_weight: Positive
    content_weight: Annotated[float, Field(ge=0)]
    group_share: Share
    last_layers: Count | None
    accuracy_margin: Share
    generation: Greedy
    trainer: SftTrainer


class TeacherSettings(Settings):
    """A model behind an OpenAI-compatible address; its key is read from OPENAI_API_KEY."""

    url: str
    model: str
    max_requests: Count
    max_tokens: Count
    timeout: Annotated[float, Field(gt=0)]
    concurrency: Count


class TracesSettings(Settings):
    """`make traces`, where a model writes the solutions."""

    problems: Problems
    samples: Count
    max_per_problem: Count
    generation: Sampled
    teacher: TeacherSettings


class RunSettings(Settings):
    """What is not of one stage: recipes/run.yaml."""

    seed: Seed
    report_to: Literal["none", "trackio", "wandb", "tensorboard"]
    base: BaseSettings
    eval: EvalSettings


@dataclass(frozen=True)
class Recipe:
    """All settings of a run; ``stages`` has those of each stage by its name."""

    seed: int
    report_to: str
    base: BaseSettings
    eval: EvalSettings
    traces: TracesSettings
    stages: dict[str, Any]
