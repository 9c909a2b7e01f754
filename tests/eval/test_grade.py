"""Grading: no credit lost, none given, on hostile text too."""

import re
import subprocess
import sys
import threading
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.datasets import BENCHMARKS, load
from data.files import UserError, write_jsonl
from data.problem import VERDICTS, Completion, Problem, read_grades, write_records
from eval import equivalence
from eval.grade import grade, is_equal, load_benchmark, main

LABEL = Problem("l", "q", "True", "label", ("True", "False"))
TEXT = Problem("t", "q", "wolf", "text")
CHOICE = Problem("c", "q", "cat", "text", ("wolf", "cat"))
FORMULA = Problem("f", "q", "x^2+1", "text")


def number_problem(answer) -> Problem:
    return Problem("n", "q", str(answer), "number")


def get_verdict(problem, text, finish="stop"):
    result = grade(problem, Completion(problem.id, text, 1, 1, 1, finish))

    assert result.correct == (result.verdict == "correct")
    return result.verdict


PROBLEMS = [number_problem(7), LABEL, TEXT, CHOICE, FORMULA]
PLACES = ["{}", "The answer is {}.", "<think>1 or no</think>\\boxed{{{}}}", "so 99, no\n**Answer:** {}\n"]


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.sampled_from(PLACES))
def test_a_number_is_correct_in_each_way_of_writing_it(n, place):
    sign = "-" if n < 0 else ""
    ways = [str(n), f"{n:,}", f"{n}.0", f"{n:,}.00", f"{sign}${abs(n)}"]
    ways += [f"\u2212{-n}" if n < 0 else f"+{n}"]
    ways += [f"{n} apples", f"\\text{{{n} km}}", f"**{n}**", f"${n}$", f"x = {n}", f"{n}%", f"\\left({n}\\right)"]

    for way in ways:
        assert get_verdict(number_problem(n), place.format(way)) == "correct", way
        assert get_verdict(number_problem(n + 1), place.format(way)) == "wrong", way


UP_TO_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty"""


def list_ways(problem: Problem) -> list[str]:
    """How the gold of a problem may be written."""
    gold = problem.answer
    ways = [gold, f" {gold} ", f"**{gold}**"]

    if problem.kind == "number":
        n = int(gold)
        ways += [f"{n:,}", f"{n}.0", f"${n}", f"\\text{{{n} dollars}}", f"{n} dollars", f"{n}/1"]
        ways += [f"{n:,}".replace(",", "{,}")]
        ways += [gold.translate({ord("0") + i: 0xFF10 + i for i in range(10)})]  # full-width digits
        words = UP_TO_TWENTY.split()
        return ways + words[n : n + 1]

    letter = "ABCDEFGH"[list(problem.choices or ()).index(gold)]
    ways += [gold.upper(), gold.lower(), f"the {gold}", f"\\text{{{gold}}}", f"{gold}."]
    return ways + [letter, f"({letter})", f"{letter}. {gold}"]


@pytest.mark.parametrize(("split", "n"), [("train", 400), ("dev", None), ("test", None)])
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_gold_is_correct_in_each_way_it_may_be_written(benchmark, split, n):
    lost = []
    for problem in load(benchmark, split, n).problems:
        for way in list_ways(problem):
            texts = [f"\\boxed{{{way}}}", f"<think>a step</think>\nThe answer is {way.strip()}"]
            lost += [(problem.id, text) for text in texts if get_verdict(problem, text) != "correct"]
    assert lost == []


@settings(deadline=None)
@given(st.integers(-999, 999), st.integers(2, 99), st.sampled_from(PLACES))
def test_a_fraction_is_correct_in_each_way_of_writing_it(top, bottom, place):
    gold = Fraction(top, bottom)
    if gold.denominator == 1:
        return

    sign = "-" if gold < 0 else ""
    top = abs(top)
    whole, rest = divmod(top, bottom)
    ways = [f"{sign}{top}/{bottom}", f"{sign}\\frac{{{top}}}{{{bottom}}}", f"${sign}\\dfrac{{{top}}}{{{bottom}}}$"]
    if whole:
        ways += [f"{sign}{whole} {rest}/{bottom}", f"{sign}{whole}\\frac{{{rest}}}{{{bottom}}}"]

    for way in ways:
        assert get_verdict(number_problem(gold), place.format(way)) == "correct", way


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("problem", "ways"),
    [
        (LABEL, ["True", "true", "TRUE", "yes", "**True**", "(A)", "(A) True", "\\text{True}"]),
        (LABEL, ["the statement is true"]),
        (CHOICE, ["cat", "The cat", "a Cat", "B", "(B)", "(B) cat", "option B", "\\textbf{cat}"]),
        (TEXT, ["wolf", "a wolf", "the Wolf", "*wolf*", "\\text{wolf}", '"wolf"']),
    ],
)
def test_labels_and_texts_are_correct_in_each_way_of_writing_them(problem, ways, place):
    for way in ways:
        assert get_verdict(problem, place.format(way)) == "correct", way


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("problem", "ways"),
    [(LABEL, ["False", "no", "(B)"]), (CHOICE, ["wolf", "A"]), (TEXT, ["cat"])],
)
def test_other_labels_and_texts_are_wrong(problem, ways, place):
    for way in ways:
        assert get_verdict(problem, place.format(way)) == "wrong", way


@settings(deadline=None)
@given(st.integers(-99, 99), st.integers(-99, 99), st.text(alphabet="ab 1<>{}\\.", max_size=30))
def test_a_wrong_box_added_never_raises_the_grade(gold, other, noise):
    if other == gold:
        return
    problem = number_problem(gold)

    texts = [noise, f"\\boxed{{{gold}}}{noise}", f"<think>{noise}</think>\\boxed{{{gold}}}", f"The answer is {gold}."]
    for text in texts:
        if get_verdict(problem, text) != "correct":
            assert get_verdict(problem, f"{text}\\boxed{{{other}}}") != "correct"

    assert get_verdict(problem, f"\\boxed{{{gold}}} \\boxed{{{other}}}") == "wrong"
    assert get_verdict(problem, f"\\boxed{{{other}}} \\boxed{{{gold}}}") == "wrong"


@settings(deadline=None)
@given(st.integers(0, 99), st.text(max_size=20), st.sampled_from(["stop", "length"]))
def test_an_open_thought_is_no_answer_even_with_the_right_box_in_it(gold, noise, finish):
    noise = noise.replace("</think>", "")
    problem = number_problem(gold)
    expected = "unclosed" if finish == "stop" else "truncated"

    assert get_verdict(problem, f"<think>{noise}\\boxed{{{gold}}} The answer is {gold}.\n", finish) == expected
    assert get_verdict(problem, f"<think>a</think>\\boxed{{{gold}}}<think>{noise}", finish) == expected


PIECES = ["\\boxed{", "}", "{", "<think>", "</think>", "answer is ", "7", ",", ".", " or ", "not ", "True", "cat", "B"]
PIECES += ["-", "/", "\\frac", "$", "**", "^", "=", "\n", "e9", "\\text{", "\u0663", "\u00bd", "\ud800"]


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=25).map("".join)),
    st.sampled_from(["stop", "length"]),
    st.sampled_from(PROBLEMS),
)
def test_no_text_raises(text, finish, problem):
    assert get_verdict(problem, text, finish) in VERDICTS


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
        "\\boxed{5" + " " * 50_000 + "x}",
        ("The answer is 5 (" + "1+" * 143 + "\n") * 40,
    ],
    ids=lambda text: text[:20],
)
@pytest.mark.timeout(60)
def test_the_work_is_bounded_on_hostile_text(text):
    for problem in PROBLEMS:
        assert get_verdict(problem, text) != "correct"


@pytest.mark.parametrize(
    "formula",
    [
        "9^{9^{9^9}}",
        "9^9^9",
        "9**9**9",
        "((9^{99})^{99}){99}^{99}^2",
        "9^{999}",
        "99999999!",
        "9" * 30,
        "x" * 201,
        "\\sum_{i=1}^{99} i",
        "\\binom{99}{9}",
        "\\input{x}",
        "{{{9^{99}}^{99}}^{99}}^{99}",
    ],
)
def test_explosive_formulas_cost_little(formula, monkeypatch):
    evaluated = []
    evaluate = equivalence._Point._evaluate

    def count(self, node):
        evaluated.append(node)
        return evaluate(self, node)

    monkeypatch.setattr(equivalence._Point, "_evaluate", count)
    assert not is_equal("x^2", formula, "text")
    assert len(evaluated) <= 2 * len(equivalence.POINTS) * equivalence.MAX_NODES


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("It is \\boxed{12} and so", "length", "correct"),
        ("The answer is 12. And so", "length", "correct"),
        ("The answer is 12", "length", "truncated"),
        ("It is 12", "length", "truncated"),
        ("It is 12", "stop", "correct"),
        ("</think>\\boxed{12", "length", "truncated"),
        ("", "stop", "no_answer"),
        ("I cannot tell", "stop", "no_answer"),
        ("\\boxed{many}", "stop", "no_answer"),
        ("\\boxed{13}", "stop", "wrong"),
    ],
)
def test_the_verdict_depends_on_what_was_complete_and_can_be_read(text, finish, expected):
    assert get_verdict(number_problem(12), text, finish) == expected


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("7", "It is not 6, so the answer is 7."),
        ("7", "I don't know why, but the answer is 7."),
        ("8", "Suppose the answer is 7. Then 7 + 2 = 9, a contradiction. So it is 8."),
        ("7", "The answer is 7. I checked, and the answer is correct."),
        ("7", "The answer is 7, i.e. 3 + 4."),
        ("7", "The answer is approx. 7."),
        ("7", "\\boxed{7} apples, not 6 or 8."),
        ("7", "| total | \\boxed{7} |"),
        ("St. Louis", "The answer is St. Louis."),
        ("[0,100]", "\\boxed{[0, 100]}"),
        ("1990-1995", "\\boxed{1990–1995}"),
        ("2-1", "\\boxed{\\text{2-1}.}"),
        ("p → q", "\\boxed{p -> q}"),
        ("p ↔ q", "\\boxed{p \\Leftrightarrow q}"),
    ],
)
def test_an_answer_counts_in_these_surroundings_too(gold, text):
    kind = "number" if gold.isdigit() else "text"
    assert get_verdict(Problem("p", "q", gold, kind), text) == "correct"


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("7", "I don't think that the answer is 7."),
        ("7", "It is not true that the answer is 7."),
        ("7", "Check whether the answer is 7."),
        ("7", "Try 7. But 7 doesn't work."),
        ("7", "It can't be \\boxed{7}."),
        ("7", "It isn’t \\boxed{7}."),
        ("7", "\\boxed{7} / 8"),
        ("[0,100]", "\\boxed{100}"),
        ("4 2 7", "\\boxed{7 2 4}"),
        ("4 2 7", "\\boxed{56}"),
        ("10.0.0.1", "\\boxed{10.0.0.2}"),
        ("02/01/2015", "\\boxed{04/02/2015}"),
        ("x^2", "\\boxed{2" + 300 * "!" + "} and \\boxed{3" + 300 * "!" + "}"),
    ],
)
def test_what_denies_an_answer_or_only_looks_like_it_earns_nothing(gold, text):
    kind = "number" if gold.isdigit() else "text"
    assert get_verdict(Problem("p", "q", gold, kind), text) != "correct"


def test_a_label_that_is_no_choice_is_no_answer():
    assert get_verdict(LABEL, "\\boxed{maybe}") == "no_answer"


@pytest.mark.parametrize(
    "text", ["\\boxed{12 or 13}", "\\boxed{12, 13}", "The answer is 12 or 13", "\\boxed{7 + 5}", "\\boxed{24/2}"]
)
def test_guesses_and_copied_questions_earn_nothing(text):
    assert get_verdict(number_problem(12), text) in ("wrong", "no_answer")


@pytest.mark.parametrize("text", ["\\boxed{True or False}", "The answer is true or false.", "\\boxed{not true}"])
def test_several_labels_earn_nothing(text):
    assert get_verdict(LABEL, text) != "correct"


def test_the_grade_says_whether_there_was_a_box():
    problem = number_problem(5)

    assert grade(problem, Completion("n", "\\boxed{5}", 1, 0, 1, "stop")).boxed
    assert not grade(problem, Completion("n", "5", 1, 0, 1, "stop")).boxed


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
    assert is_equal(gold, answer, "number") is same


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
        ("2:3", "2 : 3", True),
        ("2:3", "2{:}3", True),
        ("2:3", "(2,3)", False),
        ("2:3", "2, 3", False),
        ("10:30", "10,30", False),
        ("10:30 am", "10:30 AM.", True),
    ],
)
def test_formulas_are_compared_in_any_thread(gold, answer, same):
    verdicts = [is_equal(gold, answer, "text")]
    thread = threading.Thread(target=lambda: verdicts.append(is_equal(gold, answer, "text")))
    thread.start()
    thread.join()

    assert verdicts == [same, same]


def test_yes_is_true_only_for_labels():
    assert is_equal("yes", "true", "label")
    assert is_equal("False", "no", "label", ("True", "False"))
    assert not is_equal("yes", "true", "text")
    assert not is_equal("valid", "true", "label")


@pytest.mark.parametrize(
    "bad", [Problem("p7", "q", "many", "number"), Problem("p7", "q", "dog", "label", ("cat", "wolf"))]
)
def test_a_gold_that_nothing_can_match_is_refused_by_its_line_and_id(tmp_path, bad):
    file = tmp_path / "mine.jsonl"
    write_records(file, [number_problem(7), bad])

    with pytest.raises(UserError, match=r"mine\.jsonl:2: .*'p7'"):
        load_benchmark(str(file))


BENCHMARK = [{"id": "a", "question": "q", "answer": 4}, {"id": "b", "question": "q", "answer": "yes"}]


def make_completions(*ids):
    counts = {"prompt_tokens": 1, "thinking_tokens": 0, "answer_tokens": 1, "finish": "stop"}
    return [{"id": identity, "text": "\\boxed{4}"} | counts for identity in ids]


def write_inputs(folder, benchmark, completions):
    """Write both files; returns the arguments of the command, which writes out.jsonl."""
    write_jsonl(folder / "bench.jsonl", benchmark)
    write_jsonl(folder / "completions.jsonl", completions)

    arguments = []
    for option, name in (("--benchmark", "bench"), ("--completions", "completions"), ("--out", "out")):
        arguments += [option, str(folder / f"{name}.jsonl")]
    return arguments


def test_the_command_line_writes_the_grades(tmp_path, root):
    arguments = write_inputs(tmp_path, BENCHMARK, make_completions("b", "a"))

    done = subprocess.run(
        [sys.executable, "-m", "eval.grade", *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    grades = read_grades(tmp_path / "out.jsonl")

    assert (done.returncode, done.stderr) == (0, "")
    assert re.search("1 of 2 correct", done.stdout)
    assert done.stdout.count("\n") == 1
    assert [(g.id, g.correct, g.verdict) for g in grades] == [("a", True, "correct"), ("b", False, "wrong")]


def test_the_grades_go_to_the_next_command(tmp_path, root):
    arguments = [*write_inputs(tmp_path, BENCHMARK, make_completions("b", "a"))[:-1], "/dev/stdout"]
    command = [sys.executable, "-m", "eval.grade", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)

    (tmp_path / "out.jsonl").write_text(done.stdout)
    assert [grade.id for grade in read_grades(tmp_path / "out.jsonl")] == ["a", "b"]
    assert "1 of 2 correct" in done.stderr


@pytest.mark.parametrize(
    ("benchmark", "completions", "message"),
    [
        (BENCHMARK, make_completions("a"), "no completion"),
        (BENCHMARK, make_completions("a", "b", "z"), "'z'"),
        (BENCHMARK, make_completions("a", "a"), "unique"),
        (BENCHMARK, [], "no records"),
        ([{"id": "a", "question": "q", "answer": "many", "kind": "number"}], make_completions("a"), "'a'"),
    ],
)
def test_bad_files_end_in_one_line_and_status_two(tmp_path, capsys, benchmark, completions, message):
    arguments = write_inputs(tmp_path, benchmark, completions)

    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out.jsonl").exists()
