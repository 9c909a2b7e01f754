"""Recipes: YAML files become typed settings, and every wrong key, type or value is one line that says so."""

import dataclasses
import difflib
import enum
import functools
import json
import operator
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.dataset_spec import DatasetSpec
from data.files import UserError, suggest
from pipeline import processes
from pipeline.settings import Recipe, RunSettings, Settings, TracesSettings

RECIPES = Path(__file__).resolve().parent.parent / "recipes"

# The longest prompt that a run makes room for, in tokens.
PROMPT_TOKENS = 512

# Longer values are not repeated in a message.
SHOWN_CHARACTERS = 60

# Keys of a library's class that the pipeline sets itself, or that its own sampling would not follow.
SET_BY_PIPELINE = (
    "output_dir seed report_to project run_name use_cpu bf16 fp16 disable_tqdm save_total_limit "
    "resume_from_checkpoint auto_find_batch_size remove_unused_columns ddp_find_unused_parameters"
)
RESERVED = {
    "SFTConfig": f"{SET_BY_PIPELINE} max_length train_sampling_strategy packing padding_free completion_only_loss",
    "GRPOConfig": (
        f"{SET_BY_PIPELINE} load_best_model_at_end metric_for_best_model greater_is_better reward_weights "
        "per_device_eval_batch_size disable_dropout router_aux_loss_coef top_p top_k min_p repetition_penalty "
        "generation_kwargs steps_per_generation generation_batch_size"
    ),
    "LoraConfig": "task_type base_model_name_or_path inference_mode",
}

# Keys of the libraries that would fail late, or train nothing, below 1.
AT_LEAST_ONE = (
    "per_device_train_batch_size gradient_accumulation_steps num_generations max_completion_length eval_steps "
    "save_steps logging_steps num_iterations r"
)


def default_profile() -> str:
    """Return cpu or gpu, by what this machine has."""
    return "gpu" if processes.count_gpus() else "cpu"


def load_recipe(profile: str, overrides: Iterable[str] = (), base: str = "") -> Recipe:
    """Return the recipe files, then the profile, then what the base needs, then ``section.key=value`` overrides.

    Raises:
        UserError: A key, a type or a value is wrong; the line names the file or the override, and the dotted key.
    """
    # The stages need the classes above, so they cannot be imported there.
    from pipeline.stages import STAGES

    files = {stage.name: RECIPES / f"{stage.number}_{stage.name}.yaml" for stage in STAGES}
    files["traces"] = RECIPES / "traces.yaml"
    tree = read_yaml(RECIPES / "run.yaml")
    for section, path in files.items():
        tree[section] = read_yaml(path)

    kinds: dict[str, Any] = {stage.name: stage.settings for stage in STAGES}
    model = pydantic.create_model("Sections", __base__=RunSettings, traces=TracesSettings, **kinds)
    sections = _validate(model, tree, RECIPES / "run.yaml", files)

    # Each is checked on its own, so that a message names where the fault is.
    for path in (_find_profile(profile), *_find_base_file(base)):
        _merge(tree, read_yaml(path))
        sections = _validate(model, tree, path)

    # Values may belong together, so they are checked only when all are there.
    items = list(overrides)
    for item in items:
        _merge(tree, _parse_override(item))
    if items:
        sections = _validate(model, tree, f"--set {' '.join(map(repr, items))}")

    stages = {stage.name: getattr(sections, stage.name) for stage in STAGES}
    return Recipe(sections.seed, sections.report_to, sections.base, sections.eval, sections.traces, stages)


def load_studies(models: Mapping[str, type[Settings]], overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Return the settings of studies by name: recipes/studies/NAME.yaml, then ``NAME.key=value`` overrides.

    Raises:
        UserError: A key, a type or a value is wrong.
    """
    files = {name: RECIPES / "studies" / f"{name}.yaml" for name in models}
    tree = {name: read_yaml(path) for name, path in files.items()}
    kinds: dict[str, Any] = dict(models)
    model = pydantic.create_model("Studies", __base__=Settings, **kinds)
    sections = _validate(model, tree, RECIPES / "studies", files)

    for item in overrides:
        _merge(tree, _parse_override(item))
        sections = _validate(model, tree, f"--set {item!r}")
    return {name: getattr(sections, name) for name in models}


def _find_profile(profile: str) -> Path:
    names = sorted(path.stem for path in (RECIPES / "profiles").glob("*.yaml"))
    if profile not in names:
        raise UserError(f"profile {profile!r} is unknown; {suggest(profile, names)}")
    return RECIPES / "profiles" / f"{profile}.yaml"


def _find_base_file(base: str) -> list[Path]:
    """The file of a base by its name, or by a hub id's part after the slash; a folder or a file has none."""
    match = re.fullmatch(r"(\w[\w.-]*/)?([\w.-]+)", base)
    if match is None or (match[1] and Path(base).is_dir()):
        return []

    path = RECIPES / "bases" / f"{match[2].lower()}.yaml"
    return [path] if path.is_file() else []


# YAML


class _Loader(yaml.SafeLoader):
    """YAML of version 1.2 where it matters here: 1e-4 is a number, yes, no, on and off are texts, a key is unique."""

    def compose_mapping_node(self, anchor):
        """Return a mapping as it is written; a key that stands there twice is refused: a value of it would be lost."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            # One that is a list is no key of ours, and is refused as such.
            if not isinstance(key.value, str):
                continue
            if key.value in seen:
                problem = f"the key {key.value!r} stands there twice"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
for _letter in "yYnNoO":
    _resolvers = _Loader.yaml_implicit_resolvers[_letter]
    _Loader.yaml_implicit_resolvers[_letter] = [each for each in _resolvers if not each[0].endswith(":bool")]


def _parse_yaml(text: str, where: object) -> Any:
    try:
        return yaml.load(text, _Loader)
    # A date that does not exist is a ValueError.
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: not YAML: {reason}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file; an empty one has none.

    Raises:
        UserError: The file is not UTF-8, no YAML, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save it as UTF-8") from None

    tree = _parse_yaml(text, path) or {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must be keys with values, such as seed: 1")
    return tree


def _parse_override(item: str) -> dict[str, Any]:
    """The tree that ``section.key=value`` stands for."""
    name, equals, text = item.partition("=")
    if not equals:
        raise UserError(f"--set {item!r}: no '='; write section.key=value, such as sft.trainer.learning_rate=1e-4")

    tree = _parse_yaml(text, f"--set {item!r}")
    # From the inside out.
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


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All dotted keys of a tree, with their values; blocks come before what is in them."""
    for key, value in tree.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")


# Checks


def _validate(
    model: type[BaseModel],
    tree: Mapping[str, Any],
    where: object,
    files: Mapping[str, Path] | None = None,
):
    """Return a model of a tree; the first thing that is wrong becomes a UserError."""
    # In JSON strict types still take objects for models, and a date of YAML becomes a text.
    text = json.dumps(tree, default=str)
    try:
        return model.model_validate_json(text, strict=True)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except ValidationError as error:
        # A wrong name is the reason for a missing one.
        fault = min(error.errors(), key=lambda each: not _is_unknown_key(each))

    section = str(fault["loc"][0]) if fault["loc"] else ""
    place = (files or {}).get(section, where)
    raise UserError(f"{place}: {_describe_fault(tree, fault)}")


def _is_unknown_key(fault: Any) -> bool:
    return fault["type"] in ("extra_forbidden", "unexpected_keyword_argument")


def _describe_fault(tree: Mapping[str, Any], fault: Any) -> str:
    """What pydantic found wrong, with the dotted key."""
    path = fault["loc"]
    key = ".".join(map(str, path))

    if _is_unknown_key(fault):
        valid = [each for each, _ in _flatten(tree) if each != key and not each.startswith(f"{key}.")]
        block = key.rpartition(".")[0]
        # The YAML files have every key but those of data sets, which stand in lists.
        if block.rpartition(".")[2].isdecimal():
            valid += [f"{block}.{field.name}" for field in dataclasses.fields(DatasetSpec)]

        matches = difflib.get_close_matches(key, valid, n=1)
        hint = f"did you mean {matches[0]}?" if matches else "the files in recipes/ have all there are"
        return f"unknown key {key!r}; {hint}"
    if fault["type"].startswith("missing"):
        return f"{key} is missing; write it there"

    # In the words of the other messages.
    problem = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    value = repr(fault["input"])
    if len(value) > SHOWN_CHARACTERS:
        return f"{key}: {problem}"
    return f"{key}: {problem}, not {value}"


def check_trainers(recipe: Recipe) -> None:
    """Check every ``trainer`` and ``lora`` block against the library's own dataclass. Imports TRL.

    Raises:
        UserError: A key is unknown or set by the pipeline, or a value is wrong.
    """
    import peft
    import trl

    from pipeline.training import count_batch_rows, split_batch

    sections = {name: settings.model_dump() for name, settings in recipe.stages.items()}
    for key, value in _flatten(sections):
        if key.endswith(".lora"):
            _check_block(key, value, peft.LoraConfig)
        elif key.endswith(".grpo.trainer"):
            _check_block(key, value, trl.GRPOConfig)
        elif key.endswith(".trainer"):
            _check_block(key, value, trl.SFTConfig)

    # The processes must be able to share each batch that will be trained on.
    is_grpo_used = recipe.stages["rl"].algorithm != "expert_iteration"
    for key, value in _flatten(sections):
        if key.endswith(".trainer") and (is_grpo_used or not key.endswith(".grpo.trainer")):
            split_batch(value, key)

    # TRL says so, too, but only once the earlier stages have been trained.
    grpo = recipe.stages["rl"].grpo.trainer
    batch = count_batch_rows(grpo)
    if batch % grpo["num_generations"]:
        raise UserError(
            f"rl.grpo.trainer: a batch of {batch} rows is not whole groups of num_generations="
            f"{grpo['num_generations']}; change per_device_train_batch_size"
        )

    # Where nothing is better than the adapter that it starts from, that one is kept.
    if not grpo.get("eval_on_start"):
        raise UserError("rl.grpo.trainer.eval_on_start: the first adapter must be scored on dev, too; set it to true")

    # transformers finds the best one only among those that were saved.
    is_scored = grpo.get("save_strategy") == grpo.get("eval_strategy") == "steps"
    if not is_scored or grpo["save_steps"] != grpo["eval_steps"]:
        raise UserError(
            "rl.grpo.trainer: the best checkpoint on dev is kept, so save_strategy and eval_strategy must be steps, "
            "and save_steps the same as eval_steps"
        )

    if is_grpo_used:
        check_grpo(grpo)


def check_grpo(trainer: Mapping[str, Any]) -> None:
    """Raise UserError where GRPO would not go on from a checkpoint as it began."""
    # A training that goes on from a checkpoint samples at its first step.
    if trainer["save_steps"] % trainer.get("num_iterations", 1):
        raise UserError(
            "rl.grpo.trainer: a resumed training would sample at other steps; make save_steps and eval_steps a "
            "multiple of num_iterations"
        )


def _check_block(key: str, block: Mapping[str, Any], library: Any) -> None:
    reserved = RESERVED[library.__name__].split()
    hints = typing.get_type_hints(library)
    valid = [each.name for each in dataclasses.fields(library) if each.name not in reserved]

    # Only the keys that are there: TRL's own defaults need no check.
    fields: dict[str, Any] = {}
    for name in block:
        if name in reserved:
            raise UserError(f"{key}.{name}: the pipeline sets it itself; take it out of the recipe")
        if name not in valid:
            # All of them would be a hundred names.
            hint = suggest(name, valid).partition("valid:")[0] or "see its documentation"
            raise UserError(f"{key}.{name}: no field of {library.__name__}; {hint.strip()}")
        fields[name] = _narrow_hint(name, hints[name])

    config = ConfigDict(
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
    model = pydantic.create_model(library.__name__, __config__=config, **fields)
    _validate(model, block, key)


def _narrow_hint(name: str, hint: Any) -> Any:
    """A hint of a library, narrowed to what works."""
    if name in AT_LEAST_ONE.split():
        # None is allowed for some of them, and would fail as late.
        kinds = [kind for kind in typing.get_args(hint) or [hint] if kind is not type(None)]
        return Annotated[functools.reduce(operator.or_, kinds), Field(ge=1)]

    # Names such as lr_scheduler_type are hinted as an enumeration or any text.
    for kind in typing.get_args(hint):
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return Literal[tuple(member.value for member in kind)]
    return hint


def count_context_tokens(recipe: Recipe) -> int:
    """Return the tokens of context that a run needs: its longest answer after its longest prompt."""
    sections = {"eval": recipe.eval, "traces": recipe.traces, **recipe.stages}
    tree = {name: settings.model_dump() for name, settings in sections.items()}

    longest = 0
    for key, value in _flatten(tree):
        if key.endswith((".max_new_tokens", ".max_completion_length")):
            longest = max(longest, value)
    return PROMPT_TOKENS + longest
