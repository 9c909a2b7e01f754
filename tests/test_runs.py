"""Run folders: one process at a time, and an evaluation that goes on where it was cut off."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.build import load
from data.records import BadInput
from pipeline import answers, base, generate, runs


def test_a_second_run_on_one_folder_refuses_and_the_hold_ends_with_the_first(tmp_path):
    with runs.alone(tmp_path / "base"):
        with pytest.raises(BadInput, match="another run is at work"), runs.alone(tmp_path / "base"):
            pass
        with runs.alone(tmp_path / "other"):
            pass
    with runs.alone(tmp_path / "base"):
        pass


@pytest.mark.parametrize("place", ["/proc/no/runs", "/etc/hostname/runs"])
def test_a_folder_that_cannot_be_made_is_refused(place):
    with pytest.raises(BadInput, match=f"{place}.*: cannot be written to"), runs.alone(Path(place)):
        pass


def test_an_evaluation_goes_on_with_the_problems_that_have_no_answer(tiny, tmp_path, monkeypatch):
    model, tokenizer = tiny
    problems, kept = load("arithmetic_v1", "test")[:12], tmp_path / "kept"

    def complete(kept=None):
        return answers.complete(model, tokenizer, problems, "think", max_tokens=24, batch_size=4, label="x", kept=kept)

    whole, rows = complete(), []
    original = generate.text_of

    def cut(*arguments):
        rows.append(1)
        if len(rows) == 6:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generate, "text_of", cut)
        complete(kept)
    assert (kept / "0.jsonl").read_text().count("\n") == 5
    last = (kept / "0.jsonl").read_text().splitlines()[-1][9:]
    with open(kept / "0.jsonl", "a") as file:  # its last line, after a long time
        file.write(answers.checked(json.dumps(json.loads(last) | {"seconds": 500.0})) + "\n")
    assert answers.spent(kept) == 500
    with open(kept / "0.jsonl", "a") as file:
        file.write('{"id": "torn')
    asked = []
    monkeypatch.setattr(generate, "text_of", lambda *arguments: asked.append(1) or original(*arguments))
    assert complete(kept) == whole
    assert len(asked) == 7
    after = [json.loads(line[9:])["seconds"] for line in (kept / "0.jsonl").read_text().splitlines()[6:]]
    assert len(after) == 7 and all(500 <= seconds < 600 for seconds in after)  # what was spent before counts, too
    assert complete(kept) == whole and len(asked) == 7  # nothing is left to ask
    lines = (kept / "0.jsonl").read_text().splitlines(keepends=True)
    place = lines[3].index("tokens")
    for torn in (lines[3][:place] + "u" + lines[3][place + 1 :], "\n", "[1]\n"):
        (kept / "0.jsonl").write_text("".join([*lines[:3], torn, *lines[4:]]))
        assert complete(kept) == whole
    assert len(asked) == 10  # one that is not what was written is asked again


def test_a_prompt_beyond_the_context_is_refused(tiny):
    model, tokenizer = tiny
    problems = load("arithmetic_v1", "test")[:2]
    most = model.config.max_position_embeddings
    with pytest.raises(BadInput, match=rf"a prompt of \d+ tokens and eval.max_tokens={most} go beyond .* of {most};"):
        answers.complete(model, tokenizer, problems, "think", max_tokens=most, batch_size=2, label="x")


def test_answers_of_other_inputs_are_not_gone_on_with(tmp_path):
    partial = runs.work_folder(tmp_path, {"settings": 1}, "partial")
    (partial / "sums.jsonl").write_text("{}")
    assert (runs.work_folder(tmp_path, {"settings": 1}, "partial") / "sums.jsonl").is_file()
    assert not (runs.work_folder(tmp_path, {"settings": 2}, "partial") / "sums.jsonl").exists()
    for garbage in ("", "{", "[]"):
        (partial / "sums.jsonl").write_text("{}")
        (partial / "inputs.json").write_text(garbage)
        assert not (runs.work_folder(tmp_path, {"settings": 2}, "partial") / "sums.jsonl").exists()


def test_what_is_left_of_a_finished_part_goes_and_another_begun_one_stays(tmp_path):
    work = runs.work_folder(tmp_path, {"settings": 1})
    runs.clear(work, {"settings": 2})
    assert work.is_dir()
    runs.clear(work, {"settings": 1})
    assert not work.exists()


def test_a_base_has_one_folder_below_runs_whatever_its_path(tmp_path, monkeypatch):
    (tmp_path / "model" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "model" / "inside")
    names = ("nano", "owner/name", "a/b.gguf", "..", "../", ".././inside/..")
    assert [base.folder_name(name) for name in names] == ["nano", "owner--name", "b", "model", "model", "model"]


def test_a_folder_of_pickled_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(BadInput, match="it has no safetensors, and weights in a pickle are not loaded"):
        base.resolve(str(tmp_path))


def test_a_base_is_made_once_however_many_ask_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    made, both = [], threading.Barrier(2)

    def make(folder):
        made.append(folder)
        time.sleep(0.3)  # long enough for the other to come and wait
        (folder / "config.json").write_text("{}")

    def ask():
        both.wait()
        return base._once("one", make)

    with ThreadPoolExecutor(2) as pool:
        found = [task.result() for task in [pool.submit(ask), pool.submit(ask)]]
    assert len(made) == 1 and found == [tmp_path / "one"] * 2
    assert (tmp_path / "one" / "config.json").is_file()
