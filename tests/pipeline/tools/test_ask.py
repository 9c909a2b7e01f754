"""The chat: what streams is what would be graded, commands and errors are lines, and model text moves no terminal."""

import contextlib
import fcntl
import io
import os
import pickle
import pty
import re
import select
import subprocess
import sys
import termios

import pytest
import torch
from rich.console import Console

from data.files import UserError
from data.problem import Completion
from pipeline import generate
from pipeline.evaluate import evaluate
from pipeline.models.load import load_model
from pipeline.progress import printable
from pipeline.stages import get_stage
from pipeline.stages.run import list_rows
from pipeline.thinking_budget import ThinkingLimits
from pipeline.tools import ask as module
from pipeline.tools.ask import COMMANDS, Chat, StageModels, StreamPrinter, describe_outcome, make_panel, select_stages

FREE = ThinkingLimits()
QUESTIONS = ("What is 25 * 4 + 8?", "Is it [bold]true[/bold]?", "What is 12 + 30 - 5?")


def answer_alone(run, name, question, limits=FREE):
    """What scoring would make of a question, with a model that is loaded for it alone."""
    stage = get_stage(name)
    adapter = run.dir.stage(name).adapter if stage.train else None
    evaluation = evaluate(
        *load_model(run.base_folder, adapter, load="fp32"),
        [module.make_problem(question)],
        stage.prompt,
        # The last variant has the most examples; arithmetic is the first of two benchmarks.
        examples=list_rows(run, stage)[-2].examples,
        max_new_tokens=24,
        batch_size=1,
        thinking=limits,
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


def test_what_is_streamed_is_what_would_be_graded(finished_run):
    """One model with all adapters, asked by turns; the untrained model stops in the middle of characters."""
    models = make_models(finished_run, "plain", "sft", "rl")
    texts = set()

    for question in QUESTIONS:
        for name in ("sft", "plain", "rl"):
            screen = io.StringIO()
            printer = StreamPrinter(Console(file=screen))
            completion = models.answer(get_stage(name), question, FREE, printer.print_text)
            printer.print_until(completion.text, len(completion.text))

            assert completion == answer_alone(finished_run, name, question)
            assert screen.getvalue() == printable(completion.text)
            texts.add(completion.text)

    # Else the stages would answer alike, and the test would show nothing.
    assert len(texts) > 6


def test_half_a_character_is_not_printed():
    screen = io.StringIO()
    printer = StreamPrinter(Console(file=screen))
    printer.print_text("so \ufffd")
    printer.print_text("so é")
    assert screen.getvalue() == "so é"


def test_the_thought_is_dim_and_the_answer_is_not():
    text = "<think>\n1 + 1 = 2\n</think>\n\\boxed{2}"
    screen = io.StringIO()
    printer = StreamPrinter(Console(file=screen, force_terminal=True, color_system="truecolor"))
    for end in range(1, len(text) + 1):
        printer.print_text(text[:end])

    shown = screen.getvalue()
    dim = "".join(re.findall("\x1b\\[2m(.*?)\x1b\\[0m", shown, re.DOTALL))
    assert dim == "\n1 + 1 = 2\n</think>"
    assert re.sub("\x1b\\[[0-9]*m", "", shown) == text


@pytest.mark.parametrize(("least", "most", "spent"), [(0, 0, 0), (0, 3, 3), (8, 8, 8), (10, None, 10)])
def test_limits_hold_as_in_scoring(finished_run, monkeypatch, least, most, spent):
    models = make_models(finished_run, "sft")
    limits = ThinkingLimits(least, most)
    script_model(monkeypatch, models.tokenizer, "<think>\n1 + 1 = 2\n</think>\n\\boxed{2}")
    completion = models.answer(get_stage("sft"), "What is 1 + 1?", limits)

    script_model(monkeypatch, models.tokenizer, "<think>\n1 + 1 = 2\n</think>\n\\boxed{2}")
    assert completion == answer_alone(finished_run, "sft", "What is 1 + 1?", limits)
    assert completion.thinking_tokens >= spent
    assert most is None or completion.thinking_tokens == most


def test_a_truncated_answer_counts_as_in_scoring():
    truncated = describe_outcome(Completion("ask", "So the answer is 12", 1, 0, 6, "length")).plain
    assert truncated == "answer: None\n6 tokens, 0 of them thinking, truncated by the limit"

    finished = describe_outcome(Completion("ask", "So the answer is 12", 1, 0, 6, "stop")).plain
    assert finished == "answer: 12\n6 tokens, 0 of them thinking"


def test_model_text_neither_moves_the_terminal_nor_is_markup(finished_run, monkeypatch, capsys):
    """The model writes a title, colours, a bell, C1 controls, a mark that turns the text, and markup."""
    hostile = "<think>\x1b]0;owned\x07\x1b[2J\r\x9b31m[bold]\u202ex</think>\n\\boxed{\x1b[31m7}"
    completion = Completion("ask", hostile, 1, 1, 9, "stop")
    monkeypatch.setattr(StageModels, "answer", lambda self, stage, question, limits, on_text: completion)

    chat = Chat(finished_run, ["sft"], FREE)
    chat.respond("What is 7?")
    shown = capsys.readouterr().out
    assert "\\x1b]0;owned\\x07\\x1b[2J\\r\\x9b31m[bold]\\u202ex</think>" in shown

    Console().print(make_panel("sft", completion))
    shown += capsys.readouterr().out
    assert "[bold]" in shown
    assert not set(shown) & {"\x1b", "\x07", "\r", "\x9b", "\u202e"}


def test_one_question_is_answered_side_by_side(finished_run, capsys):
    module.ask(finished_run, "What is 7?", [], None, 0)
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("plain", "sft", "rl", "adaptive"))
    assert shown.count("of them thinking") == 4

    for budget, least, words in ((-1, 0, "must be 0 or more"), (8, 9, "MIN_THINKING is 9, above BUDGET")):
        with pytest.raises(UserError, match=words):
            module.ask(finished_run, "What is 7?", [], budget, least)


def test_stages_are_those_that_have_been_run(finished_run, tmp_path):
    assert [stage.name for stage in select_stages(finished_run, ["rl", "plain"])] == ["plain", "rl"]
    with pytest.raises(UserError, match="stage 'cot' has not been run"):
        select_stages(finished_run, ["cot"])


def test_a_chat_chooses_stages_and_limits_and_survives_wrong_lines(finished_run, monkeypatch, capsys):
    lines = ["/stages sft", "/budget 3", "What is 7?", "/budget x", "/bugdet", "/stages cot", "", "/min-thinking 4"]
    lines += ["/budget", "/min-thinking 4", "/help", "/quit", "What is 8?"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    module.chat(finished_run, ["rl", "plain"], None, 0)

    shown = capsys.readouterr().out
    parts = re.split(r"^> .*\n", shown, flags=re.MULTILINE)[1:]
    turns = dict(zip(lines, parts, strict=False))
    completion = answer_alone(finished_run, "sft", "What is 7?", ThinkingLimits(max_tokens=3))
    assert turns["What is 7?"].startswith(f"\nsft\n{printable(completion.text)}\n")

    errors = {
        "/budget x": "/budget takes one whole number",
        "/bugdet": "did you mean /budget?",
        "/stages cot": "stage 'cot' has not been run",
        "/min-thinking 4": "at least 4, no maximum",
    }
    for line, words in errors.items():
        assert words in turns[line]
        assert turns[line].count("\n") == 1
    assert "MIN_THINKING is 4, above BUDGET (3)" in shown
    assert all(name in turns["/help"] for name in COMMANDS)
    assert "What is 8?" not in shown


def test_a_chat_without_a_line_is_refused(finished_run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(UserError, match="no question: give one"):
        module.chat(finished_run, [], None, 0)


# A chat whose answers never end by themselves.
ENDLESS = """
import pickle, sys
from pipeline import generate
from pipeline.tools import ask
generate.find_stop_ids = lambda *_: set()
run = pickle.load(open(sys.argv[1], "rb"))
run.recipe.eval.generation["max_new_tokens"] = 1500
ask.chat(run, ["sft"], None, 0)
"""


def test_ctrl_c_stops_the_answer_and_ctrl_d_the_chat(finished_run, tmp_path, root):
    (tmp_path / "run.pickle").write_bytes(pickle.dumps(finished_run))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path / "run.pickle")],
        cwd=root,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    seen = ""

    def read():
        assert select.select([ours], [], [], 60)[0], seen
        return os.read(ours, 4096).decode(errors="replace")

    def read_until(words):
        nonlocal seen
        while words not in seen:
            seen += read()
        seen = seen.partition(words)[2]

    read_until("> ")
    os.write(ours, b"What is 7?\r")
    read_until("sft")
    while len(seen) < 300:
        seen += read()
    os.write(ours, b"\x03")
    read_until("stopped")
    read_until("> ")

    os.write(ours, b"\x04")
    # The other side is gone at some point.
    with contextlib.suppress(OSError):
        while read():
            pass
    assert process.wait() == 0
    os.close(ours)
