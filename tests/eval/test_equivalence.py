"""Formulas: what is equal, what is told apart, and that no verdict depends on time."""

import random
import subprocess
import sys
import threading

import pytest

from data.problem import Completion, Problem
from eval.equality import compare_answers
from eval.grade import grade

SAME = [
    ("x+y=5", "5=x+y"),
    ("x+y=5", "2x+2y=10"),
    ("x+y=5", "y=5-x"),
    ("3x-y+13=0", "y=3x+13"),
    ("x=5", "5"),
    ("x<5", "5>x"),
    ("x<5", "2x<10"),
    ("1<x<3", "3>x>1"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("1,2", "2, 1"),
    ("(-\\infty,2]\\cup[3,\\infty)", "[3,\\infty)\\cup(-\\infty,2]"),
    ("x\\in[1,2]", "[1,2]"),
    ("p ∧ q", "q \\land p"),
    ("±3", "\\pm 3"),
    ("x=±3", "x=3 or x=-3"),
    ("3 m", "3 meters"),
    ("3 m", "3"),
    ("10\\sqrt{2}\\text{ cm}", "10\\sqrt{2}"),
    ("2\\sqrt{3}", "\\sqrt{12}"),
    ("\\sqrt{2}", "√2"),
    ("(x+1)^2", "x^2+2x+1"),
    ("\\frac{1}{2^{99}}", "2^{-99}"),
    ("\\sin^2 x+\\cos^2 x", "1+0x"),
    ("\\sqrt[3]{8}x", "2x"),
    ("\\log_2 8+x", "x+3"),
    ("e^{i\\pi}+x", "x-1"),
    ("\\binom{5}{2}x", "10x"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
    ("(a+b+c+d)^{60}", "(d+c+b+a)^{60}"),
    ("1\\frac{1}{2}", "\\frac32"),
    ("|x-1|", "|1-x|"),
    ("2|x|", "|-2x|"),
    ("|x||y|", "|xy|"),
    ("||x|-1|", "\\left|1-\\left|x\\right|\\right|"),
    ("\\lvert x\\rvert+|(|y|)|", "|x|+|y|"),
    ("|x-2|<3", "3>|2-x|"),
    ("|-5|x", "5x"),
    ("\\sqrt{x-3}", "(x-3)^{1/2}"),
    ("e^{2x}", "(e^x)^2"),
    ("\\sin(e^{2x})", "\\sin((e^x)^2)"),
    ("\\arcsin x", "-\\arcsin(-x)"),
]

DIFFERENT = [
    ("x+y=5", "5"),
    ("x+y=5", "x+y"),
    ("x+y=5", "x-y=5"),
    ("2x-y+3z-4=0", "x+y+z=0"),
    ("y=2x+3", "2x+3"),
    ("x=5", "y=5"),
    ("x=3 and y=4", "x=3 or y=4"),
    ("x<5", "x>5"),
    ("x\\le 5", "x<5"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "\\{1,2\\}"),
    ("(1,2)", "1,2"),
    ("\\{1,2\\}", "1,2"),
    ("[1,2]", "[1,2)"),
    ("[1,2]\\cup[3,4]", "[1,2]\\cap[3,4]"),
    ("[1,2]\\cup[3,4]", "[1,2],[3,4]"),
    ("p ∧ q", "p ∨ q"),
    ("p → q", "q → p"),
    ("¬p", "p"),
    ("~p", "p"),
    ("±3", "3"),
    ("√2", "2"),
    ("f'(x)", "f(x)"),
    ("C#", "C"),
    ("3 km", "3 m"),
    ("12_3", "12_4"),
    ("\\frac{1}{2^{99}}", "\\frac{1}{2^{98}}"),
    ("2^{2007}", "2^{2006}"),
    ("10^{70}+1", "10^{70}"),
    ("x+10^{-150}", "x"),
    ("|x|", "x"),
    ("\\sqrt{x^2}", "x"),
    *((f"\\sqrt{{{name}^2}}", name) for name in "abcdfghjklmnopqrstuvwxyz"),
    ("\\sqrt{(x-3)^2}", "3-x"),
    ("\\arcsin(\\sin x)", "x"),
    ("|x|y|", "|x|y"),
    ("(a+b+c+d)^{60}", "(a+b+c+d)^{60}+1"),
    ("wolf", "flow"),
]

# Beyond the bounds: the size of a value, the length or the depth of the text, what the parser does not know.
BEYOND = [
    ("9^{9^{9^9}}", "9^{9^{9^8}}"),
    ("2^{2007}", "2 \\cdot 2^{2006}"),
    ("x^2", "+".join(["x"] * 300)),
    ("x^2", "(" * 60 + "x" + ")" * 60),
    ("\\sum_{i=1}^{9} i", "45"),
    ("99999999!", "99999998!"),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_equal_formulas(gold, answer):
    assert compare_answers(gold, answer, "text") is True
    assert compare_answers(answer, gold, "text") is not False


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_formulas_that_are_told_apart(gold, answer):
    # "Not equal" and "cannot be decided" both earn nothing.
    assert compare_answers(gold, answer, "text") is not True
    assert compare_answers(answer, gold, "text") is not True
    assert compare_answers(gold, gold, "text") is True


@pytest.mark.parametrize(("gold", "answer"), BEYOND)
def test_what_is_beyond_the_bounds_is_undecided(gold, answer):
    assert compare_answers(gold, answer, "text") is None
    assert (
        grade(Problem("p", "q", gold, "text"), Completion("p", f"\\boxed{{{answer}}}", 0, 0, 0, "stop")).verdict
        == "undecided"
    )
    assert compare_answers(gold, gold, "text") is True


def test_a_number_is_not_equal_to_a_question_about_it():
    for answer in ("3+4", "14/2", "7!", "x+7"):
        assert compare_answers("7", answer, "text") is False


def test_equations_are_equal_up_to_a_factor_and_never_by_one_side():
    rng = random.Random(22)
    for _ in range(60):
        a, b, c = (rng.choice([-1, 1]) * rng.randrange(2, 20) for _ in range(3))
        factor = rng.choice([-3, -1, 2, 5])
        gold = f"{a}x+{b}y={c}".replace("+-", "-")
        scaled = f"{a * factor}x+{b * factor}y={c * factor}".replace("+-", "-")

        assert compare_answers(gold, scaled, "text") is True
        assert compare_answers(gold, f"{c}={a}x+{b}y".replace("+-", "-"), "text") is True
        for near_miss in (f"{c}", f"{a}x+{b}y", f"{a}x-{b}y={c}", f"{a + 1}x+{b}y={c}", f"{a}x+{b}y={c + 1}", f"x={c}"):
            assert compare_answers(gold, near_miss.replace("+-", "-").replace("--", "+"), "text") is False, near_miss


def test_structures_of_the_same_parts_are_told_apart():
    rng = random.Random(22)
    for _ in range(20):
        one, two = sorted(rng.sample(range(-9, 10), 2))
        forms = [
            f"({one},{two})",
            f"[{one},{two}]",
            f"[{one},{two})",
            f"({one},{two}]",
            f"\\{{{one},{two}\\}}",
            f"{one}, {two}",
        ]
        for gold in forms:
            assert [compare_answers(gold, form, "text") for form in forms] == [form == gold for form in forms]


_PIECES = r"""
    x y i e 2 3 10 0 0.5 + - * / ^ ^2 _ _1 ( ) [ ] { } \{ \} , ; = < > | ! % ' # ± ¬ ∧ ∨ → ∪ √ π ° \frac
    \sqrt \pm \pi \infty \cup \in \sin \log \ln \tan \binom{5}{2} \frac{1}{x} \sqrt{2} \sqrt[3]{x} \text{cm}
    \text{or} and or ^\circ \begin{pmatrix} \end{pmatrix} & \\ x^{99} \le \ne \sum $ \left( \right) \emptyset
    1,000 0^0 1/0 \log_0 \ln(0) 99!
"""
PIECES = _PIECES.split()


def test_no_formula_raises():
    rng = random.Random(22)
    for _ in range(3000):
        gold, answer = ("".join(rng.choices(PIECES, k=rng.randrange(1, 9))) for _ in range(2))
        assert compare_answers(gold, answer, "text") in (True, False, None)
        assert compare_answers(gold, gold, "text") is not False or not gold.strip("$ ,")

    for long in (
        "p → " * 190 + "p",
        "-" * 390 + "x",
        "x^" * 190 + "x",
        "\\sqrt" * 60 + "2",
        "¬" * 390 + "p",
        "x" * 390,
    ):
        assert compare_answers("x^2", long, "text") is not True


def test_all_threads_give_the_same_verdicts():
    pairs = SAME + DIFFERENT + BEYOND
    expected = [compare_answers(*pair, "text") for pair in pairs]

    verdicts = {}

    def judge(number):
        verdicts[number] = [compare_answers(*pair, "text") for pair in pairs]

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [verdicts[number] for number in range(4)] == [expected] * 4


def test_the_hash_seed_changes_no_verdict(root):
    code = (
        "from tests.eval.test_equivalence import *\n"
        "print([compare_answers(*pair, 'text') for pair in SAME + DIFFERENT + BEYOND])"
    )
    outputs = set()
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        outputs.add(done.stdout)
    assert len(outputs) == 1
