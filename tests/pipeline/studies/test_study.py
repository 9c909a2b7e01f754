"""What all studies share: names, recipes and bases are checked first, and what is up to date is not made again."""

import json
from types import SimpleNamespace

import pytest

from data.files import UserError, sha256_file, write_text
from eval.studies import HOLDS, Estimate, Findings, Line
from pipeline.config import load_studies
from pipeline.models.nano import PRETRAINING_FILE
from pipeline.run_dir import RunDir
from pipeline.studies import STUDIES
from pipeline.studies.study import DATA, Base, StudySettings, check_base, load_study, run_studies


@pytest.fixture
def base(tiny, tmp_path):
    for part in tiny:
        part.save_pretrained(tmp_path / "mini")
    return str(tmp_path / "mini")


@pytest.fixture
def measured(monkeypatch):
    """Replace every study by one that has its figures at once; returns the settings it was made with."""
    calls = []

    def measure(settings, base):
        calls.append(settings)
        one = Estimate("gain", 0.5, 0.4, 0.6)
        flat = Estimate("shuffled", 0.0, -0.01, 0.01)
        return Findings(10, "words", [one], [flat], [Line("real", [0, 1], [one, flat])], "size", "share")

    def load(name):
        return SimpleNamespace(measure=measure, Settings=load_study(name).Settings, NEEDS="", CLAIM="C.", LIMITS="L.")

    monkeypatch.setattr("pipeline.studies.study.load_study", load)
    return calls


def test_a_study_is_written_down_and_not_made_again(base, measured, tmp_path):
    run_studies(["analogy"], base, tmp_path / "runs", [])
    [root] = (tmp_path / "runs").iterdir()
    folder = root / "studies" / "analogy"
    assert json.loads((folder / "result.json").read_text())["verdict"] == HOLDS
    assert {"plot.png", "summary.md", "manifest.json"} <= {path.name for path in folder.iterdir()}

    run_studies(["analogy"], base, tmp_path / "runs", [])
    assert len(measured) == 1
    assert not RunDir(root).read_stage_scores()

    # Another setting, or a damaged file, and it is made again.
    run_studies(["analogy"], base, tmp_path / "runs", ["analogy.seed=7"])
    assert [settings.seed for settings in measured] == [1, 7]
    write_text(folder / "result.json", "{}")
    with pytest.raises(UserError, match="make study NAME=analogy"):
        RunDir(root).read_studies()
    run_studies(["analogy"], base, tmp_path / "runs", ["analogy.seed=7"])
    assert len(measured) == 3
    assert [result["study"] for result in RunDir(root).read_studies()] == ["analogy"]


def test_without_a_name_all_are_made(base, measured, tmp_path):
    run_studies([], base, tmp_path / "runs", [])
    assert len(measured) == len(STUDIES)


@pytest.mark.parametrize(
    ("names", "overrides", "words"),
    [
        (["anology"], [], "did you mean analogy"),
        (["disambiguation"], ["disambiguation.folds=1"], "folds: must be greater than or equal to 2"),
        (["disambiguation"], ["disambiguation.penalty=0"], "penalty: must be greater than 0"),
        ([""], [], "valid: analogy"),
        (["analogy"], ["analogy.margin=2"], "analogy.margin"),
        (["analogy"], ["analogy.sed=2"], "did you mean analogy.seed"),
        (["analogy"], ["anology.seed=2"], "anology"),
        (["prompt_program"], ['prompt_program.prompts=["It is"]'], "prompt_program.prompts"),
        (["in_context"], ["in_context.pairs_of_examples=[16]"], "in_context.pairs_of_examples"),
        (["planning"], ["planning.drawn=200000"], "planning.drawn: must be less than or equal to 100000"),
        (["planning"], ["planning.levels=[2,2]"], "planning.levels: names one twice"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(base, measured, tmp_path, names, overrides, words):
    with pytest.raises(UserError, match=words):
        run_studies(names, base, tmp_path / "runs", overrides)
    assert not measured
    assert not (tmp_path / "runs").exists()


def test_a_base_on_which_a_study_has_no_meaning_is_refused(base, tiny, tmp_path):
    mini = Base("mini", tmp_path / "mini")
    check_base("dialogue", "chat", mini)

    tokenizer = tiny[1]
    template = tokenizer.chat_template
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "untold")
    tokenizer.chat_template = template
    with pytest.raises(UserError, match="dialogue: .* has no chat template"):
        check_base("dialogue", "chat", Base("untold", tmp_path / "untold"))

    (mini.folder / PRETRAINING_FILE).write_text("{}")
    check_base("planning", "", mini)
    with pytest.raises(UserError, match="analogy: .* only sums"):
        check_base("analogy", "words", mini)


def test_every_study_has_a_question_a_recipe_and_limits():
    modules = {name: load_study(name) for name in STUDIES}
    recipes = load_studies({name: module.Settings for name, module in modules.items()})
    for name, module in modules.items():
        assert isinstance(recipes[name], StudySettings)
        assert module.NEEDS in ("", "words", "chat")
        assert "?" in module.__doc__
        assert module.CLAIM and module.LIMITS
    assert max(recipe.minutes for recipe in recipes.values()) <= 15
    assert sum(recipe.minutes for recipe in recipes.values()) <= 90


def test_the_checksums_of_the_data_are_those_of_the_files():
    lines = (DATA / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == {path.name for path in DATA.glob("*.jsonl")}
    for line in lines:
        digest, name = line.split("  ")
        assert sha256_file(DATA / name) == digest
