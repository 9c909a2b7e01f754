"""Grading: no credit lost, none given, on hostile text too."""

import json
import re
import subprocess
import sys
import threading
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.build import load
from data.records import BadInput, Completion, Problem, read_grades, write_records
from data.splits import BENCHMARKS, SPLITS
from eval.grade import equal, grade, main, read_benchmark

LABEL = Problem("l", "q", "True", "label", ("True", "False"))
TEXT = Problem("t", "q", "wolf", "text")
CHOICE = Problem("c", "q", "cat", "text", ("wolf", "cat"))
FORMULA = Problem("f", "q", "x^2+1", "text")


def of(answer) -> Problem:
    return Problem("n", "q", str(answer), "number")


def verdict(problem, text, finish="stop"):
    result = grade(problem, Completion(problem.id, text, 1, 1, 1, finish))
    assert result.correct == (result.verdict == "correct")
    return result.verdict


PROBLEMS = [of(7), LABEL, TEXT, CHOICE, FORMULA]
PLACES = ["{}", "The answer is {}.", "<think>1 or no</think>\\boxed{{{}}}", "so 99, no\n**Answer:** {}\n"]


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.sampled_from(PLACES))
def test_a_number_is_correct_in_each_way_of_writing_it(n, place):
    sign = "-" if n < 0 else ""
    ways = [str(n), f"{n:,}", f"{n}.0", f"{n:,}.00", f"{sign}${abs(n)}", f"\u2212{-n}" if n < 0 else f"+{n}"]
    ways += [f"{n} apples", f"\\text{{{n} km}}", f"**{n}**", f"${n}$", f"x = {n}", f"{n}%", f"\\left({n}\\right)"]
    for way in ways:
        assert verdict(of(n), place.format(way)) == "correct", way
        assert verdict(of(n + 1), place.format(way)) == "wrong", way


def ways_of(problem: Problem) -> list[str]:
    """How the gold of a problem may be written."""
    gold, ways = problem.answer, [problem.answer, f" {problem.answer} ", f"**{problem.answer}**"]
    if problem.kind == "number":
        n = int(gold)
        ways += [f"{n:,}", f"{n}.0", f"${n}", f"\\text{{{n} dollars}}", f"{n} dollars", f"{n}/1"]
        ways += [f"{n:,}".replace(",", "{,}"), gold.translate({ord("0") + i: 0xFF10 + i for i in range(10)})]
        ways += [WORDS[n]] if n < len(WORDS) else []
        return ways
    ways += [gold.upper(), gold.lower(), f"the {gold}", f"\\text{{{gold}}}", f"{gold}."]
    letter = "ABCDEFGH"[list(problem.choices or ()).index(gold)]
    return [*ways, letter, f"({letter})", f"{letter}. {gold}"]


UP_TO_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty"""
WORDS = re.findall(r"\w+", UP_TO_TWENTY)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_gold_is_correct_in_each_way_it_may_be_written(benchmark, split):
    lost = [
        (problem.id, text)
        for problem in load(benchmark, split)
        for way in ways_of(problem)
        for text in (f"\\boxed{{{way}}}", f"<think>a step</think>\nThe answer is {way.strip()}")
        if verdict(problem, text) != "correct"
    ]
    assert lost == []


@settings(deadline=None)
@given(st.integers(-999, 999), st.integers(2, 99), st.sampled_from(PLACES))
def test_a_fraction_is_correct_in_each_way_of_writing_it(top, bottom, place):
    gold = Fraction(top, bottom)
    if gold.denominator == 1:
        return
    sign, top = ("-" if gold < 0 else ""), abs(top)
    whole, rest = divmod(top, bottom)
    ways = [f"{sign}{top}/{bottom}", f"{sign}\\frac{{{top}}}{{{bottom}}}", f"${sign}\\dfrac{{{top}}}{{{bottom}}}$"]
    ways += [f"{sign}{whole} {rest}/{bottom}", f"{sign}{whole}\\frac{{{rest}}}{{{bottom}}}"] if whole else []
    for way in ways:
        assert verdict(of(gold), place.format(way)) == "correct", way


@pytest.mark.parametrize("place", PLACES)
def test_labels_and_texts_are_correct_in_each_way_of_writing_them(place):
    for problem, ways in (
        (
            LABEL,
            ["True", "true", "TRUE", "yes", "**True**", "(A)", "(A) True", "\\text{True}", "the statement is true"],
        ),
        (CHOICE, ["cat", "The cat", "a Cat", "B", "(B)", "(B) cat", "option B", "\\textbf{cat}"]),
        (TEXT, ["wolf", "a wolf", "the Wolf", "*wolf*", "\\text{wolf}", '"wolf"']),
    ):
        for way in ways:
            assert verdict(problem, place.format(way)) == "correct", way
    for problem, way in (
        (LABEL, "False"),
        (LABEL, "no"),
        (LABEL, "(B)"),
        (CHOICE, "wolf"),
        (CHOICE, "A"),
        (TEXT, "cat"),
    ):
        assert verdict(problem, place.format(way)) == "wrong", way


@settings(deadline=None)
@given(st.integers(-99, 99), st.integers(-99, 99), st.text(alphabet="ab 1<>{}\\.", max_size=30))
def test_a_wrong_box_added_never_raises_the_grade(gold, other, text):
    if other == gold:
        return
    for before in (
        text,
        f"\\boxed{{{gold}}}{text}",
        f"<think>{text}</think>\\boxed{{{gold}}}",
        f"The answer is {gold}.",
    ):
        was = verdict(of(gold), before)
        assert verdict(of(gold), f"{before}\\boxed{{{other}}}") != "correct" or was == "correct"
    assert verdict(of(gold), f"\\boxed{{{gold}}} \\boxed{{{other}}}") == "wrong"
    assert verdict(of(gold), f"\\boxed{{{other}}} \\boxed{{{gold}}}") == "wrong"


@settings(deadline=None)
@given(st.integers(0, 99), st.text(max_size=20), st.sampled_from(["stop", "length"]))
def test_an_open_thought_is_no_answer_even_with_the_right_box_in_it(gold, noise, finish):
    noise = noise.replace("</think>", "")
    expected = "unclosed" if finish == "stop" else "truncated"
    assert verdict(of(gold), f"<think>{noise}\\boxed{{{gold}}} The answer is {gold}.\n", finish) == expected
    assert verdict(of(gold), f"<think>a</think>\\boxed{{{gold}}}<think>{noise}", finish) == expected


PIECES = [
    "\\boxed{",
    "}",
    "{",
    "<think>",
    "</think>",
    "answer is ",
    "7",
    ",",
    ".",
    " or ",
    "not ",
    "True",
    "cat",
    "B",
    "-",
]
PIECES += ["/", "\\frac", "$", "**", "^", "=", "\n", "e9", "\\text{", "\u0663", "\u00bd", "\ud800"]


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=25).map("".join)),
    st.sampled_from(["stop", "length"]),
    st.sampled_from(PROBLEMS),
)
def test_no_text_raises(text, finish, problem):
    assert verdict(problem, text, finish) in ("correct", "wrong", "no_answer", "unclosed", "truncated")


@pytest.mark.parametrize(
    "text",
    [
        "9" * 100_000,
        "\\boxed{" + "9" * 100_000 + "}",
        "\\boxed{" * 14_000,
        "\\boxed{" * 9_000 + "5" + "}" * 9_000,
        "{" * 50_000 + "}" * 50_000,
        "".join(f"\\boxed{{5 {'x' * (i % 7)}b}}" for i in range(7_000)),
        "\\boxed{1e999999999}",
        "1e999999999 " * 8_000,
        "answer is " * 10_000,
        ("answer is" + " " * 700) * 140,
        "\\boxed{" + "\\frac{1}{2}" * 9_000 + "}",
        "\\boxed{" + "true false " * 9_000 + "}",
        "\\boxed{" + "+ " * 45_000 + "}",
        "<think>" * 14_000,
        "1/" * 50_000,
        "111," * 25_000,
        "\n" * 100_000,
        "\\boxed{9^{9^{9^{9^{9}}}}}",
        "\\boxed{9^9^9^9^9}",
        "\\boxed{((9^{99})^{99})^{99}}",
        "\\boxed{99999999!}",
    ],
    ids=lambda text: text[:20],
)
def test_the_work_is_bounded_on_hostile_text(text):
    equal("x^2", "x", "text")  # the first call imports sympy
    for problem in PROBLEMS:
        start = time.perf_counter()
        assert verdict(problem, text) != "correct"
        assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "formula",
    ["9^{9^{9^9}}", "9^9^9", "9**9**9", "((9^{99})^{99}){99}^{99}^2", "9^{999}", "99999999!", "9" * 30, "x" * 201]
    + ["\\sum_{i=1}^{99} i", "\\binom{99}{9}", "\\input{x}", "{{{9^{99}}^{99}}^{99}}^{99}"],
)
def test_explosive_formulas_never_reach_math_verify(formula, monkeypatch):
    # Its timeout works in the main thread only, and not within one huge power.
    monkeypatch.setattr("math_verify.parse", lambda *_, **__: pytest.fail("parsed"))
    assert not equal("x^2", formula, "text")


def test_one_rule_for_texts_that_the_limit_cut():
    assert verdict(of(12), "It is \\boxed{12} and so", "length") == "correct"
    assert verdict(of(12), "The answer is 12. And so", "length") == "correct"
    assert verdict(of(12), "The answer is 12", "length") == "truncated"
    assert verdict(of(12), "It is 12", "length") == "truncated"
    assert verdict(of(12), "It is 12") == "correct"
    assert verdict(of(12), "</think>\\boxed{12", "length") == "truncated"


def test_nothing_readable_is_told_from_wrong():
    assert verdict(of(12), "") == verdict(of(12), "I cannot tell") == verdict(of(12), "\\boxed{many}") == "no_answer"
    assert verdict(LABEL, "\\boxed{maybe}") == "no_answer"
    assert verdict(of(12), "\\boxed{13}") == "wrong"


def test_guesses_and_copied_questions_earn_nothing():
    for text in ("\\boxed{12 or 13}", "\\boxed{12, 13}", "The answer is 12 or 13", "\\boxed{7 + 5}", "\\boxed{24/2}"):
        assert verdict(of(12), text) in ("wrong", "no_answer"), text
    for text in ("\\boxed{True or False}", "The answer is true or false.", "\\boxed{not true}"):
        assert verdict(LABEL, text) != "correct", text


def test_the_box_is_told():
    assert grade(of(5), Completion("n", "\\boxed{5}", 1, 0, 1, "stop")).boxed
    assert not grade(of(5), Completion("n", "5", 1, 0, 1, "stop")).boxed


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("50", "50%", True),
        ("0.5", "50%", False),
        ("50%", "50", True),
        ("1000000", "1e6", True),
        ("0.1", "0.10000000000000001", False),
    ],
)
def test_numbers_are_compared_exactly(gold, answer, same):
    assert equal(gold, answer, "number") is same


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("x^2+1", "1 + x^2", True),
        ("x^2+1", "x^2-1", False),
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("\\frac{14}{3}", "14/3", True),
        ("(1,2)", "[1,2]", False),
        ("p - q", "p-q", True),
        ("COVID-19", "covid-19", True),
    ],
)
def test_formulas_go_to_math_verify_in_any_thread(gold, answer, same):
    found = [equal(gold, answer, "text")]
    thread = threading.Thread(target=lambda: found.append(equal(gold, answer, "text")))
    thread.start()
    thread.join()
    assert found == [same, same]


def test_yes_is_true_only_for_labels():
    assert equal("yes", "true", "label") and equal("False", "no", "label", ("True", "False"))
    assert not equal("yes", "true", "text")
    assert not equal("valid", "true", "label")


@pytest.mark.parametrize(
    "bad", [Problem("p7", "q", "many", "number"), Problem("p7", "q", "dog", "label", ("cat", "wolf"))]
)
def test_a_gold_that_nothing_can_match_is_refused_by_its_line_and_id(tmp_path, bad):
    file = tmp_path / "mine.jsonl"
    write_records(file, [of(7), bad])
    with pytest.raises(BadInput, match=r"mine\.jsonl:2: .*'p7'"):
        read_benchmark(str(file))


BENCHMARK = [{"id": "a", "question": "q", "answer": 4}, {"id": "b", "question": "q", "answer": "yes"}]


def completions(*ids):
    counts = {"prompt_tokens": 1, "thinking_tokens": 0, "answer_tokens": 1, "finish": "stop"}
    return [{"id": identity, "text": "\\boxed{4}"} | counts for identity in ids]


def run(folder, benchmark, written):
    for name, records in (("bench", benchmark), ("completions", written)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    files = [str(folder / f"{name}.jsonl") for name in ("bench", "completions", "out")]
    return ["--benchmark", files[0], "--completions", files[1], "--out", files[2]], folder / "out.jsonl"


def test_the_command_line_writes_the_grades(tmp_path):
    arguments, out = run(tmp_path, BENCHMARK, completions("b", "a"))
    done = subprocess.run([sys.executable, "-m", "eval.grade", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search("1 of 2 correct", done.stdout) and done.stdout.count("\n") == 1
    assert [(g.id, g.correct, g.verdict) for g in read_grades(out)] == [("a", True, "correct"), ("b", False, "wrong")]


@pytest.mark.parametrize(
    ("benchmark", "written", "says"),
    [
        (BENCHMARK, completions("a"), "no completion"),
        (BENCHMARK, completions("a", "b", "z"), "'z'"),
        (BENCHMARK, completions("a", "a"), "unique"),
        (BENCHMARK, [], "no records"),
        ([{"id": "a", "question": "q", "answer": "many", "kind": "number"}], completions("a"), "'a'"),
    ],
)
def test_bad_files_end_in_one_line_and_status_two(tmp_path, capsys, benchmark, written, says):
    arguments, out = run(tmp_path, benchmark, written)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error
    assert not out.exists()
