"""Check the steps of a solution by recomputing them.

A step is an equation of numbers or of True and False, which is worked out again here (never evaluated as code); a
sentence of a rule problem, which must stand in the question or follow from the sentences before it; or an order, which
no premise may contradict.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from data.problem import Problem
from data.splits import normalize_text
from eval.extract import split_thought


@dataclass(frozen=True)
class Step:
    """An equation of a text, its right side, and whether that is what the left side comes to."""

    text: str
    result: str
    correct: bool


_NUMBER = r"\d{1,15}(?:\.\d{1,6})?"

# Nothing before it that would belong to it: more digits, an operation, a bracket.
_SUM = re.compile(
    rf"(?<![\d.(])(?<![-+*/×÷]\s)(?<![-+*/×÷])({_NUMBER}(?:\s*[-+*/×÷]\s*{_NUMBER})+)"
    rf"\s*=\s*(-?{_NUMBER})(?![\d.]*\d|\s*[-+*/×÷]\s*\d)"
)
_TRUTH = re.compile(r"(?:(not)\s+)?(True|False)(?:\s+(and|or)\s+(True|False))?\s*=\s*(True|False)")

# The sentences of a rule problem's solution, and the lines of an ordering problem's.
_FACT = re.compile(r"(\w+) is an? (\w+)")
_RULE = re.compile(r"(All|Every|No) (\w+) (?:is|are) (?:an? )?(\w+)")
_CONCLUSION = re.compile(r"So (\w+) is (not )?(?:an? )?(\w+)")
_ORDER = re.compile(r"(\w+)est to \w+est: (\w+(?: > \w+)+)")
_COMPARISON = re.compile(r"(\w+) is (\w+)er than (\w+)")


def find_steps(text: str) -> list[Step]:
    """Return every equation of a text, in order."""
    steps = []
    for line in text.split("\n"):
        truth = _TRUTH.fullmatch(line.strip())
        if truth:
            steps.append(_check_truth(truth))

        # Thousands separators and currency signs go.
        # One space at most, or a sum that never comes would be looked for from each of many.
        line = re.sub(r"\s+", " ", line.replace(",", "").replace("$", ""))
        for match in _SUM.finditer(line):
            correct = _compute(match[1]) == Fraction(match[2])
            steps.append(Step(match[0], match[2], correct))
    return steps


def _check_truth(match: re.Match[str]) -> Step:
    negated, left, operation, right, result = match.groups()
    value = (left == "True") != bool(negated)

    if operation == "and":
        value = value and right == "True"
    elif operation == "or":
        value = value or right == "True"
    return Step(match[0], result, str(value) == result)


def _compute(expression: str) -> Fraction | None:
    """Return the value of numbers joined by operations, * and / first; None where it divides by zero."""
    first, *others = re.findall(rf"{_NUMBER}|[-+*/×÷]", expression)
    total = Fraction(0)
    term = Fraction(first)  # signed, not yet added to the total

    for operation, text in zip(others[::2], others[1::2], strict=True):
        operand = Fraction(text)
        if operation in "*×":
            term *= operand
        elif operation in "/÷":
            if operand == 0:
                return None
            term /= operand
        else:
            total += term
            term = operand if operation == "+" else -operand
    return total + term


def find_wrong_step(problem: Problem, text: str) -> str | None:
    """Return the first step of a completion that is wrong; None where every step that can be checked is right."""
    for step in find_steps(text):
        if not step.correct:
            return step.text
    return find_unfounded_step(problem, split_thought(text).thought or text)


def has_checkable_steps(problem: Problem, text: str) -> bool:
    """Whether a completion has a step that :func:`find_wrong_step` can check."""
    if find_steps(text):
        return True

    patterns: tuple[re.Pattern[str], ...] = ()
    if problem.family == "rules":
        patterns = (_FACT, _RULE, _CONCLUSION)
    elif problem.family == "ordering":
        patterns = (_ORDER,)

    thought = split_thought(text).thought or text
    sentences = [line.rstrip(".") for line in _lines(thought)]
    return any(pattern.fullmatch(sentence) for pattern in patterns for sentence in sentences)


def _lines(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        if line.strip():
            yield line.strip()


def find_unfounded_step(problem: Problem, thought: str) -> str | None:
    """Return the first line of a rule or ordering problem's thought that the question does not bear out."""
    lines = list(_lines(thought))
    if problem.family == "rules":
        return _find_broken_chain(problem.question, lines)
    if problem.family == "ordering":
        return next((line for line in lines if _contradicts(problem.question, line)), None)
    return None


def _find_broken_chain(question: str, lines: Sequence[str]) -> str | None:
    """Return the first sentence that is not in the question, or does not go on from the class before it."""
    # A sentence of the question ends with a full stop or a question mark.
    premises = {normalize_text(sentence) for sentence in re.split(r"(?<=[.?])\s+", question)}
    reached = ""  # the class reached so far; none before the first "X is a Y"
    negated = False

    for line in lines:
        sentence = line.rstrip(".")
        conclusion = _CONCLUSION.fullmatch(sentence)
        rule = _RULE.fullmatch(sentence)
        fact = _FACT.fullmatch(sentence)

        if conclusion:
            if reached and (_singular(conclusion[3]), bool(conclusion[2])) != (reached, negated):
                return line
            continue

        if (rule or fact) and normalize_text(line) not in premises:
            return line
        if rule:
            if reached and (negated or _singular(rule[2]) != reached):
                return line
            # A rule before any fact reaches nothing yet.
            reached = reached and _singular(rule[3])
            negated = rule[1] == "No"
        elif fact:
            reached = _singular(fact[2])
            negated = False
    return None


def _singular(word: str) -> str:
    return word.lower().removesuffix("s")


def _contradicts(question: str, line: str) -> bool:
    """Whether a line gives an order that a premise contradicts, or that leaves out one of its names."""
    order = _ORDER.fullmatch(line)
    if order is None:
        return False

    names = order[2].split(" > ")
    # The last sentence is the question itself, which claims nothing.
    premises = question.split("?")[0].rpartition(".")[0]

    for left, comparative, right in _COMPARISON.findall(premises):
        if left not in names or right not in names:
            return True
        # The order begins with the most of something: "oldest" for "older".
        left_first = names.index(left) < names.index(right)
        if left_first != (comparative == order[1].lower()):
            return True
    return False


def implied_answer(problem: Problem, thought: str) -> str | None:
    """Return the answer that the conclusion of a rule problem's thought comes to; None where there is none."""
    asked = re.search(r"(not )?(?:an? )?\w+\?$", problem.question)
    if problem.family != "rules" or not asked:
        return None

    conclusion = None
    for line in _lines(thought):
        conclusion = _CONCLUSION.fullmatch(line.rstrip(".")) or conclusion
    if conclusion is None:
        return None
    return "yes" if bool(conclusion[2]) == bool(asked[1]) else "no"
