"""Worked solutions as text: the styles a generated one can be told in, and a data set's rationale as steps.

A trace is a problem with its ``rationale``, one step a line; where it comes from stands in ``extra["source"]``.
"""

import re

from data.arithmetic import Step, difference, multiplication
from data.records import Problem

STYLES = ("short", "long", "prose")

# GSM8K's calculator marks: "48/2 = <<48/2=24>>24 clips" (Cobbe et al. 2021, arXiv 2110.14168, section 4.1).
_MARK = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")


def restyled(problem: Problem, style: str) -> str:
    """A generated problem's solution in a style: ``short`` as it is stored, one step a line; ``long`` with what is to
    be worked out first, then the steps it takes, differences of several digits place by place as well as products;
    ``prose`` as sentences in one paragraph. What has no operations is the same in the first two."""
    rationale = problem.rationale or ""
    lines = rationale.split("\n")
    if style == "prose":
        return " ".join(line if line.endswith(".") else f"{line}." for line in lines)
    if style == "long" and "program" in problem.extra:
        labels = [label for line in lines if (label := line.rpartition(": ")[0])]
        return _planned([(op, a, b, c) for op, a, b, c in problem.extra["program"]], labels)
    return rationale


def _planned(program: list[Step], labels: list[str]) -> str:
    """The operations, each named before it is worked out. A label before the last of several steps, as in the short
    style, makes a model write the whole result after it at once."""
    lines = []
    for (op, left, right, result), label in zip(program, labels or [""] * len(program), strict=True):
        works = {"*": multiplication, "-": difference}.get(op)
        steps = works(left, right) if works else [f"{left} {op} {right} = {result}"]
        name = f"{label}: " if label else ""
        lines += [f"{name}{left} {op} {right}", *steps] if len(steps) > 1 else [name + steps[0]]
    return "\n".join(lines)


def marked_steps(rationale: str) -> str:
    """A rationale with calculator marks as their equations, one a line; one without any as it is."""
    marks = _MARK.findall(rationale)
    return "\n".join(f"{_spaced(left)} = {right.strip()}" for left, right in marks) if marks else rationale


def _spaced(expression: str) -> str:
    return re.sub(r"\s*([-+*/])\s*", r" \1 ", expression).strip()
