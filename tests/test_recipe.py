"""Recipes load, override and refuse."""

import pytest

from data.records import BadInput
from pipeline import recipe


@pytest.mark.parametrize("profile", recipe.PROFILES)
def test_every_profile_loads(profile):
    assert recipe.load(profile).rl.samples > 1


def test_a_base_with_needs_of_its_own_has_them_before_overrides():
    plain, nano = recipe.load("cpu"), recipe.load("cpu", base="nano")
    assert nano.sft.epochs > plain.sft.epochs and nano.sft.arithmetic == plain.sft.arithmetic
    assert recipe.load("cpu", ["sft.epochs=1"], "nano").sft.epochs == 1
    assert recipe.load("cpu", base="some/other") == plain


def test_an_override_changes_one_value():
    changed = recipe.load("cpu", ["sft.learning_rate=1e-4", "plain.shots=[0, 8]", "seed=7", "traces.teacher.model=m"])
    assert changed.traces.teacher.model == "m" and changed.traces.samples == recipe.load("cpu").traces.samples
    assert (changed.sft.learning_rate, changed.plain.shots, changed.seed) == (1e-4, [0, 8], 7)
    assert changed.rl == recipe.load("cpu").rl


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("sft.learning_rat=1", "did you mean learning_rate?"),
        ("stf.learning_rate=1", "did you mean sft?"),
        ("sft.epochs=two", "sft.epochs must be a whole number"),
        ("sft.epochs=1.5", "sft.epochs must be a whole number"),
        ("sft.epochs=true", "sft.epochs must be a whole number"),
        ("rl.learning_rate=nan", "rl.learning_rate must be a number"),
        ("rl.learning_rate=fast", "rl.learning_rate must be a number"),
        ("rl.steps=-1", "rl.steps must be a whole number"),
        ("plain.shots=4", "plain.shots must be a list"),
        ("rl=4", "rl must hold keys and values"),
        ("rl.steps", "no '='"),
        ("rl.steps=[", "not a YAML value"),
        ("rl.steps.more=1", "no section 'steps'"),
        ("rl.steps=0", "rl.steps must be at least 1"),
        ("rl.micro_batch=7", "must be a multiple of rl.micro_batch"),
        ("rl.temperature=0", "rl.temperature must be above 0"),
        ("rl.levels=[9]", "levels are 1 to 5"),
        ("rl.probe=1", "rl.probe must be 0 or at least 2"),
        ("traces.teacher.attempts=0", "traces.teacher.attempts must be at least 1"),
        ("rl.variant=gpso", "did you mean gspo?"),
        ("sft.traces=short", "sft.traces must be a list of texts"),
        ("sft.rounds=0", "sft.rounds must be at least 1"),
        ("sft.logic=24000000", "sft.logic must be at most 100000, not 24000000"),
        ("plain.shots=[]", "plain.shots must name at least one number, none twice"),
        ("cot.shots=[4, 4]", "cot.shots must name at least one number, none twice"),
        ("sft.direct_share=[9, 0, 0, 0, 0]", "sft.direct_share holds shares, none above 1"),
        ("adaptive.probe=4", "adaptive.probe must be 0 beside adaptive.reference"),
        ("traces.rationalise=2", "traces.rationalise must be true or false"),
        ("traces.teacher.url=7", "traces.teacher.url must be a text"),
        ("traces.teacher.price=1", "did you mean price_in?"),
    ],
)
def test_a_bad_override_is_refused_in_one_line(item, words):
    with pytest.raises(BadInput) as refusal:
        recipe.load("cpu", [item])
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_context_is_that_of_the_longest_answer_of_any_stage():
    assert recipe.longest(recipe.load("cpu", ["rl.max_tokens=1000"])) == 1512
    assert recipe.longest(recipe.load("cpu", ["eval.max_tokens=900", "traces.max_tokens=20"])) == 1412


def test_a_file_beside_a_base_that_is_a_folder_is_no_recipe(tmp_path):
    (tmp_path / "model.yaml").write_text("sequence_len: 5\n")
    assert recipe.load("cpu", base=str(tmp_path / "model")) == recipe.load("cpu")


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(BadInput, match="did you mean gpu"):
        recipe.load("gpuu")


def test_a_recipe_file_that_is_no_yaml_names_its_line(tmp_path, monkeypatch):
    for stage, name in recipe.FILES.items():
        (tmp_path / name).write_text("shots: [0\nmore: x\n" if stage == "plain" else "{}")
    monkeypatch.setattr(recipe, "RECIPES", tmp_path)
    with pytest.raises(BadInput, match=r"1_plain\.yaml:2: not YAML"):
        recipe.load("cpu")
