"""Whether two formulas are equal, at a cost that is counted and never timed: docs/grading.md, "Formulae".

Structures (equations, points, sets, lists ...) are compared part by part. Two expressions are equal where they have the
same value, to many digits, at each of a few fixed points. Nothing is expanded, so a power costs one operation whatever
its exponent. There is no clock, no process and no signal: the verdict is the same on any machine, thread and load.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.formulae import Node, NotReadable, TooLarge, count_nodes, find_names, parse_formula
from eval.numbers import name_unit

Verdict = bool | None  # None: cannot be decided within the bounds

MAX_NODES = 300  # parts of a formula
MAX_ARGUMENTS = 30  # of a list or a set
MAX_FACTORIAL = 1000
DIGITS = 250
# Beyond this, two values that differ may agree in all the digits that are compared.
MAX_MAGNITUDE = 100  # powers of ten, for "equal"
HUGE_MAGNITUDE = 100_000  # powers of ten, for any verdict
AGREEMENT = 200  # digits that must agree
WIDE_MAGNITUDE = 20  # powers of ten at a wide point, where more is lost to cancelling

# The size and the signs of all variables at each point: positive for roots and logarithms, drawn by name, negative.
POINTS = (
    *4 * [(1, "+")],
    *4 * [(1, "±")],
    (1, "-"),
    # Wide, so that x - 3 is not negative at all of them.
    (30, "+"),
    (1000, "+"),
    (1000, "-"),
)

_UNORDERED = ("or", "list", "set", "∪", "∩", "∧", "∨")
_ORDERED = ("tuple", "∖", "in", "matrix", "¬", "→", "↔")
_STRUCTURES = (*_UNORDERED, *_ORDERED, "=", "chain")


class _Undecided(ValueError):
    """The value is beyond the bounds."""


class _OutOfDomain(ValueError):
    """The formula has no real value at this point."""


def compare_formulas(gold: str, answer: str) -> Verdict:
    """Return whether two formulas say the same; None where that cannot be decided within the bounds.

    An answer that cannot be read is not equal; a gold that cannot be read leaves it open.
    """
    try:
        left = parse_formula(gold)
    except (NotReadable, TooLarge):
        return None
    try:
        right = parse_formula(answer)
    except NotReadable:
        return False
    except TooLarge:
        return None

    # The same formula needs no work, however large it is.
    if left == right:
        return True
    if max(count_nodes(left), count_nodes(right)) > MAX_NODES:
        return None
    return _compare(left, right)


def _compare(left: Node, right: Node) -> Verdict:
    """Compare two trees by their structure and the values of their expressions."""
    if left.op == "quantity" or right.op == "quantity":
        return _compare_quantities(left, right)

    if left.op not in _STRUCTURES and right.op not in _STRUCTURES:
        return _compare_values(left, right)
    if left.op != right.op:
        return _compare_assignment(left, right)

    if left.op == "=":
        return _compare_relations(left, right, signed=False)
    if left.op == "chain":
        return _compare_chains(left, right)
    # For a structure with brackets the text is these: an open interval is not a closed one.
    if left.text != right.text or len(left.args) != len(right.args):
        return False
    # Each part may have to be compared with each.
    if len(left.args) > MAX_ARGUMENTS:
        return None
    if left.op in _UNORDERED:
        return _match(left.args, right.args)
    return _compare_in_order(left.args, right.args)


def _compare_in_order(left: Sequence[Node], right: Sequence[Node]) -> Verdict:
    verdicts = [_compare(one, other) for one, other in zip(left, right, strict=True)]
    # One part that differs settles it, whatever the open ones are.
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _match(left: Sequence[Node], right: Sequence[Node]) -> Verdict:
    """Return whether each part of the left has a partner on the right, in any order."""
    rest = list(right)
    verdict: Verdict = True
    for part in left:
        verdicts = [_compare(part, other) for other in rest]
        if True in verdicts:
            rest.pop(verdicts.index(True))
        elif None in verdicts:
            verdict = None
        else:
            return False
    return verdict


def _compare_quantities(left: Node, right: Node) -> Verdict:
    """Compare values with units, one of which may be left out."""
    left_unit, left_value = _split_unit(left)
    right_unit, right_value = _split_unit(right)
    if left_unit and right_unit and left_unit != right_unit:
        return False
    return _compare(left_value, right_value)


def _split_unit(node: Node) -> tuple[str, Node]:
    if node.op != "quantity":
        return "", node
    words = node.text.lower().split()
    return name_unit(words), node.args[0]


def _compare_assignment(left: Node, right: Node) -> Verdict:
    """Compare "x = 5" with "5", and "x in [1, 2]" with "[1, 2]"; an equation of another form is no value."""
    for relation, value in ((left, right), (right, left)):
        if relation.op not in ("=", "in") or relation.args[0].op != "name":
            continue
        if value.op not in ("=", "in", "chain", "or") and not find_names(value):
            return _compare(relation.args[1], value)
    return False


def _difference(left: Node, right: Node) -> Node:
    return Node("+", (left, Node("negative", (right,))))


def _has_structure(node: Node) -> bool:
    if node.op in _STRUCTURES or node.op == "quantity":
        return True
    return any(map(_has_structure, node.args))


def _compare_relations(left: Node, right: Node, signed: bool) -> Verdict:
    """Compare equations: their differences of both sides are the same up to a constant factor."""
    # Structures have no difference: side by side, or crosswise where the sign reads both ways.
    if any(map(_has_structure, (*left.args, *right.args))):
        straight = _compare_in_order(left.args, right.args)
        if straight or signed:
            return bool(straight)
        return _compare_in_order(left.args, right.args[::-1])

    pairs = _evaluate_pairs(_difference(*left.args), _difference(*right.args))
    if pairs is None:
        return None
    # Where the one equation holds, the other must.
    if any((one == 0) != (other == 0) for one, other in pairs.values):
        return False

    ratios = [one / other for one, other in pairs.values if one != 0]
    if not ratios:
        return None
    first = ratios[0]
    if not all(_agree(ratio, first) for ratio in ratios):
        return False
    # A ratio at one point alone proves nothing where the equation has variables.
    if len(ratios) < 2 and pairs.names:
        return None
    # A negative factor turns an inequality round.
    if signed and not (first.imag == 0 and first.real > 0):
        return False
    return None if pairs.is_large else True


_TURNED = str.maketrans("<>", "><")


def _compare_chains(left: Node, right: Node) -> Verdict:
    """Compare inequalities, read from either end."""
    if len(left.args) != len(right.args):
        return False

    verdicts: list[Verdict] = []
    # From the right, each sign is turned round: "x < 3" is "3 > x".
    signs = right.text.translate(_TURNED).split()
    mirrored = Node("chain", right.args[::-1], " ".join(signs[::-1]))
    for candidate in (right, mirrored):
        if candidate.text != left.text:
            continue
        if len(left.args) == 2:
            verdicts.append(_compare_relations(left, candidate, signed=left.text != "!="))
        else:
            verdicts.append(_compare_in_order(left.args, candidate.args))

    if True in verdicts:
        return True
    return None if None in verdicts else False


def _is_infinite(node: Node) -> bool:
    """Whether a node is ∞, -∞ or the empty set, which only equal themselves."""
    bare = node.args[0] if node.op == "negative" else node
    return bare.op == "constant" and bare.text in "∞∅"


def _compare_values(left: Node, right: Node) -> Verdict:
    if left == right:
        return True
    if _is_infinite(left) or _is_infinite(right):
        return False
    pairs = _evaluate_pairs(left, right)
    if pairs is None:
        return None
    if not all(_agree(one, other) for one, other in pairs.values):
        return False
    return None if pairs.is_large else True


def _agree(one: Any, other: Any) -> bool:
    if one == other:
        return True
    scale = max(abs(one), abs(other))
    return bool(abs(one - other) < scale * _raise_ten(-AGREEMENT))


@dataclass
class _Pairs:
    """The values of two formulas at each point where both have one, and the variables that they have."""

    names: frozenset[str]
    values: list[tuple[Any, Any]] = field(default_factory=list)
    is_large: bool = False


def _evaluate_pairs(left: Node, right: Node) -> _Pairs | None:
    """Return the values of two formulas at the fixed points; None where too few of them are within the bounds."""
    pairs = _Pairs(find_names(left) | find_names(right))
    # Numbers alone have one value, which may be complex.
    count = len(POINTS) if pairs.names else 1
    is_complex = "i" in pairs.names or not pairs.names

    for number in range(count):
        point = _Point(number, is_complex)
        try:
            values = (point.evaluate(left), point.evaluate(right))
        except _OutOfDomain:
            continue
        except _Undecided:
            # The near points decide.
            if point.is_wide:
                continue
            return None
        pairs.values.append(values)
        pairs.is_large |= point.is_large

    # At one point alone, formulas that differ may agree by chance.
    enough = 2 if pairs.names else 1
    return pairs if len(pairs.values) >= enough else None


@functools.cache
def _get_context() -> Any:
    from mpmath.ctx_mp import MPContext

    context = MPContext()
    context.dps = DIGITS
    return context


@functools.cache
def _raise_ten(exponent: int) -> Any:
    return _get_context().mpf(10) ** exponent


class _Point:
    """Fixed values of all variables, and the arithmetic at them."""

    def __init__(self, number: int, is_complex: bool):
        self.number = number
        self.scale, self.sign = POINTS[number]
        self.is_wide = self.scale > 1
        # Whether values may be.
        self.is_complex = is_complex
        self.context = _get_context()
        self.is_large = False

    def evaluate(self, node: Node) -> Any:
        value = self._evaluate(node)
        if value != 0:
            # mag() gives powers of two.
            magnitude = abs(self.context.mag(value)) * 0.302
            if magnitude > (WIDE_MAGNITUDE if self.is_wide else HUGE_MAGNITUDE):
                raise _Undecided
            self.is_large |= magnitude > MAX_MAGNITUDE
        if not self.is_complex and value.imag != 0:
            raise _OutOfDomain
        return value

    def _evaluate(self, node: Node) -> Any:
        if node.op == "number":
            self.is_large |= len(node.text) > MAX_MAGNITUDE
            return self.context.mpf(node.text)
        if node.op == "name":
            return self._get_variable(node.text)
        if node.op == "constant" and node.text == "π":
            return self.context.pi * 1

        if node.op in ("call", "^", "degrees"):
            arguments = [self.evaluate(part) for part in node.args]
            return self._apply(node, arguments)

        if node.op == "+":
            return self._add([self.evaluate(part) for part in node.args])
        if node.op == "*":
            return self.context.fprod(self.evaluate(part) for part in node.args)
        if node.op == "negative":
            return -self.evaluate(node.args[0])
        if node.op == "inverse":
            return self._invert(self.evaluate(node.args[0]))
        # Infinity, or a structure within an expression, such as f((1,2)).
        raise _Undecided

    def _add(self, terms: list[Any]) -> Any:
        total = self.context.fsum(terms)
        largest = max(abs(term) for term in terms)
        # What is left after cancelling is rounding.
        is_rounding = abs(total) < largest * _raise_ten(20 - DIGITS)
        return self.context.mpf(0) if is_rounding else total

    def _get_variable(self, name: str) -> Any:
        if name == "i":
            return self.context.mpc(0, 1)
        if name == "e":
            return self.context.e * 1

        # By the name: a variable has the same value in both formulas.
        digest = hashlib.sha256(f"{self.number} {name}".encode()).digest()
        fraction = self.context.mpf(int.from_bytes(digest[:16])) / 2**128
        # Not near 0, where quotients are huge.
        value = self.scale * (fraction + self.context.mpf("0.3"))
        is_drawn_negative = self.sign == "±" and digest[16] % 2 == 1
        is_negative = self.sign == "-" or is_drawn_negative
        return -value if is_negative else value

    def _invert(self, value: Any) -> Any:
        if value == 0:
            raise _OutOfDomain
        return 1 / value

    def _apply(self, node: Node, arguments: list[Any]) -> Any:
        if node.op == "degrees":
            return arguments[0] * self.context.pi / 180
        if node.op == "^":
            return self._raise(*arguments)
        if node.text == "binom":
            top, bottom = map(self._as_count, arguments)
            return self.context.binomial(top, bottom)
        if node.text == "factorial":
            return self.context.factorial(self._as_count(arguments[0]))

        # The work of a function grows with its argument.
        if self.context.mag(arguments[0] or 1) > 300:
            raise _Undecided
        if node.text in ("ln", "log"):
            return self._log(node.text, arguments)
        if node.text == "abs":
            return abs(arguments[0])

        name = _LIBRARY_NAMES.get(node.text, node.text)
        function: Callable[[Any], Any] = getattr(self.context, name)
        try:
            return function(arguments[0])
        except (ValueError, ZeroDivisionError):
            raise _OutOfDomain from None

    def _as_count(self, value: Any) -> int:
        count = int(value.real)
        if count != value or not 0 <= count <= MAX_FACTORIAL:
            raise _Undecided
        return count

    def _log(self, name: str, arguments: list[Any]) -> Any:
        value, *bases = arguments
        natural = self.context.e if name == "ln" else self.context.mpf(10)
        base = bases[0] if bases else natural
        if value == 0 or base in (0, 1):
            raise _OutOfDomain
        return self.context.log(value) / self.context.log(base)

    def _raise(self, base: Any, exponent: Any) -> Any:
        if base == 0:
            # 0^0 and 1/0 have no value.
            if exponent.imag != 0 or exponent.real <= 0:
                raise _OutOfDomain
            return self.context.mpf(0)
        # The magnitude is known before anything is multiplied.
        magnitude = abs(self.context.mag(base)) + 1
        if abs(exponent) * magnitude > HUGE_MAGNITUDE * 3:
            raise _Undecided

        # An odd root of a negative number is a negative number.
        is_negative = base.imag == 0 and base.real < 0
        if is_negative and not self._is_whole(exponent):
            degree = 1 / exponent
            if self._is_whole(degree) and int(self.context.nint(degree)) % 2 == 1:
                return -((-base) ** exponent)
        if self._is_whole(exponent):
            return base ** int(self.context.nint(exponent.real))
        return self.context.power(base, exponent)

    def _is_whole(self, value: Any) -> bool:
        nearest = self.context.nint(value.real)
        return bool(abs(value - nearest) < _raise_ten(-AGREEMENT))


_LIBRARY_NAMES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}
