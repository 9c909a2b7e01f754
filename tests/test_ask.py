"""The chat: what streams is what would be graded, commands and errors are lines, and model text moves no terminal."""

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from transformers import AutoModelForCausalLM

from data.records import Completion, Problem
from pipeline import __main__ as command_line
from pipeline import answers, ask, stages

ROOT = Path(__file__).resolve().parent.parent
GUESSES = ("\\boxed{8}", "\\boxed{80} or \\boxed{8}")
QUESTIONS = ("What is 25 * 4 + 8?", "What is 7?", "Is it [bold]true[/bold]?", "What is 12 + 30 - 5?")


@pytest.fixture(scope="module")
def chatty(tiny, tmp_path_factory):
    """The options of a run of plain, sft and rl on the tiny model, whose adapters are random, and that run."""
    folder = tmp_path_factory.mktemp("ask")
    tiny[0].save_pretrained(folder / "mini")
    tiny[1].save_pretrained(folder / "mini")
    options = ["--base", str(folder / "mini"), "--runs", str(folder / "runs"), "--limit", "1", "--profile", "cpu"]
    opened = command_line.open_run(command_line.parser().parse_args(["ask", *options]))
    for seed, stage in enumerate(("plain", "sft", "rl")):
        opened.stage(stage).mkdir(parents=True)
        (opened.stage(stage) / "scores.json").write_text("{}")
        if seed:
            torch.manual_seed(seed)
            base = AutoModelForCausalLM.from_pretrained(folder / "mini")
            model = get_peft_model(base, LoraConfig(target_modules="all-linear", init_lora_weights=False))
            model.save_pretrained(opened.stage(stage) / "adapter")
    return options, opened


def graded(opened, stage, question, **how):
    """What scoring would make of a question, with a model loaded for it alone."""
    _, prompt, shots = stages.variants(opened, stage)[-1]
    model, tokenizer = opened.load(stages.adapter_of(opened, stage))
    problem = Problem("ask", question, "0", "number")
    limits = {"max_tokens": opened.recipe.eval.max_tokens, "batch_size": 1, "label": stage}
    return answers.complete(model, tokenizer, [problem], prompt, shots, **limits, **how)[0]


def test_what_is_streamed_is_what_would_be_graded(chatty):
    """One model with all adapters, asked by turns; the untrained model breaks off in the middle of characters."""
    _, opened = chatty
    models, halves = ask.Models(opened, ["plain", "sft", "rl"]), 0
    texts = set()
    for question in QUESTIONS:
        for stage in ("sft", "plain", "rl"):
            page = Console(file=io.StringIO())
            written, told = ask.Written(page), []

            def grow(text, written=written, told=told):
                told.append(text)
                written(text)

            completion = models.answer(stage, question, None, 0, grow)
            before = page.file.getvalue()
            written(completion.text, last=True)
            assert completion == graded(opened, stage, question)
            assert page.file.getvalue() == ask.printable(completion.text)
            assert len(told) == completion.thinking_tokens + completion.answer_tokens and before
            halves += any(text.endswith("\ufffd") and not after.startswith(text) for text, after in pairwise(told))
            texts.add(completion.text)
    assert len(texts) > 6 and halves, "the stages answer alike, or no character was ever in two tokens"


def writes(monkeypatch, tokenizer, text):
    """Make any model choose the tokens of ``text``, over and over."""
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    left: list[int] = []

    def scripted(logits, temperature, generator):
        left[:] = left or ids
        return torch.tensor([left.pop(0)]), torch.zeros(1)

    monkeypatch.setattr("pipeline.generate._choose", scripted)


@pytest.mark.parametrize(("budget", "least", "spent"), [(0, 0, 0), (3, 0, 3), (8, 8, 8), (None, 20, 20)])
def test_bounds_hold_as_they_do_in_scoring(chatty, monkeypatch, budget, least, spent):
    _, opened = chatty
    models = ask.Models(opened, ["sft"])
    writes(monkeypatch, models.tokenizer, "<think>\n1 + 1 = 2\n</think>\n\\boxed{2}")
    streamed = models.answer("sft", "What is 1 + 1?", budget, least, lambda text: None)
    writes(monkeypatch, models.tokenizer, "<think>\n1 + 1 = 2\n</think>\n\\boxed{2}")
    assert streamed == graded(opened, "sft", "What is 1 + 1?", budget=budget, least=least)
    assert streamed.thinking_tokens >= spent and (budget is None or streamed.thinking_tokens == budget)


def test_an_answer_that_was_cut_counts_as_it_does_in_scoring():
    cut = Completion("ask", "So the answer is 12", 1, 0, 6, "length")
    assert "answer: None" in ask.outcome(cut).plain and "cut by the limit" in ask.outcome(cut).plain
    assert "answer: 12" in ask.outcome(replace(cut, finish="stop")).plain


def test_the_thought_is_dim_and_the_answer_is_not():
    page = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    written = ask.Written(page)
    for end in range(1, 40):
        written("<think>\n1 + 1 = 2\n</think>\n\\boxed{2}"[:end])
    shown = page.file.getvalue()
    dim = "".join(re.findall("\x1b\\[2m(.*?)\x1b\\[0m", shown, re.DOTALL))
    assert dim.strip() == "1 + 1 = 2\n</think>" and re.sub("\x1b\\[[0-9]*m", "", shown).endswith("\\boxed{2}")


def test_model_text_neither_moves_the_terminal_nor_is_markup(chatty, monkeypatch, capsys):
    """The model is made to write a title, colours, a bell, C1 controls, a mark that turns the text, and markup."""
    _, opened = chatty
    hostile = "<think>\x1b]0;owned\x07\x1b[2J\r\x9b31m[bold]\u202ex</think>\n\\boxed{\x1b[31m7}"
    models = ask.Models(opened, ["plain", "sft"])
    writes(monkeypatch, models.tokenizer, hostile)
    ask.show(Console(markup=False, highlight=False), models, "sft", "What is 7?", None, 0)
    shown = capsys.readouterr().out
    assert "\\x1b]0;owned\\x07\\x1b[2J\\r\\x9b31m[bold]\\u202ex</think>" in shown and "answer: \\x1b[31m7" in shown
    Console().print(ask.panel("sft", models.answer("sft", "What is 7?", None, 0)))
    shown += capsys.readouterr().out
    assert "[bold]" in shown and not set(shown) & {"\x1b", "\x07", "\r", "\x9b", "\u202e"}


def test_a_chat_through_a_pipe(chatty):
    """Stages and bounds are chosen, wrong lines get one line each, and the chat goes on to its end."""
    options, opened = chatty
    said = ["What is 7?", "/stages sft", "/budget 3", "What is 7?", "/budget x", "/bugdet", "/stages cot", ""]
    said += ["/min-thinking 4", "/budget", "/min-thinking 4", "/help", "/quit", "What is 8?"]
    command = [sys.executable, "-m", "pipeline", "ask", *options, "--stages", "rl", "plain"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input="\n".join(said) + "\n\xff")
    assert done.returncode == 0 and not done.stderr, done.stderr
    turns = dict(zip(said, re.split(r"^> .*\n", done.stdout, flags=re.MULTILINE)[1:], strict=False))
    heads = re.findall(r"^(plain|sft|rl|cot)$", done.stdout, re.MULTILINE)
    assert heads == ["plain", "rl", "sft"]
    completion = graded(opened, "sft", "What is 7?", budget=3)
    assert f"\nsft\n{ask.printable(completion.text)}\n" in done.stdout
    for line, words in {
        "/budget x": "/budget takes one whole number",
        "/bugdet": "did you mean /budget?",
        "/stages cot": "stage 'cot' has not been run",
    }.items():
        assert turns[line].startswith("error: ") and words in turns[line] and turns[line].count("\n") == 1
    assert "not above BUDGET (3)" in done.stdout and "at least 4 tokens of thought" in turns["/min-thinking 4"]
    assert all(name in turns["/help"] for name in ask.COMMANDS) and "What is 8?" not in done.stdout
    empty = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert empty.returncode == 2 and empty.stderr.startswith("error: no question") and empty.stderr.count("\n") == 1


def test_ctrl_c_stops_the_answer_and_ctrl_d_the_chat(chatty):
    """On a terminal; the answer would go on for thousands of tokens."""
    options, _ = chatty
    ours, theirs = pty.openpty()
    more = ["--stages", "plain", "--set", "eval.max_tokens=1500", "--set", "plain.shots=[0]"]
    command = [sys.executable, "-m", "pipeline", "ask", *options, *more]
    chat = subprocess.Popen(
        command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    seen = ""

    def until(words: str) -> None:
        nonlocal seen
        while words not in seen:
            seen += os.read(ours, 4096).decode(errors="replace")
        seen = seen.partition(words)[2]

    until("> ")
    os.write(ours, b"What is 7?\r")
    until("plain")
    while len(seen) < 300:
        seen += os.read(ours, 4096).decode(errors="replace")
    os.write(ours, b"\x03")
    until("stopped")
    until("> ")
    os.write(ours, b"/budget -1\r")
    until("error: /budget takes one whole number")
    until("> ")
    os.write(ours, b"\x04")
    with contextlib.suppress(OSError):  # the other side is gone
        while os.read(ours, 4096):
            pass
    assert chat.wait() == 0
    os.close(ours)


def test_an_answer_of_several_guesses_is_said_to_earn_nothing():
    of = [ask.outcome(Completion("ask", f"<think>1</think>{text}", 1, 1, 9, "stop")).plain for text in GUESSES]
    assert [told.split("\n")[0] for told in of] == ["answer: 8", "answer: 8 (of several guesses, which earn nothing)"]
