"""One turn of feedback: who gets which, what is asked, and what is counted."""

import json
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from data.records import Completion, Problem, read_completions, write_json, write_records
from eval import dialogue
from eval.grade import grade

PROBLEMS = [Problem(str(i), f"What is {i} + 1?", str(i + 1), "number") for i in range(4)]
FIRST = {
    "0": "<think>0 + 1 = 1</think>\\boxed{1}",  # right
    "1": "<think>1 + 1 = 3</think>\\boxed{3}",  # a wrong step
    "2": "<think></think>\\boxed{7}",  # wrong without a step
    "3": "<think>3 + 1 = 5</think>\\boxed{4}",  # right, through a wrong step
}
SECOND = {"0": "\\boxed{9}", "1": "\\boxed{2}", "2": "\\boxed{7}", "3": "\\boxed{4}"}


def completion(identity, text):
    return Completion(identity, text, 5, 0, 5, "stop")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with one stage, of which the few-shot variant is the better one, and a stand-in for the model."""
    write_records(tmp_path / "sums.jsonl", PROBLEMS)
    texts = [completion(i, text) for i, text in FIRST.items()]
    folder = tmp_path / "run" / "cot"
    write_records(folder / "c.jsonl", texts)
    write_records(folder / "g.jsonl", [grade(p, c) for p, c in zip(PROBLEMS, texts, strict=True)])
    entry = {"benchmark": "sums", "completions": "c.jsonl", "grades": "g.jsonl"}
    variants = [
        {"variant": f"{shots}-shot", "prompt": "cot", "shots": shots, "benchmarks": [entry | {"accuracy": accuracy}]}
        for shots, accuracy in ((0, 0.1), (4, 0.5))
    ]
    write_json(folder / "scores.json", {"stage": "cot", "variants": variants})
    asked = []

    def complete(command, check):
        options = dict(pairwise(command))
        turns = [json.loads(line) for line in Path(options["--after"]).read_text().splitlines()]
        asked.append((options, {turn["id"]: turn for turn in turns}))
        write_records(options["--out"], [completion(turn["id"], SECOND[turn["id"]]) for turn in turns])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(dialogue.subprocess, "run", complete)
    return tmp_path, asked


def test_every_answer_gets_its_feedback_and_the_outcomes_are_counted(run, capsys):
    folder, asked = run
    assert dialogue.main(["--run", str(folder / "run"), "--benchmark", str(folder / "sums.jsonl")]) == 0
    (bare_options, bare), (_, hint) = asked
    assert bare_options["--model"] == str(folder / "run" / "cot")
    assert (bare_options["--prompt"], bare_options["--shots"]) == ("cot", "4")
    assert {i: turn["text"] for i, turn in bare.items()} == FIRST
    assert {turn["feedback"] for turn in bare.values()} == {dialogue.BARE}
    assert list(hint) == ["1"] and "the step 1 + 1 = 3 is wrong" in hint["1"]["feedback"]
    rows = json.loads((folder / "run" / "dialogue" / "dialogue.json").read_text())
    counted = {(row["feedback"], row["outcome"]): (row["count"], row["n"]) for row in rows}
    assert counted == {("bare", "recovered"): (1, 2), ("bare", "broken"): (1, 2), ("hint", "recovered"): (1, 1)}
    assert "50.0 [9.5, 90.5]" in capsys.readouterr().out
    assert len(read_completions(folder / "run" / "dialogue" / "cot" / "bare" / "sums.jsonl")) == 4


def test_what_was_said_on_another_benchmark_stays(run):
    folder, _ = run
    file, earlier = folder / "run" / "dialogue" / "dialogue.json", {"benchmark": "others", "stage": "cot"}
    for _ in range(2):
        write_json(file, [earlier, {"benchmark": "sums", "stage": "cot"}])
        assert dialogue.main(["--run", str(folder / "run"), "--benchmark", str(folder / "sums.jsonl")]) == 0
        rows = json.loads(file.read_text())
        assert rows[0] == earlier and [row["benchmark"] for row in rows[1:]] == ["sums"] * 3
    file.write_text("[1")
    assert dialogue.main(["--run", str(folder / "run"), "--benchmark", str(folder / "sums.jsonl")]) == 2


@pytest.mark.parametrize(("more", "says"), [(["--limit", "0"], "--limit is 0"), ([], "no stage was scored")])
def test_bad_input_is_one_line(run, capsys, more, says):
    folder, _ = run
    assert dialogue.main(["--run", str(folder / "elsewhere"), "--benchmark", str(folder / "sums.jsonl"), *more]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
