"""What a stage does when it is run: only what is not up to date, with everything it needs before it."""

import json
import types

import pytest
import torch
import yaml

from data.contamination import Overlap
from data.dataset_spec import DatasetSpec, parse_spec
from data.datasets import load, load_train
from data.files import UserError
from data.problem import read_completions, read_grades
from pipeline import stages
from pipeline.learnability import NoSignal
from pipeline.models.load import fingerprint
from pipeline.run_dir import RunDir
from pipeline.settings import PromptedSettings, Settings
from pipeline.stages import run as stages_run
from pipeline.stages.prompted import PLAIN
from pipeline.stages.rl import RL
from pipeline.stages.run import list_learnt_problems, list_rows, run_stage, stage_status
from pipeline.stages.sft import SFT
from pipeline.stages.stage import Stage, apply_overrides, make_control

UP_TO_DATE = "up to date"


class ToySettings(Settings):
    """A stage's own settings."""

    scale: float
    file: str
    inner: dict[str, int]


class Ladder:
    """A ladder of toy stages on the tiny model, and what they did."""

    def __init__(self, folder, base_folder):
        self.trained = []
        self.signal = True
        self.toy = self.make_stage("toy", 3)
        self.top = self.make_stage("top", 4, parent="toy")
        self.control = make_control(self.top, "top_control", "top without its scale", {"scale": 0.0})

        sections = {name: ToySettings(scale=1.0, file="", inner={"depth": 1}) for name in ("toy", "top")}
        sections["plain"] = PromptedSettings(shots=[0, 2], examples=None)
        evaluation = types.SimpleNamespace(batch_size=4, generation={"max_new_tokens": 8})
        recipe = types.SimpleNamespace(
            seed=1,
            report_to="none",
            base=types.SimpleNamespace(load="fp32", fast_training=True),
            eval=evaluation,
            stages=sections,
        )
        self.run = types.SimpleNamespace(
            base="tiny",
            base_folder=base_folder,
            fingerprint=fingerprint(base_folder),
            dir=RunDir(folder),
            profile="cpu",
            recipe=recipe,
            benchmarks=[load("arithmetic_v1", "test", 4), load("logic_v1", "test", 3)],
            overlaps={"arithmetic_v1": [], "logic_v1": []},
            pretraining_overlaps={"arithmetic_v1": [], "logic_v1": []},
        )

    def make_stage(self, name: str, number: int, parent: str | None = None) -> Stage:
        return Stage(name, number, "a toy", "think", (), ToySettings, parent=parent, train=self.train)

    def train(self, context):
        """Save an adapter with random weights of a scale."""
        from peft import LoraConfig, get_peft_model

        self.trained.append(context.stage.name)
        if not self.signal:
            raise NoSignal(f"{context.stage.name}: nothing to learn")

        model, _ = context.load_model()
        torch.manual_seed(context.seed)
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        for name, weights in model.named_parameters():
            if "lora_" in name:
                weights.data *= context.settings.scale

        (context.work / "alarm.txt").write_text(f"scale {context.settings.scale}\n")
        model.save_pretrained(context.work / "final")
        return context.work / "final"

    def change(self, stage: str, **values):
        section = self.run.recipe.stages[stage]
        self.run.recipe.stages[stage] = section.model_copy(update=values)

    def run_stage(self, stage: Stage):
        self.trained.clear()
        run_stage(self.run, stage)
        return self.trained

    def folder(self, stage: Stage):
        return self.run.dir.stage(stage.name).folder

    def read_scores(self, stage: Stage):
        return json.loads((self.folder(stage) / "scores.json").read_text())


@pytest.fixture(scope="module")
def base_folder(tiny, tmp_path_factory):
    """The tiny model as a folder."""
    folder = tmp_path_factory.mktemp("base")
    for part in tiny:
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def ladder(base_folder, tmp_path, monkeypatch):
    made = Ladder(tmp_path / "tiny", base_folder)
    monkeypatch.setattr(stages, "STAGES", (PLAIN, made.toy, made.top))
    monkeypatch.setattr(stages, "CONTROLS", (made.control,))
    return made


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_a_stage_trains_its_parent_first_and_leaves_what_the_contract_names(ladder):
    assert ladder.run_stage(ladder.top) == ["toy", "top"]

    for stage in (ladder.toy, ladder.top):
        folder = ladder.folder(stage)
        names = {path.name for path in folder.iterdir()}
        assert names == {
            "adapter",
            "alarm.txt",
            "completions",
            "grades",
            "log.txt",
            "manifest.json",
            "recipe.yaml",
            "scores.json",
        }
        completions = read_completions(folder / "completions" / "logic_v1.jsonl")
        grades = read_grades(folder / "grades" / "logic_v1.jsonl")
        ids = [problem.id for problem in ladder.run.benchmarks[1].problems]
        assert [c.id for c in completions] == [g.id for g in grades] == ids

    recipe = yaml.safe_load((ladder.folder(ladder.top) / "recipe.yaml").read_text())
    assert recipe == {"seed": 1, "top": {"scale": 1.0, "file": "", "inner": {"depth": 1}}}

    scores = ladder.read_scores(ladder.top)
    assert (scores["stage"], scores["parent"], scores["control"]) == ("top", "toy", False)
    assert scores["alarm"] == "scale 1.0"
    [variant] = scores["variants"]
    assert [entry["benchmark"] for entry in variant["benchmarks"]] == ["arithmetic_v1", "logic_v1"]


def test_a_stage_that_is_up_to_date_is_left_alone(ladder):
    ladder.run_stage(ladder.top)
    before = {path: path.stat().st_mtime_ns for path in ladder.run.dir.root.rglob("*/*.json*")}
    assert set(stage_status(ladder.run).values()) == {UP_TO_DATE, "no scoring yet"}

    assert ladder.run_stage(ladder.top) == []
    assert before == {path: path.stat().st_mtime_ns for path in ladder.run.dir.root.rglob("*/*.json*")} | {
        path: before[path] for path in before if path.parent.name == "problems"
    }


def test_another_setting_makes_a_stage_and_those_after_it_stale(ladder):
    ladder.run_stage(ladder.top)
    ladder.change("toy", scale=2.0)

    states = stage_status(ladder.run)
    assert states["toy"].startswith("training: settings.scale was 1.0, is 2.0")
    assert "toy, which it starts from, is not up to date" in states["top"]

    assert ladder.run_stage(ladder.top) == ["toy", "top"]
    assert stage_status(ladder.run)["top"] == UP_TO_DATE


def test_what_changes_the_speed_alone_trains_nothing_again(ladder):
    ladder.run_stage(ladder.top)
    ladder.run.recipe.base.fast_training = False
    assert stage_status(ladder.run)["top"] == stages_run.UP_TO_DATE

    # In other batches the answers may be others.
    ladder.run.recipe.eval.batch_size = 2
    assert stage_status(ladder.run)["top"].startswith("scoring: batch_size was 4, is 2")
    assert ladder.run_stage(ladder.top) == []


def test_a_parent_whose_adapter_comes_out_the_same_makes_nothing_stale(ladder):
    ladder.run_stage(ladder.top)
    ladder.change("toy", inner={"depth": 2})

    assert stage_status(ladder.run)["toy"].startswith("training: settings.inner.depth was 1, is 2")
    assert ladder.run_stage(ladder.top) == ["toy"]


def test_a_file_that_settings_name_is_an_input(ladder, tmp_path):
    file = tmp_path / "solutions.jsonl"
    file.write_text("one")
    ladder.change("toy", file=f"{file}:0.5")
    ladder.run_stage(ladder.toy)

    file.write_text("two")
    assert f"training: files.{file} changed" in stage_status(ladder.run)["toy"]

    # A text may be longer than any name.
    ladder.change("toy", file="{passage} " * 40)
    assert "training" in stage_status(ladder.run)["toy"]


def test_damaged_files_are_named_and_made_again(ladder, capsys):
    ladder.run_stage(ladder.top)
    victims = {
        ladder.toy: ["adapter/adapter_model.safetensors", "recipe.yaml"],
        ladder.top: ["completions/logic_v1.jsonl", "scores.json", "alarm.txt"],
    }
    files = [ladder.folder(stage) / name for stage, names in victims.items() for name in names]
    intact = [file.read_bytes() for file in files]
    for file in files:
        flip_bit(file)

    states = stage_status(ladder.run)
    for stage, names in victims.items():
        for name in names:
            assert f"{name} is not what was written" in states[stage.name]

    capsys.readouterr()
    assert ladder.run_stage(ladder.top) == ["toy"]
    said = capsys.readouterr().err
    assert "adapter_model.safetensors is not what was written; training again" in said
    assert "top/completions/logic_v1.jsonl is not what was written; scoring again" in said

    seconds = files.index(ladder.folder(ladder.top) / "scores.json")
    alarm = files.index(ladder.folder(ladder.top) / "alarm.txt")
    for i, file in enumerate(files):
        if i not in (seconds, alarm):
            assert file.read_bytes() == intact[i]

    # What lies beside an adapter may be missing. Someone may have edited it, so it is not lost.
    assert not files[alarm].exists()
    assert files[alarm].with_name("alarm.txt.changed").is_file()
    assert "not what was written" not in stage_status(ladder.run)["top"]


def test_a_damaged_recipe_alone_is_only_written_again(ladder):
    ladder.run_stage(ladder.toy)
    recipe = ladder.folder(ladder.toy) / "recipe.yaml"
    scores = ladder.folder(ladder.toy) / "scores.json"
    intact, written = recipe.read_text(), scores.stat().st_mtime_ns

    recipe.write_text("")
    ladder.run_stage(ladder.toy)
    assert recipe.read_text() == intact
    assert scores.stat().st_mtime_ns == written


def test_a_stage_without_a_signal_has_no_row_of_an_earlier_recipe(ladder):
    ladder.run_stage(ladder.top)
    ladder.change("top", scale=3.0)
    ladder.signal = False

    with pytest.raises(NoSignal):
        ladder.run_stage(ladder.top)
    assert [stage.name for stage in ladder.run.dir.read_stage_scores()] == ["toy"]


def test_a_control_without_a_signal_gets_no_row_and_says_so(ladder, capsys):
    ladder.run_stage(ladder.top)
    ladder.signal = False

    assert ladder.run_stage(ladder.control) == ["top_control"]
    assert "This control would be no different, so it gets no row" in capsys.readouterr().err
    names = [stage.name for stage in ladder.run.dir.read_stage_scores(controls=True)]
    assert names == ["toy", "top"]


def test_a_control_runs_with_its_overrides_beside_its_stage(ladder):
    ladder.run_stage(ladder.top)
    ladder.run_stage(ladder.control)
    scores = ladder.read_scores(ladder.control)
    assert scores["control"]
    assert scores["compared_to"] == ["top"]
    assert scores["alarm"] == "scale 0.0"

    assert [stage.name for stage in ladder.run.dir.read_stage_scores()] == ["toy", "top"]
    names = [stage.name for stage in ladder.run.dir.read_stage_scores(controls=True)]
    assert names == ["toy", "top", "top_control"]


def test_a_control_of_an_earlier_recipe_has_no_row(ladder):
    def list_rows() -> list[str]:
        return [stage.name for stage in ladder.run.dir.read_stage_scores(controls=True)]

    ladder.run_stage(ladder.top)
    ladder.run_stage(ladder.control)
    assert list_rows() == ["toy", "top", "top_control"]

    # The stage that it imitates is another one now.
    ladder.change("top", inner={"depth": 2})
    ladder.run_stage(ladder.top)
    assert list_rows() == ["toy", "top"]

    ladder.run_stage(ladder.control)
    assert list_rows() == ["toy", "top", "top_control"]


def test_what_the_base_has_read_counts_for_stages_without_a_training_too(ladder):
    problem = ladder.run.benchmarks[0].problems[0]
    ladder.run.pretraining_overlaps["arithmetic_v1"] = [Overlap(problem, problem, "the same text")]

    ladder.run_stage(PLAIN)
    entries = ladder.read_scores(PLAIN)["variants"][0]["benchmarks"]
    assert [entry["overlaps"] for entry in entries] == [1, 0]


def test_a_stage_has_learnt_from_its_own_problems_and_its_parents():
    class Learning(Settings):
        problems: list[DatasetSpec]

    class Copying(Learning):
        solutions: list[str] = ["procedure"]

    sections = {
        "sft": Copying(problems=[parse_spec("arithmetic_v1?take=3")]),
        "rl": Learning(problems=[parse_spec("logic_v1?take=4")]),
    }
    run = types.SimpleNamespace(recipe=types.SimpleNamespace(seed=1, stages=sections))
    arithmetic = load_train(parse_spec("arithmetic_v1"), 3)
    logic = load_train(parse_spec("logic_v1"), 4)

    def list_ids(problems):
        return {problem.id for problem in problems}

    assert list_ids(list_learnt_problems(run, SFT)) == list_ids(arithmetic)
    assert list_ids(list_learnt_problems(run, RL)) == list_ids([*arithmetic, *logic])

    # A control with other problems, and a stage of the user's own without any.
    other = make_control(RL, "other", "rl on other problems", {"problems": [parse_spec("logic_v1?take=1")]})
    assert list_ids(list_learnt_problems(run, other)) == list_ids([*arithmetic, logic[0]])
    sections["own"] = ToySettings(scale=1.0, file="", inner={})
    own = Stage("own", 5, "a toy", "think", (), ToySettings, parent="sft")
    assert list_ids(list_learnt_problems(run, own)) == list_ids(arithmetic)


def test_an_overlap_counts_for_the_stages_that_learnt_from_it(ladder, monkeypatch):
    problems = ladder.run.benchmarks[0].problems
    ladder.run.overlaps["arithmetic_v1"] = [Overlap(problem, problem, "the same text") for problem in problems]
    learnt = {"toy": [], "top": problems[:2]}
    monkeypatch.setattr(stages_run, "list_learnt_problems", lambda run, stage: learnt[stage.name])

    ladder.run_stage(ladder.top)
    counts = {}
    for stage in (ladder.toy, ladder.top):
        entries = ladder.read_scores(stage)["variants"][0]["benchmarks"]
        counts[stage.name] = [entry["overlaps"] for entry in entries]
    assert counts == {"toy": [0, 0], "top": [2, 0]}


def test_an_override_reaches_settings_inside_settings():
    class Outer(Settings):
        toy: ToySettings
        name: str

    outer = Outer(toy=ToySettings(scale=1.0, file="", inner={}), name="a")
    changed = apply_overrides(outer, {"toy.scale": 0.5, "name": "b"})
    assert (changed.toy.scale, changed.toy.file, changed.name) == (0.5, "", "b")
    assert outer.toy.scale == 1.0


def test_every_override_of_a_control_names_a_setting():
    from pipeline.config import load_recipe

    recipe = load_recipe("cpu")
    for control in stages.CONTROLS:
        settings = recipe.stages[control.section]
        changed = apply_overrides(settings, control.overrides)
        assert type(settings).model_validate(changed.model_dump()) == changed
        assert changed != settings


def test_few_shot_examples_are_the_first_training_problems_of_the_benchmark(ladder):
    rows = {(row.variant, row.benchmark.name): row for row in list_rows(ladder.run, PLAIN)}
    assert set(rows) == {
        (variant, name) for variant in ("zero-shot", "2-shot") for name in ("arithmetic_v1", "logic_v1")
    }

    for name in ("arithmetic_v1", "logic_v1"):
        expected = load(name, "train").problems[:2]
        assert rows["2-shot", name].examples == expected
        assert list(rows["zero-shot", name].examples) == []


def test_each_variant_of_a_prompted_stage_has_its_files(ladder):
    ladder.run_stage(PLAIN)
    folder = ladder.folder(PLAIN)
    assert (folder / "completions" / "2-shot" / "logic_v1.jsonl").is_file()
    assert (folder / "grades" / "zero-shot" / "arithmetic_v1.jsonl").is_file()

    variants = ladder.read_scores(PLAIN)["variants"]
    assert [(v["variant"], v["prompt"], v["shots"]) for v in variants] == [
        ("zero-shot", "plain", 0),
        ("2-shot", "plain", 2),
    ]


def test_under_another_grader_the_answers_are_graded_again_and_not_asked_again(ladder, monkeypatch):
    from pipeline import evaluate

    ladder.run_stage(PLAIN)
    before = ladder.read_scores(PLAIN)
    texts = (ladder.folder(PLAIN) / "completions" / "2-shot" / "logic_v1.jsonl").read_bytes()

    def fail(*arguments, **options):
        raise AssertionError("asked again")

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate", fail)
        patch.setattr(stages_run, "EXTRACTION_VERSION", 99)
        ladder.run_stage(PLAIN)
        after = ladder.read_scores(PLAIN)
        assert after == {**before, "extraction_version": 99}
        assert (ladder.folder(PLAIN) / "completions" / "2-shot" / "logic_v1.jsonl").read_bytes() == texts

        # Each answer stays with its problem, in whatever order the benchmarks are named.
        ladder.run.benchmarks.reverse()
        patch.setattr(stages_run, "EXTRACTION_VERSION", 100)
        ladder.run_stage(PLAIN)
        assert (ladder.folder(PLAIN) / "completions" / "2-shot" / "logic_v1.jsonl").read_bytes() == texts

        # Other problems must be asked.
        ladder.run.benchmarks[1] = load("arithmetic_v1", "test", 2)
        with pytest.raises(AssertionError, match="asked again"):
            ladder.run_stage(PLAIN)


def test_an_interrupted_grading_keeps_the_answers(ladder, monkeypatch):
    from pipeline import evaluate

    ladder.run_stage(PLAIN)
    original = stages_run.write_answers
    written = []

    def stop_at_the_last(folder, file, *arguments):
        if len(written) == 3:
            raise KeyboardInterrupt
        # Another grader writes other grades.
        answers = original(folder, file, *arguments)
        (folder / "grades" / file).write_text("other\n")
        written.append(file)
        return answers

    def fail(*arguments, **options):
        raise AssertionError("asked again")

    monkeypatch.setattr(stages_run, "EXTRACTION_VERSION", 99)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stages_run, "write_answers", stop_at_the_last)
        ladder.run_stage(PLAIN)

    monkeypatch.setattr(evaluate, "evaluate", fail)
    ladder.run_stage(PLAIN)
    assert ladder.read_scores(PLAIN)["extraction_version"] == 99


def test_answers_of_variants_that_are_no_more_are_removed(ladder):
    ladder.run_stage(PLAIN)
    ladder.change("plain", shots=[0])
    ladder.run_stage(PLAIN)

    files = sorted(path.name for path in (ladder.folder(PLAIN) / "completions").rglob("*.jsonl"))
    assert files == ["arithmetic_v1.jsonl", "logic_v1.jsonl"]


def test_an_interrupted_scoring_goes_on_with_what_has_no_answer(ladder, monkeypatch):
    from pipeline import evaluate

    ladder.run_stage(ladder.toy)
    whole = (ladder.folder(ladder.toy) / "completions" / "logic_v1.jsonl").read_bytes()
    (ladder.folder(ladder.toy) / "scores.json").unlink()

    original = evaluate.evaluate

    def stop_at_logic(*arguments, **options):
        if "logic" in options["label"]:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(evaluate, "evaluate", stop_at_logic)
        ladder.run_stage(ladder.toy)

    partial = ladder.folder(ladder.toy) / "partial" / "zero-shot"
    assert (partial / "arithmetic_v1").is_dir()

    counts = []
    generate = evaluate.generate

    def count_prompts(model, tokenizer, prompts, **options):
        counts.append(len(prompts))
        return generate(model, tokenizer, prompts, **options)

    monkeypatch.setattr(evaluate, "generate", count_prompts)
    assert ladder.run_stage(ladder.toy) == []
    # All four of arithmetic were there.
    assert counts == [0, 3]
    assert (ladder.folder(ladder.toy) / "completions" / "logic_v1.jsonl").read_bytes() == whole
    assert not partial.exists()


def test_an_unknown_stage_is_refused(ladder):
    with pytest.raises(UserError, match="did you mean toy"):
        stages.get_stage("toyy")


def test_the_report_gets_all_that_is_on_disk(ladder):
    ladder.run_stage(ladder.top)
    view = ladder.run.dir.read_view()

    assert [stage.name for stage in view.stages] == ["toy", "top"]
    assert view.problems["logic_v1"] == ladder.run.benchmarks[1].problems
    top = view.stages[1]
    assert len(top.completions["zero-shot", "arithmetic_v1"]) == 4
    assert top.manifest["training"]["inputs"]["parent"] == "toy"
    assert "scale: 1.0" in top.recipe

    flip_bit(ladder.run.dir.problems_file("logic_v1"))
    with pytest.raises(UserError, match="problems/logic_v1.jsonl: is not what"):
        ladder.run.dir.read_view()
