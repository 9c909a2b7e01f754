"""Recipes load, merge and refuse."""

import shutil
import types
from dataclasses import replace

import pytest

from data.files import UserError
from pipeline import config, processes
from pipeline.config import check_trainers, count_context_tokens, load_recipe

PROFILES = ("cpu", "gpu", "quick", "long")
BASES = ("smollm2-135m", "nano", "nano-tiny")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("base", BASES)
def test_every_recipe_is_valid_for_the_libraries_too(profile, base):
    recipe = load_recipe(profile, base=base)

    check_trainers(recipe)
    assert recipe.seed == 1


def list_own_lines(text: str) -> list[str]:
    """The lines of a recipe that give one of our own keys a value."""
    lines = []
    library_block = None
    for line in text.splitlines():
        key, _, value = line.strip().partition(":")
        indent = len(line) - len(line.lstrip())
        if library_block is not None and indent <= library_block:
            library_block = None

        if key in ("trainer", "lora", "generation"):
            library_block = indent
        elif library_block is None and value.strip() and not key.startswith(("#", "-")):
            lines.append(line)
    return lines


@pytest.mark.parametrize("profile", ["gpu", "long", "quick"])
def test_nano_is_trained_alike_under_every_profile(profile):
    expected = load_recipe("cpu", base="nano")
    assert load_recipe(profile, base="nano").stages == expected.stages


@pytest.mark.parametrize("path", sorted(config.RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_key_of_ours_has_a_comment(path):
    for line in list_own_lines(path.read_text(encoding="utf-8")):
        assert "#" in line


def test_a_bases_values_go_before_those_of_a_profile():
    assert load_recipe("quick", base="nano").stages == load_recipe("cpu", base="nano").stages


def test_quick_has_a_quarter_of_each_data_set():
    whole, quick = load_recipe("cpu"), load_recipe("quick")
    assert quick.eval.limit == pytest.approx(whole.eval.limit / 4, abs=3)
    for name in ("sft", "rl", "adaptive"):
        for each, part in zip(whole.stages[name].problems, quick.stages[name].problems, strict=True):
            assert replace(part, take=None) == replace(each, take=None)
            assert part.take == pytest.approx(each.take / 4, abs=1)


def test_a_bases_values_go_before_overrides():
    plain = load_recipe("cpu")
    nano = load_recipe("cpu", base="nano")
    changed = load_recipe("cpu", ["sft.trainer.num_train_epochs=1"], "nano")

    assert nano.stages["sft"].trainer["num_train_epochs"] > plain.stages["sft"].trainer["num_train_epochs"]
    assert nano.eval.benchmarks != plain.eval.benchmarks
    assert nano.stages["sft"].lora == plain.stages["sft"].lora
    assert changed.stages["sft"].trainer["num_train_epochs"] == 1


@pytest.mark.parametrize("base", ["someone/Nano", "nano"])
def test_a_base_is_found_by_its_name_and_by_a_hub_id(base):
    assert load_recipe("cpu", base=base).base.load == "fp32"


@pytest.mark.parametrize("base", ["some/other", "./nano", "models/of/nano", "nano.gguf"])
def test_other_bases_take_the_recipes_as_they_are(base):
    assert load_recipe("cpu", base=base) == load_recipe("cpu")


def test_a_folder_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "nano").mkdir(parents=True)

    assert load_recipe("cpu", base="models/nano") == load_recipe("cpu")


def test_an_override_changes_one_value():
    overrides = ["sft.trainer.learning_rate=1e-4", "plain.shots=[0, 8]", "seed=7", "traces.teacher.model=m"]
    plain = load_recipe("cpu")
    changed = load_recipe("cpu", overrides)

    assert changed.stages["sft"].trainer == plain.stages["sft"].trainer | {"learning_rate": 1e-4}
    assert changed.stages["plain"].shots == [0, 8]
    assert changed.seed == 7
    assert changed.traces.teacher.model == "m"
    assert changed.traces.samples == plain.traces.samples
    assert changed.stages["rl"] == plain.stages["rl"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.5e-3", 1.5e-3),
        (".5E+1", 5.0),
        ("no", "no"),
        ("steps", "steps"),
        ("true", True),
    ],
)
def test_a_trainer_key_may_be_new_and_has_the_value_that_was_meant(text, value):
    recipe = load_recipe("cpu", [f"rl.grpo.trainer.anything={text}"])
    assert recipe.stages["rl"].grpo.trainer["anything"] == value


def test_data_sets_are_written_as_blocks_or_as_text():
    block = load_recipe("cpu", ["sft.problems=[{set: gsm8k, split: train, take: 5}]"])
    text = load_recipe("cpu", ["sft.problems=gsm8k?split=train&take=5"])
    two = load_recipe("cpu", ["sft.problems=['gsm8k?take=5','mine.jsonl']"])

    assert block.stages["sft"].problems == text.stages["sft"].problems
    assert [spec.set for spec in two.stages["sft"].problems] == ["gsm8k", "mine.jsonl"]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("sft.step=1", "unknown key 'sft.step'; did you mean sft.steps?"),
        ("sft.learning_rate=1", "did you mean sft.trainer.learning_rate?"),
        ("stf.dev=1", "did you mean sft?"),
        ("sft.dev=two", "sft.dev: must be a valid integer, not 'two'"),
        ("sft.dev=1.5", "sft.dev: must be a valid integer"),
        ("sft.dev=true", "sft.dev: must be a valid integer"),
        ("sft.dev=0", "sft.dev: must be greater than or equal to 1"),
        ("adaptive.price=.nan", "adaptive.price: must be a finite number"),
        ("adaptive.price=fast", "adaptive.price: must be a valid number"),
        ("plain.shots=4", "plain.shots: must be a valid array"),
        ("plain.shots=[]", "plain.shots: List should have at least 1 item"),
        ("plain.shots=[4, 4]", "plain.shots: names one twice"),
        ("rl=4", "rl: must be an object"),
        ("rl.dev", "no '='"),
        ("rl.dev=[", "not YAML"),
        ("rl.dev.more=1", "rl.dev: must be a valid integer"),
        ("rl.algorithm=gpro", "'expert_iteration', 'grpo' or 'both'"),
        ("rl.grpo.levels=[1]", "unknown key 'rl.grpo.levels'; did you mean rl.grpo?"),
        ("rl.expert_iteration.generation.temperature=0", "must be greater than 0"),
        ("rl.expert_iteration.generation.top_q=1", "unknown key"),
        ("rl.rewards=[correctness, format]", "one of reward_weights for each of rewards"),
        ("rl.rewards=[correctness, correctness]", "rl.rewards: names one twice"),
        ("rl_random_reward.learnability.samples=0", "unknown key 'rl_random_reward'; did you mean rl.rewards?"),
        ("sft.problems=gsm8k?split=test", "the split 'test' of gsm8k is held out; take train, or all"),
        ("rl.problems=[{set: mine.jsonl, split: validation}]", "the split 'validation' of mine.jsonl is held out"),
        ("sft.solutions=short", "sft.solutions: must be a valid array"),
        ("sft.problems=[{sett: gsm8k}]", "did you mean sft.problems.0.set?"),
        ("sft.problems=[{split: train}]", "sft.problems.0.set is missing"),
        ("sft.problems=[{set: gsm8k, take: 0}]", "take: must be greater than or equal to 1"),
        ("sft.problems=[{set: gsm8k, take: 24000000}]", "take: must be less than or equal to 100000"),
        ("sft.problems=gsm8k?splitt=train", "did you mean split?"),
        ("sft.dev=2026-11-28", "sft.dev: must be a valid integer"),
        ("sft.direct_share=[0.5]", "sft.direct_share: List should have at least 5 items"),
        ("sft.direct_share=[9, 0, 0, 0, 0]", "must be less than or equal to 1"),
        ("report_to=trakio", "'trackio', 'wandb' or 'tensorboard'"),
        ("traces.teacher.url=7", "traces.teacher.url: must be a valid string"),
        ("seed=2026-13-01", "not YAML"),
        ("seed=-1", "seed: must be greater than or equal to 0"),
    ],
)
def test_a_bad_override_is_refused_in_one_line(item, words):
    with pytest.raises(UserError) as refusal:
        load_recipe("cpu", [item])

    message = str(refusal.value)
    assert message.startswith(f"--set {item!r}: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (
            "sft.trainer.learning_rat=1",
            "no field of SFTConfig; did you mean learning_rate?",
        ),
        ("sft.trainer.learning_rate=fast", "learning_rate: must be a valid number, not 'fast'"),
        ("sft.trainer.num_train_epochs=true", "num_train_epochs: must be a valid number"),
        ("sft.trainer.output_dir=x", "sft.trainer.output_dir: the pipeline sets it itself"),
        ("sft.trainer.lr_scheduler_type=cosin", "'linear', 'cosine'"),
        ("sft.trainer.per_device_train_batch_size=0", "must be greater than or equal to 1"),
        ("sft.lora.rank=3", "no field of LoraConfig"),
        ("sft.lora.r=3.5", "r: must be a valid integer"),
        ("adaptive.trainer.max_length=9", "the pipeline sets it itself"),
        ("rl.grpo.trainer.seed=3", "the pipeline sets it itself"),
        ("rl.grpo.trainer.epsilo=3", "did you mean epsilon?"),
        ("rl.grpo.trainer.num_generations=7", "a batch of 64 rows is not whole groups"),
        ("rl.grpo.trainer.save_steps=6", "save_steps the same as eval_steps"),
        ("rl.grpo.trainer.num_iterations=0", "must be greater than or equal to 1"),
        ("rl.grpo.trainer.steps_per_generation=16", "the pipeline sets it itself"),
        ("rl.grpo.trainer.eval_steps=null", "eval_steps: must be a valid number, not None"),
        ("rl.grpo.trainer.num_generations=null", "num_generations: must be a valid integer, not None"),
    ],
)
def test_the_libraries_keys_are_checked_by_name_and_type(item, words):
    with pytest.raises(UserError) as refusal:
        check_trainers(load_recipe("cpu", [item]))

    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_checkpoint_between_two_samplings_of_grpo_is_refused_where_it_is_used():
    item = "rl.grpo.trainer.num_iterations=2"
    check_trainers(load_recipe("cpu", [item]))
    with pytest.raises(UserError, match="make save_steps and eval_steps a multiple of num_iterations"):
        check_trainers(load_recipe("cpu", [item, "rl.algorithm=grpo"]))


@pytest.mark.parametrize(
    "item",
    [
        "sft.trainer.neftune_noise_alpha=5",
        "sft.lora.target_modules=[q_proj, v_proj]",
        "sft.trainer.lr_scheduler_type=constant_with_warmup",
        "rl.grpo.trainer.loss_type=dr_grpo",
        "rl.grpo.trainer.epsilon_high=0.28",
    ],
)
def test_any_key_of_a_library_may_be_set(item):
    check_trainers(load_recipe("cpu", [item]))


def test_the_context_is_that_of_the_longest_answer_of_any_stage():
    grpo = load_recipe("cpu", ["rl.grpo.trainer.max_completion_length=1000"])
    scoring = load_recipe("cpu", ["eval.generation.max_new_tokens=900", "traces.generation.max_new_tokens=20"])

    assert count_context_tokens(grpo) == config.PROMPT_TOKENS + 1000
    assert count_context_tokens(scoring) == config.PROMPT_TOKENS + 900


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(UserError, match="did you mean gpu"):
        load_recipe("gpuu")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("1_plain.yaml", "shots: [0\nmore: x\n", "1_plain.yaml: not YAML"),
        ("1_plain.yaml", "", "1_plain.yaml: plain.shots is missing"),
        ("1_plain.yaml", "shots: [0]\n", "1_plain.yaml: plain.examples is missing"),
        ("1_plain.yaml", "shots: [0]\nexamples: null\nshot: 3\n", "1_plain.yaml: unknown key 'plain.shot'"),
        ("run.yaml", "seed: 1\n", "run.yaml: report_to is missing"),
        ("profiles/cpu.yaml", "sft:\n  dev: many\n", "profiles/cpu.yaml: sft.dev: must be a valid integer"),
        ("profiles/cpu.yaml", "- sft\n", "profiles/cpu.yaml: must be keys with values"),
        ("bases/nano.yaml", "stf: {}\n", "bases/nano.yaml: unknown key 'stf'"),
        ("bases/nano.yaml", "sft: {dev: 8}\nsft: {}\n", "bases/nano.yaml: not YAML: the key 'sft' stands there twice"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, monkeypatch, file, text, words):
    shutil.copytree(config.RECIPES, tmp_path / "recipes")
    (tmp_path / "recipes" / file).write_text(text)
    monkeypatch.setattr(config, "RECIPES", tmp_path / "recipes")

    with pytest.raises(UserError) as refusal:
        load_recipe("cpu", base="nano")
    assert words in str(refusal.value)


def test_a_file_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"seed: \xff\n")
    with pytest.raises(UserError, match="mine.yaml: not UTF-8"):
        config.read_yaml(path)


def test_a_batch_that_the_processes_cannot_share_is_refused_where_it_is_trained_on(monkeypatch):
    monkeypatch.setattr(processes, "get_state", lambda: types.SimpleNamespace(num_processes=2))
    with pytest.raises(UserError, match="adaptive.trainer: 2 processes cannot share a batch of 3 rows"):
        check_trainers(load_recipe("cpu", ["adaptive.trainer.per_device_train_batch_size=3"]))

    odd = ["rl.grpo.trainer.per_device_train_batch_size=3", "rl.grpo.trainer.gradient_accumulation_steps=1"]
    odd.append("rl.grpo.trainer.num_generations=3")
    check_trainers(load_recipe("cpu", odd))
    with pytest.raises(UserError, match="rl.grpo.trainer: 2 processes cannot share"):
        check_trainers(load_recipe("cpu", [*odd, "rl.algorithm=both"]))
