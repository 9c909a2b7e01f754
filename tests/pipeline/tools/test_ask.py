"""What a stage answers is what is graded, where the right answer is known with its verdict; it moves no terminal."""

import io

import pytest
import torch
from rich.console import Console

from data.files import UserError
from data.problem import Completion, Problem
from pipeline import generate
from pipeline.evaluate import evaluate
from pipeline.models.load import load_model
from pipeline.stages import get_stage
from pipeline.stages.run import list_rows
from pipeline.thinking_budget import ThinkingLimits
from pipeline.tools import ask as module
from pipeline.tools.ask import StageModels, describe_outcome, find_problem, make_panel, select_stages

QUESTIONS = ("What is 25 * 4 + 8?", "Is it [bold]true[/bold]?", "What is 12 + 30 - 5?")
UNKNOWN = Problem("ask", "What is 6 + 6?", answer="", kind="number")
KNOWN = Problem("ask", "What is 6 + 6?", answer="12", kind="number")


def answer_alone(run, name, problem, budget=None):
    """What scoring would make of a question, with a model that is loaded for it alone."""
    stage = get_stage(name)
    adapter = run.dir.stage(name).adapter if stage.train else None
    evaluation = evaluate(
        *load_model(run.base_folder, adapter, load="fp32"),
        [problem],
        stage.prompt,
        # The last variant has the most examples, and two benchmarks.
        examples=list_rows(run, stage)[-1 if "logic" in problem.id else -2].examples,
        max_new_tokens=24,
        batch_size=1,
        thinking=ThinkingLimits(max_tokens=budget),
        label=name,
    )
    return evaluation.completions[0]


def make_models(run, *names):
    return StageModels(run, [get_stage(name) for name in names])


def script_model(monkeypatch, tokenizer, text):
    """Make any model choose the tokens of a text, over and over."""
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    left = []

    def choose(logits, *_):
        left[:] = left or ids
        return torch.tensor([left.pop(0)]), torch.zeros(1)

    monkeypatch.setattr(generate, "sample_tokens", choose)


def test_what_is_answered_is_what_would_be_graded(finished_run):
    """One model with all adapters, asked by turns."""
    models = make_models(finished_run, "plain", "sft", "rl")
    texts = set()

    of_logic = finished_run.benchmarks[1].problems[0].id
    for question in (*QUESTIONS, of_logic):
        problem = find_problem(finished_run, question)
        for name in ("sft", "plain", "rl"):
            completion = models.answer(get_stage(name), problem, None)
            assert completion == answer_alone(finished_run, name, problem)
            texts.add(completion.text)

    # Else the stages would answer alike, and the test would show nothing.
    assert len(texts) > 6


@pytest.mark.parametrize("budget", [0, 3])
def test_a_budget_holds_as_in_scoring(finished_run, monkeypatch, budget):
    models = make_models(finished_run, "sft")
    script_model(monkeypatch, models.tokenizer, "<think>\n1 + 1 = 2\n</think>\n\\boxed{2}")
    completion = models.answer(get_stage("sft"), UNKNOWN, budget)

    script_model(monkeypatch, models.tokenizer, "<think>\n1 + 1 = 2\n</think>\n\\boxed{2}")
    assert completion == answer_alone(finished_run, "sft", UNKNOWN, budget)
    assert completion.thinking_tokens == budget


def test_a_truncated_answer_counts_as_in_scoring():
    truncated = describe_outcome(UNKNOWN, Completion("ask", "So the answer is 12", 1, 0, 6, "length"))
    assert truncated == "answer: none\n6 tokens, 0 of them thinking, truncated by the limit"

    finished = describe_outcome(UNKNOWN, Completion("ask", "So the answer is 12", 1, 0, 6, "stop"))
    assert finished == "answer: 12\n6 tokens, 0 of them thinking"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\\boxed{12}", "answer: 12 (correct)"),
        ("\\boxed{13}", "answer: 13 (wrong)"),
        ("I cannot say.", "answer: none (no_answer)"),
        ("<think>6 + 6", "answer: none (unclosed)"),
    ],
)
def test_the_verdict_stands_beside_an_answer_whose_right_one_is_known(text, shown):
    assert describe_outcome(KNOWN, Completion("ask", text, 1, 0, 6, "stop")).startswith(f"{shown}\n")


def test_the_right_answer_is_that_of_the_benchmark_or_the_user(finished_run):
    problem = finished_run.benchmarks[1].problems[0]
    assert find_problem(finished_run, problem.id) == problem
    assert find_problem(finished_run, f" {problem.question.upper()} ") == problem

    assert find_problem(finished_run, problem.question, "9").answer == "9"
    assert find_problem(finished_run, "Is 7 odd?", "yes").kind == "label"
    assert find_problem(finished_run, "Is 7 odd?").answer == ""


def test_an_answer_without_a_question_is_refused(finished_run):
    with pytest.raises(UserError, match="give the question, too"):
        module.ask(finished_run, None, "12", [], None)


def test_model_text_neither_moves_the_terminal_nor_is_markup(capsys):
    """The model writes a title, colours, a bell, C1 controls, a mark that turns the text, and markup."""
    hostile = "<think>\x1b]0;owned\x07\x1b[2J\r\x9b31m[bold]\u202ex</think>\n\\boxed{\x1b[31m7}"
    Console(width=120).print(make_panel("sft", KNOWN, Completion("ask", hostile, 1, 1, 9, "stop")))

    shown = capsys.readouterr().out
    assert "\\x1b]0;owned\\x07\\x1b[2J\\r\\x9b31m[bold]\\u202ex</think>" in shown
    assert not set(shown) & {"\x1b", "\x07", "\r", "\x9b", "\u202e"}


def test_one_question_is_answered_side_by_side(finished_run, capsys):
    problem = finished_run.benchmarks[0].problems[0]
    module.ask(finished_run, problem.id, None, [], None)
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("plain", "sft", "rl", "adaptive"))
    assert shown.count("of them thinking") == 4
    assert f"{problem.question}\nThe right answer is {problem.answer}.\n" in shown


def test_a_chat_answers_line_by_line_to_the_end(finished_run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 7?\n\nWhat is 8?\n"))
    module.ask(finished_run, None, None, ["sft", "plain"], None)
    shown = capsys.readouterr().out
    assert shown.count("of them thinking") == 4
    assert "right answer" not in shown


def test_stages_are_those_that_have_been_run(finished_run):
    assert [stage.name for stage in select_stages(finished_run, ["rl", "plain"])] == ["plain", "rl"]
    with pytest.raises(UserError, match="stage 'cot' has not been run"):
        select_stages(finished_run, ["cot"])
