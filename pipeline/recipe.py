"""Recipes: one YAML file a stage, a profile for the machine, overrides from the command line.

Every key is a field of a dataclass below; a wrong name, type or value stops at once and names the nearest valid one.
"""

import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import yaml

from data.records import BadInput, nearest
from data.splits import LEVELS

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
STAGES = ("plain", "cot", "sft", "rl", "adaptive")
PROFILES = ("cpu", "gpu", "multi_gpu")


@dataclass(frozen=True)
class BaseSettings:
    """``load``: how the base's weights are held. auto is bf16 where the machine computes in it (a GPU, or a CPU with
    AVX512-BF16 or AMX), else fp32; nf4 and int8 go through bitsandbytes, the adapters over them stay as they are."""

    load: Literal["auto", "fp32", "bf16", "nf4", "int8"] = "auto"


@dataclass(frozen=True)
class PromptedSettings:
    """Stages 1 and 2: the base alone, one row for each number of worked exemplars."""

    shots: list[int] = field(default_factory=lambda: [0, 4])


@dataclass(frozen=True)
class SftSettings:
    """Stage 3. ``arithmetic`` and ``logic`` count train problems, one trace each; ``direct_share`` of those of each
    level give a second one, which answers at once; a share ``direct_told`` of these trains that choice too, the others
    only what follows from it. ``traces`` are their sources, each a style of data/traces.py or a file that `make traces`
    wrote, with its weight after a colon (``short:2``; 1 where none is given). ``steps`` are kept, or for a control put
    in another order or left out. In ``rounds`` after the first the traces of the adapter before join them, and a new
    adapter is trained (STaR, arXiv 2203.14465, section 3.1). Every ``eval_every`` steps it answers ``dev`` dev problems
    of each benchmark (0: never).

    ``epochs`` passes over the traces in steps of ``batch_size``, by LoRA of rank ``lora_rank`` scaled by ``lora_alpha``
    and AdamW with ``adam_beta2``; ``learning_rate`` is reached after ``warmup_steps`` and then falls to nought. A
    checkpoint is written every ``save_steps``."""

    arithmetic: int = 1000
    logic: int = 500
    traces: list[str] = field(default_factory=lambda: ["short"])
    steps: Literal["kept", "shuffled", "none"] = "kept"
    direct_share: list[float] = field(default_factory=lambda: [0.2] * len(LEVELS))
    direct_told: float = 1.0
    rounds: int = 1
    eval_every: int = 0
    dev: int = 40
    lora_rank: int = 16
    lora_alpha: int = 32
    learning_rate: float = 1e-3
    adam_beta2: float = 0.999
    epochs: int = 1
    batch_size: int = 16
    warmup_steps: int = 5
    save_steps: int = 20


@dataclass(frozen=True)
class TeacherSettings:
    """A model behind an OpenAI-compatible address: ``url`` up to /v1, ``model`` its name there. Prices are for a
    million tokens; no request is sent that could take the sum beyond ``most_cost``. The key is OPENAI_API_KEY."""

    url: str = ""
    model: str = ""
    price_in: float = 0.0
    price_out: float = 0.0
    most_cost: float = 1.0
    max_tokens: int = 512
    timeout: float = 60.0
    attempts: int = 6
    at_once: int = 4


@dataclass(frozen=True)
class TracesSettings:
    """`make traces`, where a model writes them: ``arithmetic`` and ``logic`` train problems, ``samples`` texts of each
    at ``temperature``, of which at most ``each`` are kept, of at most ``max_tokens`` tokens. ``rationalise`` asks
    again, with the answer as a hint, where no sample was right (STaR, arXiv 2203.14465, section 3.2)."""

    arithmetic: int = 300
    logic: int = 150
    samples: int = 4
    temperature: float = 0.8
    max_tokens: int = 160
    each: int = 2
    rationalise: bool = False
    teacher: TeacherSettings = field(default_factory=TeacherSettings)


@dataclass(frozen=True)
class RlSettings:
    """Stages 4 and 5. A step samples ``prompts`` problems ``samples`` times each.

    They come from ``arithmetic`` and ``logic`` train problems, first those that sft has not seen, of ``levels``; where
    none are named, of those on which the pre-flight finds a pass rate between 0.1 and 0.9 (``probe`` samples of each of
    ``probe_problems`` dev problems a level; 0 samples: no pre-flight). A group whose samples all earn the same, or are
    all wrong, is replaced by another problem's, up to ``tries`` times ``prompts`` groups a step. Every ``eval_every``
    steps the adapter answers ``dev`` dev problems of each benchmark, and the best is kept. ``micro_batch`` samples go
    through the model at once when it is trained (0: all of a step, or as many as a GPU's memory holds).

    ``reward`` is the grader; for a control a coin, or whether the answer has its form (boxed, after a closed thought);
    or FILE.py:name of a function of one's own. It can be shaped: ``format_bonus`` for the form,
    ``wrong_step_penalty`` where a step is wrong by recomputation, ``overlong`` tokens before the cap over which up to 1
    is taken away (DAPO, arXiv 2503.14476, eq. 13). ``blame``: the tokens that a wrong answer is held against, all or
    those of the first step that recomputation finds wrong. ``schedule`` is that of the learning rate, ``variant`` how
    TRL averages and weights the loss.

    The others are of stage 5 only. ``direct_bonus`` is what an answer gains by not thinking, any or only a right one
    (``bonus_for``); ``reference`` samples of each train problem, before training, are what its reward is held against
    (0: the mean of its group), and with it one sample a problem will do, at once; ``accuracy_loss`` is what the kept
    adapter may lose on dev. With ``budgets`` the model is told instead for how many tokens it may think, one of these
    at a time, and earns less the further it goes beyond.
    """

    steps: int = 20
    prompts: int = 8
    samples: int = 8
    variant: Literal["dapo", "dr_grpo", "gspo"] = "dapo"
    learning_rate: float = 3e-5
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    temperature: float = 1.0
    max_tokens: int = 160
    arithmetic: int = 500
    logic: int = 250
    levels: list[int] = field(default_factory=list)
    probe: int = 4
    probe_problems: int = 6
    tries: int = 2
    eval_every: int = 5
    dev: int = 100
    micro_batch: int = 8
    reward: str = "correctness"
    format_bonus: float = 0.0
    wrong_step_penalty: float = 0.0
    overlong: int = 0
    blame: Literal["trace", "step"] = "trace"
    direct_bonus: float = 0.0
    bonus_for: Literal["any", "right"] = "any"
    reference: int = 0
    accuracy_loss: float = 0.0
    budgets: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class EvalSettings:
    """Scoring, the same for every stage: ``limit`` problems of each benchmark, stratified by level, answers of at most
    ``max_tokens`` tokens, ``batch_size`` of them decoded at once."""

    limit: int = 120
    max_tokens: int = 160
    batch_size: int = 64


@dataclass(frozen=True)
class Recipe:
    """All stages' settings, resolved; ``tracker`` follows training live, by the libraries' own integration."""

    seed: int = 0
    tracker: Literal["none", "trackio", "wandb", "tensorboard"] = "none"
    base: BaseSettings = field(default_factory=BaseSettings)
    eval: EvalSettings = field(default_factory=EvalSettings)
    plain: PromptedSettings = field(default_factory=PromptedSettings)
    cot: PromptedSettings = field(default_factory=PromptedSettings)
    sft: SftSettings = field(default_factory=SftSettings)
    rl: RlSettings = field(default_factory=RlSettings)
    adaptive: RlSettings = field(default_factory=RlSettings)
    adaptive_budget: RlSettings = field(default_factory=RlSettings)
    traces: TracesSettings = field(default_factory=TracesSettings)


FILES = {stage: f"{number}_{stage}.yaml" for number, stage in enumerate(STAGES, 1)}
FILES |= {"adaptive_budget": "5_adaptive_budget.yaml", "traces": "traces.yaml"}
MOST_PROBLEMS = 100_000  # of a benchmark's train split: making them takes minutes


def load(profile: str, overrides: Iterable[str] = (), base: str = "") -> Recipe:
    """The recipe files, then the profile, then what the base needs (recipes/bases, where it is there), then
    ``--set`` overrides such as ``sft.learning_rate=1e-4``."""
    if profile not in PROFILES:
        raise BadInput(f"profile {profile!r} is unknown; {nearest(profile, PROFILES)}")
    tree: dict = {}
    for section, file in FILES.items():
        tree[section] = _read(RECIPES / file)
    _merge(tree, _read(RECIPES / "profiles" / f"{profile}.yaml"))
    needed = RECIPES / "bases" / f"{base}.yaml"
    if "/" not in base and needed.is_file():
        _merge(tree, _read(needed))
    recipe = build(tree, str(RECIPES))
    for item in overrides:
        recipe = override(recipe, item)
    return recipe


def override(recipe: Recipe, item: str) -> Recipe:
    """``recipe`` with one ``section.key=value`` changed."""
    name, equals, text = item.partition("=")
    if not equals:
        raise BadInput(f"--set {item!r}: no '='; write section.key=value, such as sft.learning_rate=1e-4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise BadInput(f"--set {item!r}: {text!r} is not a YAML value; write section.key=value") from None
    tree = dataclasses.asdict(recipe)
    node, path = tree, name.split(".")
    for part in path[:-1]:
        if not isinstance(node.get(part), dict):
            raise BadInput(f"--set {item!r}: no section {part!r}; {nearest(part, tree)}")
        node = node[part]
    node[path[-1]] = value
    return build(tree, f"--set {item!r}")


def build(tree: Mapping, where: str) -> Recipe:
    """A recipe from nested mappings, every key, type and bound checked."""
    recipe = _build(Recipe, tree, where, "")
    for stage in ("rl", "adaptive", "adaptive_budget"):
        settings = getattr(recipe, stage)
        for key in (
            "steps",
            "prompts",
            "samples",
            "max_tokens",
            "probe_problems",
            "tries",
            "eval_every",
            "dev",
        ):
            least = 2 if key == "samples" and not settings.reference else 1
            if getattr(settings, key) < least:
                raise BadInput(f"{where}: {stage}.{key} must be at least {least}, not {getattr(settings, key)}")
        if settings.probe and settings.reference:
            raise BadInput(f"{where}: {stage}.probe must be 0 beside {stage}.reference, by which every group teaches")
        if settings.probe == 1:
            raise BadInput(f"{where}: {stage}.probe must be 0 or at least 2: one sample is never mixed")
        if wrong := [level for level in settings.levels if level not in LEVELS]:
            raise BadInput(f"{where}: {stage}.levels has {wrong[0]}; levels are {LEVELS[0]} to {LEVELS[-1]}")
        if stage == "adaptive_budget" and not settings.budgets:
            raise BadInput(f"{where}: adaptive_budget.budgets must name at least one number of tokens")
        if stage == "rl" and settings.temperature == 0:
            raise BadInput(f"{where}: rl.temperature must be above 0, or all samples of a problem are the same")
        if settings.micro_batch and settings.prompts * settings.samples % settings.micro_batch:
            raise BadInput(f"{where}: {stage}.prompts times {stage}.samples must be a multiple of {stage}.micro_batch")
    for section, keys in {
        "sft": ("lora_rank", "epochs", "batch_size", "save_steps", "rounds", "dev"),
        "traces": ("samples", "max_tokens", "each"),
        "traces.teacher": ("max_tokens", "attempts", "at_once"),
        "eval": ("max_tokens", "batch_size"),
    }.items():
        settings = attrgetter(section)(recipe)
        for key in keys:
            if getattr(settings, key) < 1:
                raise BadInput(f"{where}: {section}.{key} must be at least 1")
    for section in ("sft", "rl", "adaptive", "adaptive_budget", "traces"):
        for part in ("arithmetic", "logic"):
            if (count := getattr(getattr(recipe, section), part)) > MOST_PROBLEMS:
                raise BadInput(f"{where}: {section}.{part} must be at most {MOST_PROBLEMS}, not {count}")
    for stage in ("plain", "cot"):
        shots = getattr(recipe, stage).shots
        if not shots or len(set(shots)) < len(shots):
            raise BadInput(f"{where}: {stage}.shots must name at least one number, none twice")
    if max(recipe.sft.direct_share, default=0) > 1:
        raise BadInput(f"{where}: sft.direct_share holds shares, none above 1")
    if len(recipe.sft.direct_share) != len(LEVELS):
        raise BadInput(f"{where}: sft.direct_share must hold {len(LEVELS)} shares, one a level")
    return recipe


def _build(kind: Any, tree: object, where: str, path: str):
    if not isinstance(tree, Mapping):
        raise BadInput(f"{where}: {path or 'the recipe'} must hold keys and values, not {tree!r}")
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in tree.items():
        name = f"{path}.{key}" if path else str(key)
        if key not in hints:
            raise BadInput(f"{where}: unknown key {name!r}; {nearest(str(key), hints)}")
        hint = hints[key]
        values[key] = (
            _build(hint, value, where, name) if dataclasses.is_dataclass(hint) else _value(hint, value, where, name)
        )
    return kind(**values)


def _value(hint: object, value: object, where: str, name: str):
    """``value`` where it is of the hinted type; YAML reads ``1e-4`` as text, so numbers may come as text."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if hint is float and not isinstance(value, bool):
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if 0 <= number < math.inf:
            return number
    elif (hint is int and whole) or (hint in (str, bool) and isinstance(value, hint)):  # type: ignore[arg-type]
        return value
    elif typing.get_origin(hint) is list and isinstance(value, list):
        return [_value(typing.get_args(hint)[0], item, where, name) for item in value]
    elif typing.get_origin(hint) is Literal:
        if value in typing.get_args(hint):
            return value
        raise BadInput(f"{where}: {name} cannot be {value!r}; {nearest(str(value), typing.get_args(hint))}")
    wanted: dict[object, str] = {float: "a number of 0 or more", int: "a whole number of 0 or more", str: "a text"}
    wanted |= {bool: "true or false", list[int]: "a list of whole numbers", list[str]: "a list of texts"}
    wanted |= {list[float]: "a list of numbers"}
    raise BadInput(f"{where}: {name} must be {wanted[hint]}, not {value!r}")


def _merge(tree: dict, over: Mapping) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _read(path: Path) -> dict:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise BadInput(f"{path}:{mark.line + 1 if mark else 1}: not YAML; mend the line") from None
    if not isinstance(tree, dict):
        raise BadInput(f"{path}: must hold keys and values")
    return tree


def longest(recipe: Recipe) -> int:
    """The tokens of context that a run needs: the longest answer of any stage after a prompt of 512."""
    parts = (recipe.eval, recipe.rl, recipe.adaptive, recipe.adaptive_budget, recipe.traces)
    return 512 + max(settings.max_tokens for settings in parts)


def check_thinking(budget: int | None, least: int) -> None:
    """Raises BadInput where a thought cannot have at most ``budget`` (None: no cap) and at least ``least`` tokens."""
    if budget is not None and budget < 0:
        raise BadInput(f"BUDGET (--budget) is {budget}; it must be 0 or more tokens")
    if least < 0 or (budget is not None and least > budget):
        raise BadInput(
            f"MIN_THINKING (--min-thinking) is {least}; it must be 0 or more tokens, not above BUDGET"
            + ("" if budget is None else f" ({budget})")
        )
