"""Recipes: YAML files become typed settings, and every wrong key, type or value is one line that says so.

A value stands in one place, a YAML file: the classes here say what may be there, and have no defaults. ``trainer`` and
``lora`` blocks hold the libraries' own keys, which :func:`check_trainers` checks against the libraries themselves.
"""

import dataclasses
import enum
import importlib
import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from data.datasets import DatasetSpec, parse_spec
from data.files import UserError, suggest
from data.splits import LEVELS

RECIPES = Path(__file__).resolve().parent.parent / "recipes"

# The longest prompt that a run makes room for, in tokens.
PROMPT_TOKENS = 512

UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")

# What pydantic says, and what a recipe's author understands.
PHRASES = {
    "Value error, ": "",
    "Input should be": "must be",
    "List should have": "must have",
    " after validation": "",
    "a valid integer": "a whole number",
    "a valid string": "a text",
    "a valid boolean": "true or false",
    "a valid": "a",
    "an object": "keys and values",
    "array": "list",
}

# Longer values are not repeated in a message.
SHOWN_CHARACTERS = 60

# Keys of a library's class that the pipeline sets itself, or that its own sampling would not follow.
SET_BY_PIPELINE = (
    "output_dir seed report_to project run_name use_cpu bf16 fp16 disable_tqdm save_total_limit "
    "resume_from_checkpoint auto_find_batch_size remove_unused_columns"
)
RESERVED = {
    "SFTConfig": f"{SET_BY_PIPELINE} max_length train_sampling_strategy packing padding_free completion_only_loss",
    "GRPOConfig": (
        f"{SET_BY_PIPELINE} load_best_model_at_end metric_for_best_model greater_is_better reward_weights use_vllm "
        "per_device_eval_batch_size top_p top_k min_p repetition_penalty generation_kwargs"
    ),
    "LoraConfig": "task_type base_model_name_or_path inference_mode",
}

# Keys of the libraries that would fail late, or train nothing, below 1.
AT_LEAST_ONE = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_generations",
    "max_completion_length",
    "eval_steps",
    "save_steps",
    "logging_steps",
    "r",
)


@dataclass(frozen=True)
class KeysOf:
    """Marks a block of settings whose keys are the fields of a library's dataclass."""

    module: str
    name: str


SftTrainer = Annotated[dict[str, Any], KeysOf("trl", "SFTConfig")]
GrpoTrainer = Annotated[dict[str, Any], KeysOf("trl", "GRPOConfig")]
Lora = Annotated[dict[str, Any], KeysOf("peft", "LoraConfig")]


def _read_spec(value: Any) -> Any:
    """A data set may also be written as on the command line: gsm8k?split=train&take=100."""
    return dataclasses.asdict(parse_spec(value)) if isinstance(value, str) else value


def _wrap_one(value: Any) -> Any:
    """One such text needs no list around it."""
    return [value] if isinstance(value, str) else value


def _refuse_repeats(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("must name none twice")
    return values


Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[int, Field(ge=LEVELS[0], le=LEVELS[-1])]
Spec = Annotated[DatasetSpec, BeforeValidator(_read_spec)]
Problems = Annotated[list[Spec], Field(min_length=1), BeforeValidator(_wrap_one)]


class Settings(BaseModel):
    """A section of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Greedy(TypedDict):
    """Keys of transformers.GenerationConfig that greedy decoding takes."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    max_new_tokens: Count


class Sampled(TypedDict):
    """Keys of transformers.GenerationConfig that sampling takes."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    max_new_tokens: Count
    temperature: Annotated[float, Field(gt=0)]


class BaseSettings(Settings):
    """How the base's weights are loaded, and whether TRL is patched for speed."""

    load: Literal["auto", "fp32", "bf16", "nf4", "int8"]
    fast_training: bool


class EvalSettings(Settings):
    """Scoring, the same for every stage."""

    limit: Count
    batch_size: Count
    generation: Greedy


class PromptedSettings(Settings):
    """Stages 1 and 2: one row for each number of worked examples."""

    shots: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_refuse_repeats)]
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

    samples: Annotated[int, Field(ge=0)]
    problems_per_level: Count


class ExpertIterationSettings(Settings):
    """Stage 4 by sampling, keeping what earns enough, and training on it."""

    rounds: Count
    samples: Count
    keep: Literal["verified", "random"]
    keep_at: float
    max_per_problem: Count
    require_checked_steps: bool
    generation: Sampled
    trainer: SftTrainer


class GrpoSettings(Settings):
    """Stage 4 by GRPO."""

    levels: list[Level]
    max_resample: Count
    trainer: GrpoTrainer


class RlSettings(Settings):
    """Stage 4."""

    algorithm: Literal["expert_iteration", "grpo"]
    problems: Problems
    dev: Count
    rewards: Annotated[list[str], Field(min_length=1)]
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
    content_weight: Annotated[float, Field(ge=0)]
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

    seed: Annotated[int, Field(ge=0)]
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


def default_profile() -> str:
    """Return cpu or gpu, by what this machine has."""
    from pipeline import processes

    return "gpu" if processes.count_gpus() else "cpu"


def load_recipe(profile: str, overrides: Iterable[str] = (), base: str = "") -> Recipe:
    """Return the recipe files, then the profile, then what the base needs, then ``section.key=value`` overrides.

    Raises:
        UserError: A key, a type or a value is wrong; the line names the file or the override, and the dotted key.
    """
    run_file = RECIPES / "run.yaml"
    tree = _read_yaml(run_file)
    recipe_files = find_recipe_files()
    for section, path in recipe_files.items():
        tree[section] = _read_yaml(path)
    sections = _build(tree, str(run_file), recipe_files)

    for changes in (_find_profile(profile), _find_base_file(base)):
        if changes:
            _merge(tree, _read_yaml(changes))
            sections = _build(tree, str(changes))

    for item in overrides:
        _merge(tree, _parse_override(item))
        sections = _build(tree, f"--set {item!r}")

    stages = {stage.name: getattr(sections, stage.name) for stage in _list_stages()}
    return Recipe(sections.seed, sections.report_to, sections.base, sections.eval, sections.traces, stages)


def find_recipe_files() -> dict[str, Path]:
    """Return the file of each section that has one of its own."""
    files = {stage.name: RECIPES / f"{stage.number}_{stage.name}.yaml" for stage in _list_stages()}
    return files | {"traces": RECIPES / "traces.yaml"}


def _list_stages() -> tuple[Any, ...]:
    # The stages need the settings' classes, so they cannot be imported above.
    from pipeline.stages import STAGES

    return STAGES


def _find_profile(profile: str) -> Path:
    names = sorted(path.stem for path in (RECIPES / "profiles").glob("*.yaml"))
    if profile not in names:
        raise UserError(f"profile {profile!r} is unknown; {suggest(profile, names)}")
    return RECIPES / "profiles" / f"{profile}.yaml"


def _find_base_file(base: str) -> Path | None:
    """The file of a base by its name, or by a hub id's part after the slash; a folder or a file has none."""
    owner, slash, name = base.rpartition("/")
    is_path = base.endswith(".gguf") or owner.startswith((".", "/", "~")) or "/" in owner
    if is_path or (slash and Path(base).is_dir()):
        return None

    path = RECIPES / "bases" / f"{name.lower()}.yaml"
    return path if path.is_file() else None


# YAML


class _Loader(yaml.SafeLoader):
    """YAML of version 1.2 where it matters here: 1e-4 is a number, and yes, no, on and off are texts."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
for _letter in "yYnNoO":
    _resolvers = _Loader.yaml_implicit_resolvers[_letter]
    _Loader.yaml_implicit_resolvers[_letter] = [each for each in _resolvers if not each[0].endswith(":bool")]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; every stage needs its recipe") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise UserError(f"{path}:{line}: not YAML; fix the line") from None

    if not isinstance(tree, dict):
        raise UserError(f"{path}: must hold keys and values")
    return tree


def _parse_override(item: str) -> dict[str, Any]:
    """The tree that ``section.key=value`` stands for."""
    name, equals, text = item.partition("=")
    if not equals:
        raise UserError(f"--set {item!r}: no '='; write section.key=value, such as sft.trainer.learning_rate=1e-4")

    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise UserError(f"--set {item!r}: {text!r} is not a YAML value; write section.key=value") from None

    for part in reversed(name.split(".")):
        tree = {part: tree}
    return tree


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Put the values of ``other`` into ``tree``, block by block; lists are replaced whole."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


# Checks


def _build(tree: Mapping[str, Any], where: str, files: Mapping[str, Path] | None = None) -> Any:
    """Return typed settings, with an attribute for each section."""
    kinds: dict[str, Any] = {stage.name: (stage.settings, ...) for stage in _list_stages()}
    kinds["traces"] = (TracesSettings, ...)
    model = pydantic.create_model("Sections", __base__=RunSettings, **kinds)
    return _validate(model, tree, where, files or {})


def _validate(model: type[BaseModel], tree: Mapping[str, Any], where: str, files: Mapping[str, Path]) -> Any:
    """Return a model of a tree; the first thing that is wrong becomes a UserError."""
    # In JSON strict types still take objects for models, and a date of YAML becomes a text.
    text = json.dumps(tree, default=str)
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        faults = error.errors()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None

    # A wrong name is the reason for a missing one.
    fault = min(faults, key=lambda each: each["type"] not in UNKNOWN_KEY)
    path = fault["loc"]
    place = files.get(str(path[0]), where) if path else where
    raise UserError(f"{place}: {_describe_fault(model, tree, fault)}")


def _describe_fault(model: type[BaseModel], tree: Mapping[str, Any], fault: Any) -> str:
    """What pydantic found wrong, in the words of a recipe."""
    path = fault["loc"]
    key = ".".join(str(part) for part in path)

    if fault["type"] in UNKNOWN_KEY:
        same = [each for each in _flatten(tree) if each.endswith(f".{path[-1]}") and each != key]
        hint = f"did you mean {same[0]}?" if same else suggest(str(path[-1]), _list_keys(model, path[:-1]))
        return f"unknown key {key!r}; {hint}"
    if fault["type"] in ("missing", "missing_argument"):
        return f"{key} is missing; write it there"
    if fault["type"] == "literal_error":
        valid = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
        return f"{key} cannot be {fault['input']!r}; {suggest(str(fault['input']), valid)}"

    problem = fault["msg"]
    for phrase, ours in PHRASES.items():
        problem = problem.replace(phrase, ours)
    value = repr(fault["input"])
    if ", not" not in problem and len(value) <= SHOWN_CHARACTERS:
        problem += f", not {value}"
    return f"{key} {problem}"


def _flatten(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The dotted keys of a tree."""
    for key, value in tree.items():
        yield f"{path}{key}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}{key}.")


def _list_keys(model: Any, path: tuple[Any, ...]) -> list[str]:
    """The keys that are valid in a block."""
    # The only blocks in lists are data sets.
    if any(isinstance(part, int) for part in path):
        return [each.name for each in dataclasses.fields(DatasetSpec)]

    for part in path:
        model = model.model_fields[part].annotation
    return list(getattr(model, "model_fields", None) or typing.get_type_hints(model))


@dataclass(frozen=True)
class _Block:
    """A block of a library's keys, and its place in the recipe."""

    key: str
    values: dict[str, Any]
    keys_of: KeysOf


def check_trainers(recipe: Recipe) -> None:
    """Check every ``trainer`` and ``lora`` block against the library's own dataclass. Imports TRL.

    Raises:
        UserError: A key is unknown or set by the pipeline, or a value is wrong.
    """
    for name, settings in recipe.stages.items():
        for block in _find_blocks(name, settings):
            _check_block(block)

    _check_checkpoints("adaptive.trainer", recipe.stages["adaptive"].trainer)
    grpo = recipe.stages["rl"].grpo.trainer
    _check_checkpoints("rl.grpo.trainer", grpo)
    batch = grpo["per_device_train_batch_size"] * grpo.get("gradient_accumulation_steps", 1)
    if batch % grpo["num_generations"]:
        raise UserError(
            f"rl.grpo.trainer: a batch of {batch} rows is not whole groups of num_generations="
            f"{grpo['num_generations']}; change per_device_train_batch_size"
        )


def _check_checkpoints(key: str, trainer: Mapping[str, Any]) -> None:
    """Where the best checkpoint on dev is kept, each must have been scored."""
    is_scored = trainer.get("save_strategy") == trainer.get("eval_strategy") == "steps"
    if not is_scored or trainer["save_steps"] % trainer["eval_steps"]:
        raise UserError(
            f"{key}: the best checkpoint on dev is kept, so save_strategy and eval_strategy must be steps, and "
            "save_steps a multiple of eval_steps"
        )


def _find_blocks(path: str, settings: Settings) -> Iterator[_Block]:
    for name, field in type(settings).model_fields.items():
        key = f"{path}.{name}"
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from _find_blocks(key, value)
        for note in field.metadata:
            if isinstance(note, KeysOf):
                yield _Block(key, value, note)


def _check_block(block: _Block) -> None:
    library = f"{block.keys_of.module}.{block.keys_of.name}"
    kind = getattr(importlib.import_module(block.keys_of.module), block.keys_of.name)
    reserved = RESERVED[block.keys_of.name].split()
    hints = typing.get_type_hints(kind)
    valid = [each.name for each in dataclasses.fields(kind) if each.name not in reserved]

    fields: dict[str, Any] = {}
    for name in block.values:
        if name in reserved:
            raise UserError(f"{block.key}.{name}: the pipeline sets it itself; take it out of the recipe")
        if name not in valid:
            matches = suggest(name, valid).partition("valid:")[0] or "its fields are in its documentation"
            raise UserError(f"{block.key}.{name}: no field of {library}; {matches.strip()}")
        fields[name] = (_narrow_hint(name, hints[name]), ...)

    config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False, protected_namespaces=())
    model = pydantic.create_model(block.keys_of.name, __config__=config, **fields)
    _validate(model, block.values, block.key, {})


def _narrow_hint(name: str, hint: Any) -> Any:
    """A hint of a library, narrowed to what works."""
    if name in AT_LEAST_ONE:
        return Annotated[hint, Field(ge=1)]

    # Names such as lr_scheduler_type are hinted as an enumeration or any text.
    for kind in typing.get_args(hint):
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return Literal[tuple(member.value for member in kind)]
    return hint


def count_context_tokens(recipe: Recipe) -> int:
    """Return the tokens of context that a run needs: its longest answer after its longest prompt."""
    sections = [recipe.eval, recipe.traces, *recipe.stages.values()]
    longest = max(_find_limits([section.model_dump() for section in sections]))
    return PROMPT_TOKENS + longest


def _find_limits(value: Any) -> Iterator[int]:
    """All limits on the tokens of an answer, however deep they stand."""
    if isinstance(value, list):
        for item in value:
            yield from _find_limits(item)
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("max_new_tokens", "max_completion_length"):
                yield item
            else:
                yield from _find_limits(item)
