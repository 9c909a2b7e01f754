"""Run folders: one process at a time, parts that count only when they are complete, and damage that is named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data.files import UserError
from data.problem import Problem
from pipeline.run_dir import RunDir, find_run_dir
from pipeline.stage_dir import StageDir, find_damaged, find_differences, read_manifest, seal


def make_training(stage: StageDir, inputs: dict, weights: bytes, **notes: str) -> Path:
    """Leave what a training leaves in its work folder; return its adapter."""
    work = stage.begin("training", inputs)
    adapter = work / "final"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(weights)
    (adapter / "adapter_config.json").write_text("{}")
    for name, text in notes.items():
        (work / name.replace("_", ".")).write_text(text)
    return adapter


def finish_training(stage: StageDir, weights: bytes, parent: StageDir | None = None, **notes: str) -> None:
    inputs = {
        "base": "its sha256",
        "weights": weights.hex(),
        "parent": parent.name if parent else None,
        "parent_adapter": parent.adapter_sha256() if parent else None,
    }
    adapter = make_training(stage, inputs, weights, **notes)
    stage.keep_training(adapter, inputs, {"seconds": 1.0})


def finish_scoring(stage: StageDir, control: bool = False, number: int = 3) -> None:
    stage.begin("scoring", {})
    scores = {"stage": stage.name, "number": number, "control": control, "variants": []}
    file = stage.folder / "scores.json"
    file.write_text(json.dumps(scores))
    stage.finish("scoring", {}, [file], {"seconds": 1.0})


def list_rows(run: RunDir, controls: bool = False) -> list[str]:
    return [stage.name for stage in run.read_stage_scores(controls)]


def flip_bit(path: Path, place: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(bytes(content))


def test_a_second_process_is_locked_out_until_the_first_ends(tmp_path):
    base = RunDir(tmp_path / "base")
    other = RunDir(tmp_path / "other")

    with base.lock():
        with pytest.raises(UserError, match="another run is at work"), base.lock():
            pass
        with other.lock():
            pass

    with base.lock():
        pass


@pytest.mark.parametrize("place", ["/proc/no/runs", "/etc/hostname/runs"])
def test_a_folder_that_cannot_be_made_is_refused(place):
    with pytest.raises(UserError, match=place), RunDir(Path(place)).lock():
        pass


def test_the_first_seed_lies_in_the_base_folder_and_others_below_it(tmp_path):
    assert find_run_dir(tmp_path, "nano", 1).root == tmp_path / "nano"
    assert find_run_dir(tmp_path, "nano", 2).root == tmp_path / "nano" / "seed-2"
    assert [find_run_dir(tmp_path, "nano", seed).name for seed in (1, 2)] == ["nano", "nano/seed-2"]


def test_work_of_the_same_inputs_goes_on_and_of_others_begins_anew(tmp_path):
    stage = StageDir(tmp_path)
    partial = stage.begin("scoring", {"settings": 1})
    (partial / "sums.jsonl").write_text("{}")

    assert (stage.begin("scoring", {"settings": 1}) / "sums.jsonl").is_file()
    assert not (stage.begin("scoring", {"settings": 2}) / "sums.jsonl").exists()

    for garbage in ("", "{", "[]"):
        (partial / "sums.jsonl").write_text("{}")
        (partial / "inputs.json").write_text(garbage)
        assert not (stage.begin("scoring", {"settings": 2}) / "sums.jsonl").exists()


def test_work_that_cannot_be_removed_is_not_taken_for_that_of_other_inputs(tmp_path, monkeypatch):
    stage = StageDir(tmp_path)
    work = stage.begin("training", {"settings": 1})
    (work / "checkpoint-2").mkdir()

    def refuse(path, ignore_errors=False):
        if not ignore_errors:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(PermissionError):
        stage.begin("training", {"settings": 2})


def test_leftovers_of_a_finished_part_go_and_work_of_other_inputs_stays(tmp_path):
    stage = StageDir(tmp_path)
    work = stage.begin("training", {"settings": 1})

    stage.remove_leftovers("training", {"settings": 2})
    assert work.is_dir()

    stage.remove_leftovers("training", {"settings": 1})
    assert not work.exists()


def test_a_seal_names_every_file_that_is_damaged_or_missing(tmp_path):
    files = [tmp_path / name for name in ("a.bin", "b.bin", "c.bin")]
    for file in files:
        file.write_bytes(b"content")
    seal(tmp_path, files, {"step": 5})
    assert find_damaged(tmp_path) == []
    assert read_manifest(tmp_path)["files"]["step"] == 5

    flip_bit(files[0])
    files[2].unlink()
    assert find_damaged(tmp_path) == [files[0], files[2]]


def test_without_a_seal_the_missing_manifest_is_named(tmp_path):
    assert find_damaged(tmp_path) == [tmp_path / "manifest.json"]


def test_any_flipped_bit_of_a_manifest_is_noticed(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"content")
    seal(tmp_path, [file], {"inputs": {"parent": None, "seed": 1}})
    manifest = tmp_path / "manifest.json"
    intact = manifest.read_bytes()
    parts = read_manifest(tmp_path)

    for place in range(len(intact)):
        flip_bit(manifest, place)
        try:
            # A bit of the space between two values changes nothing.
            assert read_manifest(tmp_path) == parts
        except UserError as error:
            assert "manifest.json: is not what was written" in str(error)
            assert find_damaged(tmp_path) == [manifest]
        manifest.write_bytes(intact)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"\xff"])
def test_a_file_that_is_no_manifest_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match="manifest.json"):
        read_manifest(tmp_path)


def test_differences_say_what_changed_from_what_to_what():
    old = {"settings": {"lr": 1, "same": 2}, "gone": 1, "long": "x" * 30}
    new = {"settings": {"lr": 3, "same": 2}, "new": 2, "long": "y" * 30}
    assert find_differences(old, new) == [
        "settings.lr was 1, is 3",
        "gone was 1, is None",
        "long changed",
        "new was None, is 2",
    ]


def test_a_finished_training_is_kept_with_its_notes_and_its_alarm(tmp_path):
    stage = StageDir(tmp_path / "sft")
    finish_training(stage, b"one", curve_json="[]", train_jsonl='{"step": 1}\n', alarm_txt="loss is nan\n")

    training = stage.read_part("training")
    assert training["alarm"] == "loss is nan"
    assert set(training["files"]) == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "alarm.txt",
        "curve.json",
        "train.jsonl",
    }
    assert stage.read_log("curve.json") == []
    assert stage.read_log("train.jsonl") == [{"step": 1}]
    assert not (stage.folder / "work").exists()


def test_the_log_of_grpo_after_expert_iteration_is_read_too(tmp_path):
    stage = StageDir(tmp_path / "rl")
    finish_training(stage, b"one", curve_json='[{"round": 0}]', train_jsonl='{"step": 1}\n')
    assert [(log.name, log.curve, log.steps) for log in stage.read_trainings()] == [("", [{"round": 0}], [{"step": 1}])]

    (stage.folder / "grpo_curve.json").write_text('[{"step": 6}]')
    assert [(log.name, log.curve) for log in stage.read_trainings()] == [("", [{"round": 0}]), ("grpo", [{"step": 6}])]

    # A training of a few steps has logged none.
    (stage.folder / "train.jsonl").write_text("")
    assert stage.read_trainings()[0].steps == []


def test_a_new_training_removes_all_that_the_one_before_left(tmp_path):
    stage = StageDir(tmp_path / "sft")
    finish_training(stage, b"one", alarm_txt="loss is nan")
    finish_scoring(stage)
    (stage.folder / "log.txt").write_text("a log goes on")

    finish_training(stage, b"two", curve_json="[]")
    assert sorted(path.name for path in stage.folder.iterdir()) == ["adapter", "curve.json", "log.txt", "manifest.json"]
    assert "scoring" not in read_manifest(stage.folder)
    assert list_rows(RunDir(tmp_path)) == []


def test_a_part_is_current_only_for_the_inputs_it_was_made_from(tmp_path):
    stage = StageDir(tmp_path)
    assert stage.find_changes("scoring", {"seed": 1}) == ["no scoring yet"]

    finish_scoring(stage)
    assert stage.find_changes("scoring", {}) == []
    assert stage.find_changes("scoring", {"seed": 1}) == ["seed was None, is 1"]


def test_a_damaged_adapter_is_named_and_a_deleted_note_is_not(tmp_path):
    stage = StageDir(tmp_path / "sft")
    with pytest.raises(UserError, match="sft: has no adapter yet; run `make sft`"):
        stage.check_adapter("its sha256")

    finish_training(stage, b"one", curve_json="[]")
    stage.check_adapter("its sha256")
    with pytest.raises(UserError, match="sft: was trained on another base of this name"):
        stage.check_adapter("another")

    (stage.folder / "curve.json").unlink()
    assert stage.find_damaged("training") == stage.find_damaged_notes() == []

    (stage.folder / "curve.json").write_text("[1]")
    assert stage.find_damaged_notes() == [stage.folder / "curve.json"]

    flip_bit(stage.adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="adapter_model.safetensors: is not what was trained; run `make sft`"):
        stage.check_adapter("its sha256")


def test_rows_come_in_the_order_of_the_ladder_and_controls_last(tmp_path):
    run = RunDir(tmp_path)
    for name, number in (("rl", 4), ("cot", 2), ("sft", 3)):
        finish_scoring(run.stage(name), number=number)
    finish_scoring(run.stage("sft_answers"), control=True)

    assert list_rows(run) == ["cot", "sft", "rl"]
    assert list_rows(run, controls=True) == ["cot", "sft", "rl", "sft_answers"]

    # A copy that someone put aside is no stage.
    shutil.copytree(tmp_path / "sft", tmp_path / "sft_old")
    assert list_rows(run) == ["cot", "sft", "rl"]


def test_a_stage_that_starts_from_an_adapter_that_is_gone_has_no_row(tmp_path):
    run = RunDir(tmp_path)
    sft, rl, adaptive = (run.stage(name) for name in ("sft", "rl", "adaptive"))
    finish_training(sft, b"sft")
    finish_training(rl, b"rl", parent=sft)
    finish_training(adaptive, b"adaptive", parent=rl)
    for stage, number in ((sft, 3), (rl, 4), (adaptive, 5)):
        finish_scoring(stage, number=number)
    assert list_rows(run) == ["sft", "rl", "adaptive"]

    finish_training(sft, b"another sft")
    finish_scoring(sft)
    assert list_rows(run) == ["sft"]

    finish_training(sft, b"sft")
    assert list_rows(run) == []

    finish_scoring(sft)
    assert list_rows(run) == ["sft", "rl", "adaptive"]


def test_samples_are_of_one_adapter_and_of_what_it_was_asked(tmp_path):
    run = RunDir(tmp_path)
    finish_training(run.stage("sft"), b"sft")
    adapter = run.stage("sft").adapter

    problem = Problem("p", "Which one purrs?", "cat", "text", ("cat", "dog"))
    place = run.find_samples(adapter, [problem], "greedy")
    assert run.find_samples(adapter, [problem], "greedy") == place
    assert run.find_samples(adapter, [problem], "sampled") != place
    # The choices stand under the question.
    assert run.find_samples(adapter, [replace(problem, choices=("cat", "cow"))], "greedy") != place

    finish_training(run.stage("sft"), b"another sft")
    assert run.find_samples(adapter, [problem], "greedy") != place


def test_damaged_scores_are_named(tmp_path):
    run = RunDir(tmp_path)
    finish_scoring(run.stage("plain"))
    flip_bit(tmp_path / "plain" / "scores.json")

    with pytest.raises(UserError, match="plain/scores.json: is not what was written"):
        run.read_stage_scores()
