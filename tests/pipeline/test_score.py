"""The score command: what it writes, what it prints, and what it refuses."""

import argparse
import json

import pytest

from data.dataset_spec import DatasetSpec
from data.datasets import load_train
from data.files import UserError
from data.problem import Problem, write_records
from pipeline import score
from pipeline.prompts import CustomPrompt
from pipeline.score import add_score_arguments, read_prompt, refuse_shown, score_model

PROBLEMS = [Problem(f"p{i}", f"What is {i} * {i}?", str(i * i), "number") for i in range(8)]


def test_a_prompt_may_be_a_file(tmp_path):
    path = tmp_path / "prompt.yaml"
    path.write_text("instruction: Solve it.\nformat: cot\n")
    assert read_prompt(str(path)) == CustomPrompt("Solve it.", "cot")
    assert read_prompt("plain") == "plain"

    path.write_text("instruction: ''\nformat: cot\n")
    assert read_prompt(str(path)) == CustomPrompt("", "cot")

    path.write_text("instruction: Solve it.\n")
    with pytest.raises(UserError, match="the keys instruction and format"):
        read_prompt(str(path))

    for text in (
        "instruction:\nformat: cot\n",
        "instruction: [a, b]\nformat: cot\n",
        "instruction: a\nformat: [cot]\n",
    ):
        path.write_text(text)
        with pytest.raises(UserError, match="each with a text"):
            read_prompt(str(path))

    path.write_text("instruction: Solve it.\nformat: cott\n")
    with pytest.raises(UserError, match="did you mean cot"):
        read_prompt(str(path))

    with pytest.raises(UserError, match="no such prompt or file"):
        read_prompt("thinkk")
    with pytest.raises(UserError, match="no such prompt or file"):
        read_prompt("Think step by step. " * 20)

    path.write_text("instruction: [\n")
    with pytest.raises(UserError, match="prompt.yaml: not YAML"):
        read_prompt(str(path))


@pytest.fixture
def options(tiny, tmp_path):
    """A function that gives the options of the score command on a small benchmark, with the tiny model as a folder."""
    for part in tiny:
        part.save_pretrained(tmp_path / "base")
    write_records(tmp_path / "squares.jsonl", PROBLEMS)

    def parse(*more):
        parser = argparse.ArgumentParser()
        add_score_arguments(parser)
        required = ["--model", tmp_path / "base", "--benchmark", tmp_path / "squares.jsonl", "--prompt", "think"]
        required += ["--out", tmp_path / "out"]
        return parser.parse_args([*map(str, required), *more])

    return parse


def test_score_writes_completions_grades_and_scores(options, tmp_path, capsys):
    scores = score_model(options("--budget", "3", "--limit", "6", "--shots", "1"))
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == scores
    assert (scores["benchmark"], scores["n"], scores["budget"], scores["shots"]) == ("squares", 6, 3, 1)

    for key in ("completions", "grades"):
        assert scores[key] == f"{key}/squares.jsonl"
        assert len((tmp_path / "out" / scores[key]).read_text().splitlines()) == 6

    printed = capsys.readouterr().out
    assert printed.startswith("squares: ")
    assert printed.endswith("and each answer and its grade in completions/ and grades/\n")


def test_a_folder_that_cannot_be_written_is_refused_before_any_answer(options, tmp_path, monkeypatch):
    (tmp_path / "out").write_text("a file")
    monkeypatch.setattr("pipeline.evaluate.evaluate", None)
    with pytest.raises(UserError, match="out: cannot be written to"):
        score_model(options())


def test_a_problem_that_is_shown_as_an_example_is_not_asked(options, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.evaluate.evaluate", None)
    shown = load_train(DatasetSpec(set="arithmetic_v1"), 2)
    write_records(tmp_path / "squares.jsonl", [*PROBLEMS, shown[1]])

    with pytest.raises(UserError, match=f"--shots: {shown[1].id} is asked"):
        score_model(options("--shots", "2"))

    # The same words with other choices are another question.
    one, other = [
        Problem("w", "Which is right?", "one", "choice", choices) for choices in (("one", "two"), ("one", "six"))
    ]
    refuse_shown([one], [other])
    with pytest.raises(UserError, match="w is asked"):
        refuse_shown([one], [one])


def test_samples_give_pass_at_k_and_the_majority(options, tmp_path, capsys):
    scores = score_model(options("--samples", "3", "--temperature", "0.7", "--seed", "5", "--limit", "4"))
    assert (scores["temperature"], scores["seed"], len(scores["each"])) == (0.7, 5, 3)
    assert list(scores["pass_at"]) == ["1", "2", "3"]

    files = sorted((tmp_path / "out" / "completions").glob("sample-*/squares.jsonl"))
    assert len({file.read_text() for file in files}) == 3
    assert "maj@3" in capsys.readouterr().out

    # Fewer of them leave no more than they are.
    score_model(options("--samples", "2", "--limit", "4"))
    left = sorted(path.name for path in (tmp_path / "out" / "grades").iterdir())
    assert left == ["sample-1", "sample-2"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--samples", "4", "--temperature", "0"], "--temperature is 0.0"),
        (["--samples", "4", "--seed", "4294967296"], "--seed is 4294967296"),
        (["--url", "http://x/v1", "--budget", "5"], "a server knows no --budget"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_a_model_is_loaded(options, monkeypatch, more, message):
    monkeypatch.setattr(score, "load_scored_model", lambda options: pytest.fail("loads a model"))
    with pytest.raises(UserError, match=message):
        score_model(options(*more))


def test_a_bad_benchmark_is_refused_before_a_model_is_loaded(options, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "load_scored_model", lambda options: pytest.fail("loads a model"))
    (tmp_path / "squares.jsonl").write_text('{"id": "x9", "question": "q", "answer": "many", "kind": "number"}\n')
    with pytest.raises(UserError, match="x9"):
        score_model(options())


def test_a_stages_folder_is_asked_as_the_stage_was(run, tmp_path):
    parser = argparse.ArgumentParser()
    add_score_arguments(parser)
    stage = run / "nano-tiny" / "sft"
    arguments = ["--model", stage, "--benchmark", "sums_v1", "--prompt", "think", "--limit", "40"]
    score_model(parser.parse_args([*map(str, arguments), "--out", str(tmp_path / "out")]))

    written = (tmp_path / "out" / "completions" / "sums_v1.jsonl").read_text()
    assert written == (stage / "completions" / "sums_v1.jsonl").read_text()
