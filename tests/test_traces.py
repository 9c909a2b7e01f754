"""Traces: every source gives the same record, and nothing wrong, long, twice told or held out is among them."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from data.build import load
from data.records import BadInput, Problem, read_problems, write_records
from data.traces import STYLES, marked_steps, restyled
from eval.errors import steps, wrong_step
from pipeline import traces
from pipeline.prompts import thinking_answer
from pipeline.recipe import SftSettings, TracesSettings
from pipeline.traces import Candidate, Texts

SUM = Problem("s1", "What is 92 - 88?", "4", "number", family="expression", level=2, rationale="92 - 88 = 4")
WORD = Problem("w1", "Ann has 9 pens and buys 3. How many?", "12", "number", family="word", level=1)
GOOD = "<think>\n9 + 3 = 12\n</think>\n\\boxed{12}"


def verified(candidates, **changes):
    asked = {"length": len, "max_tokens": 1000, "each": 2, "held": [], "balanced": False}
    return traces.verified(candidates, "test", **(asked | changes))


@pytest.mark.parametrize("style", STYLES)
def test_every_generated_solution_is_a_good_trace_in_every_style(style):
    problems = load("arithmetic_v1", "train")[:400] + load("logic_v1", "train")[:200]
    kept, account = verified(traces.generated(problems, style))
    assert len(kept) == sum(p.rationale is not None for p in problems) - account["dropped"].get("no steps", 0)
    assert len(kept) > 550 and set(account["dropped"]) <= {"no steps"}


def test_the_long_style_names_an_operation_then_works_it_place_by_place():
    program = [["*", 7, 17, 119], ["-", 166, 119, 47], ["+", 47, 3, 50]]
    short = "10 * 7 = 70\n7 * 7 = 49\nDollars: 70 + 49 = 119\nNeeded: 166 - 119 = 47\nIn all: 47 + 3 = 50"
    problem = replace(WORD, rationale=short, extra={"program": program})
    assert restyled(problem, "long").split("\n") == [
        *("Dollars: 7 * 17", "10 * 7 = 70", "7 * 7 = 49", "70 + 49 = 119"),
        *("Needed: 166 - 119", "166 - 100 = 66", "66 - 10 = 56", "56 - 9 = 47"),
        "In all: 47 + 3 = 50",
    ]
    assert restyled(replace(SUM, extra={"program": [["-", 92, 88, 4]]}), "long") == "92 - 88\n92 - 80 = 12\n12 - 8 = 4"
    assert restyled(replace(SUM, rationale="a: 1 + 1 = 2\nSo it is."), "prose") == "a: 1 + 1 = 2. So it is."
    assert restyled(problem, "short") == short


def test_calculator_marks_become_steps():
    told = "She sold 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = <<48+24=72>>72 clips."
    assert marked_steps(told) == "48 / 2 = 24\n48 + 24 = 72"
    assert [right for *_, right in steps(marked_steps(told))] == [True, True]
    assert marked_steps("No marks.\nAt all.") == "No marks.\nAt all."


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        (GOOD, "stop", None),
        ("9 + 3 = 12\nThe answer is \\boxed{12}", "stop", None),
        ("9 + 3 = 12\nThe answer is 12.", "stop", None),
        ("<think>\n9 + 3 = 11\n</think>\n\\boxed{11}", "stop", "a wrong answer"),
        ("<think>\n9 + 3 = 11\n11 + 1 = 12\n</think>\n\\boxed{12}", "stop", "a wrong step"),
        ("<think>\n9 - 3 = 6\n</think>\n\\boxed{12}", "stop", "steps that end elsewhere"),
        ("<think></think>\n\\boxed{12}", "stop", "no steps"),
        ("<think>\n9 + 3 = 12", "stop", "no answer (unclosed)"),
        ("<think>\n9 + 3 = 12", "length", "no answer (truncated)"),
    ],
)
def test_a_text_is_kept_only_where_answer_and_steps_are_right(text, finish, reason):
    kept, account = verified([Candidate(WORD, text, finish)])
    assert account["dropped"] == ({} if reason is None else {reason: 1})
    if reason is None:
        assert kept[0].rationale == "9 + 3 = 12" and kept[0].extra["source"] == "test"


def test_what_is_long_told_twice_too_often_or_held_out_is_dropped_and_counted():
    other = "<think>\n3 + 9 = 12\n</think>\n\\boxed{12}"
    third = "<think>\n10 + 3 = 13\n13 - 1 = 12\n</think>\n\\boxed{12}"
    words = "<think>\nIn all: 9 + 3 = 12\n</think>\n\\boxed{12}"
    kept, account = verified([Candidate(WORD, text) for text in (GOOD, words, other, third)])
    assert [trace.id for trace in kept] == ["w1", "w1#2"]
    assert account["dropped"] == {"a path that is there already": 1, "more than 2 of a problem": 1}
    assert verified([Candidate(WORD, GOOD)], max_tokens=20)[1]["dropped"] == {"more than 20 tokens": 1}
    held = replace(WORD, id="t1", question=WORD.question.replace("Ann", "Bob"))
    assert verified([Candidate(WORD, GOOD)], held=[held])[1]["dropped"] == {"a problem that is held out": 1}


def test_balanced_traces_are_of_no_level_more_than_its_share():
    many = [replace(WORD, id=f"p{i}", question=f"{i} and?", level=1 + (i >= 20) + (i >= 26)) for i in range(30)]
    kept, account = verified([Candidate(p, GOOD) for p in many], balanced=True)
    assert account["levels"] == {"1": 10, "2": 6, "3": 4} and account["dropped"] == {"beyond its level's share": 10}
    assert Counter(t.level for t in kept) == {1: 10, 2: 6, 3: 4}


def test_steps_before_a_box_on_the_same_line_are_kept():
    assert traces.steps_of("9 + 3 = 12, so \\boxed{12}") == "9 + 3 = 12, so"
    assert traces.steps_of("9 + 3 = 12\nSo it is \\boxed{12}") == "9 + 3 = 12"


def test_a_file_of_traces_has_a_name_of_its_own():
    named = ["short", "own", "gsm8k?split=test", "gsm8k", "a/short.jsonl", "a/teacher.jsonl", "teacher"]
    named += ["teacher.jsonl", "short.jsonl", "own_sft.jsonl", "a/b.jsonl", "a_b.jsonl", "a/b"]
    assert len({traces.file_name(source, "sft") for source in named}) == len(named)


def test_the_traces_of_a_data_set_are_its_rationales(tmp_path):
    rows = [
        {"id": "a", "question": "Half of 48?", "answer": "It is <<48/2=24>>24\n#### 24"},
        {"id": "b", "question": "Half of 46?", "answer": "It is <<46/2=24>>24\n#### 24"},
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    name, found = traces.of_data_set(f"gsm8k?file={path}")
    kept, account = verified(found)
    assert name == "gsm8k" and [t.rationale for t in kept] == ["48 / 2 = 24"]
    assert account["dropped"] == {"a wrong step": 1}
    path.write_text('{"id": "a", "question": "Half of 48?", "answer": "24"}\n')
    with pytest.raises(BadInput, match="no problem of it has a rationale"):
        traces.of_data_set(str(path))


SETTINGS = TracesSettings(samples=3, max_tokens=8, temperature=1.0)


def test_sampling_goes_on_where_it_was_interrupted_and_ends_the_same(tiny, tmp_path, monkeypatch):
    problems = load("arithmetic_v1", "train")[:10]
    monkeypatch.setattr(traces, "CHUNK", 8)

    def sampled(file):
        return traces.own(*tiny, "adapter", problems, SETTINGS, 0, Texts(file), lambda *_: None)

    whole = sampled(tmp_path / "whole.jsonl")
    assert len(whole) == 30
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_bytes(b"".join(lines[:16]) + lines[16][:20])
    asked = []
    from pipeline import generate

    original = generate.generate
    monkeypatch.setattr(generate, "generate", lambda *a, **k: asked.append(len(a[2])) or original(*a, **k))
    assert sampled(tmp_path / "cut.jsonl") == whole and asked == [8, 6]
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_rationalisation_asks_again_with_the_answer_where_none_was_right(tiny, tmp_path, monkeypatch):
    from pipeline import generate

    asked: list[str] = []

    def answers(model, tokenizer, prompts, **_):
        asked.extend(tokenizer.decode(p) for p in prompts)
        ids = tokenizer(GOOD, add_special_tokens=False)["input_ids"]
        return [generate.Sample(list(ids), finish="stop") for _ in prompts]

    monkeypatch.setattr(generate, "generate", answers)
    other = replace(WORD, id="w2", question="Ann has 9 pens and buys 5. How many?", answer="14")
    found = traces.own(
        *tiny,
        "a",
        [WORD, other],
        replace(SETTINGS, samples=1, rationalise=True),
        0,
        Texts(tmp_path / "r"),
        lambda *_: None,
    )
    assert len(asked) == 3 and "(The answer is 14.)" in asked[2] and "(The answer" not in asked[1]
    assert [c.problem for c in found] == [WORD, other, other]  # without the hint


def test_a_mixture_takes_each_source_by_its_weight(tmp_path):
    problems = load("arithmetic_v1", "train")[:200]
    own = [replace(SUM, id=f"o{i}", extra={"source": "own"}) for i in range(60)]
    path = tmp_path / "own.jsonl"
    write_records(path, own)
    mixed = traces.mixture(problems, SftSettings(traces=["short:2", "long", f"{path}:1"]), 0)
    assert len(mixed) == 200 and sum(t.extra.get("source") == "own" for t in mixed) == 50
    assert len({t.id for t in mixed}) == 200
    changed = sum(t.rationale != p.rationale for t, p in zip(mixed, problems, strict=True) if t.id == p.id)
    assert changed > 5
    assert traces.mixture(problems, SftSettings(), 0) == problems
    for wrong, says in (
        (["shrt"], "is no style"),
        (["short:-1", "long:2"], "'short:-1' is no style"),
        ([f"{path}:1", "short:1"], "100 traces of .* are asked for, it has 60"),
        (["short:0"], "no source with a weight"),
    ):
        with pytest.raises(BadInput, match=says):
            traces.mixture(problems, SftSettings(traces=wrong), 0)
    write_records(path, [replace(SUM, rationale="92 - 88 = 5\n5 - 1 = 4")])
    with pytest.raises(BadInput, match="s1 has a wrong step; `make traces SOURCE="):
        traces.mixture(problems[:1], SftSettings(traces=[str(path)]), 0)


def test_a_trace_record_is_a_problem_with_its_rationale_and_its_source(tmp_path):
    kept, _ = verified([Candidate(WORD, GOOD)])
    write_records(tmp_path / "t.jsonl", kept)
    [back] = read_problems(tmp_path / "t.jsonl")
    assert (back.question, back.answer, back.rationale, back.extra) == (
        WORD.question,
        "12",
        "9 + 3 = 12",
        {"source": "test"},
    )
    assert wrong_step(back, thinking_answer(back.rationale or "", back.answer)) is None


def test_what_a_model_wrote_does_not_reach_the_terminal_as_it_is(tmp_path, capsys):
    from pipeline import __main__ as command_line

    hostile = Problem("a", "9 + 3?", "12", "number", rationale="9 + 3 = 12 \x1b]0;owned\x07\x1b[2J")
    write_records(tmp_path / "traces" / "short.jsonl", [hostile])
    options = SimpleNamespace(command="show-traces", source="short", stage="sft", count=1)
    command_line.make_or_show_traces(SimpleNamespace(root=tmp_path), options)
    shown = capsys.readouterr().out
    assert "9 + 3 = 12 \\x1b]0;owned\\x07\\x1b[2J" in shown and not set(shown) & {"\x1b", "\x07"}
