r"""Read a formula into a tree: expressions, equations, points, intervals, sets, lists, unions, signs of logic.

A small recursive parser, bounded by the length and the depth of the text. What it cannot read whole is no formula.
The grammar stands in docs/grading.md.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval.markup import LOGIC_SIGNS, drop_thousands_marks, read_pairs, read_words, to_plain_characters

MAX_LENGTH = 400  # characters
MAX_DEPTH = 25  # brackets within brackets


class NotReadable(ValueError):
    """The text is no formula that this parser knows."""


class TooLarge(ValueError):
    """The text may be a formula, but is beyond the bounds."""


@dataclass(frozen=True)
class Node:
    """A part of a formula. ``text`` is a name, a number, a unit, the brackets or the signs, as ``op`` needs it."""

    op: str
    args: tuple["Node", ...] = ()
    text: str = ""


_FUNCTIONS = read_words("sin cos tan sec csc cot arcsin arccos arctan sinh cosh tanh ln log exp")
_GREEK = read_words("""
    alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi varphi chi psi
    omega Gamma Delta Theta Lambda Sigma Phi Omega ell
""")
# Sizes and spaces.
_DROPPED = read_words("left right big Big displaystyle textstyle limits quad qquad , ; : !") | {" "}

# What commands and characters are to the parser.
_COMMANDS = LOGIC_SIGNS | read_pairs(r"""
    frac frac  dfrac frac  tfrac frac  cfrac frac  sqrt sqrt  binom binom
    pi π  infty ∞  emptyset ∅  varnothing ∅  degree °  circ °
    times *  cdot *  div /  pm ±  mp ∓  cup ∪  cap ∩  setminus ∖  sim ¬  in in
    le <=  leq <=  leqslant <=  ge >=  geq >=  geqslant >=  ne !=  neq !=  lt <  gt >  approx =
    { set(  } set)  | |  lvert |  rvert |  % %
""")
_CHARACTERS = read_pairs("× *  · *  ⋅ *  ÷ /  ⁄ /  ≤ <=  ≥ >=  ≠ !=  ≈ =  ∈ in  ~ ¬  ⇒ →  ⟹ →  ⟶ →  ⇔ ↔")

# The longest first.
_ARROWS = read_pairs("<=> ↔  <-> ↔  => →  -> →")

_TOKEN = re.compile(
    r"\\(?:text|mathrm|mbox|textbf|operatorname)\s?\{(?P<text>[^{}]*)\}"
    r"|\\begin\s*\{\s*(?P<begin>[pbv]?matrix)\s*\}|\\end\s*\{\s*[pbv]?(?P<end>matrix)\s*\}"
    r"|\\(?P<command>[A-Za-z]+|[{}|,;:!% ])"
    r"|(?P<number>[1-9]\d{0,2}(?:,\d{3})+(?![\d,])|\d+(?:\.\d+)?|\.\d+)"
    r"|(?P<word>[A-Za-z]+'*)"
    r"|(?P<relation><=|>=|!=|==)"
    r"|(?P<break>\\\\)"
    r"|(?P<sign>\S)"
)

_RELATIONS = ("=", "<", ">", "<=", ">=", "!=", "in")
# The brackets that may end another, its own first: those of an interval may differ.
_CLOSINGS = {
    "(": (")", "]"),
    "[": ("]", ")"),
    "{": ("}",),
    "set(": ("set)",),
    "|": ("|",),
}
_SIGNS = ("+", "-", "±", "∓")
# What joins parts of logic and of sets, the loosest first.
_JOINS = ("∨", "∧", "∖", "∪", "∩")
# What a factor can begin with, so that a product needs no sign.
_OPENING = read_words("number name frac sqrt function binom ( [ { set( | π ∞ ∅ √")


def _join(op: str, parts: Sequence[Node]) -> Node:
    """Return a node of several parts, or the one part as it is."""
    return parts[0] if len(parts) == 1 else Node(op, tuple(parts))


@dataclass(frozen=True)
class _Token:
    """A word of the parser: a sign is its own kind, a number or a name has a text."""

    kind: str
    text: str = ""


def _tokenize(text: str) -> list[_Token]:
    if len(text) > MAX_LENGTH:
        raise TooLarge
    text = drop_thousands_marks(to_plain_characters(text))
    text = re.sub(r"\\[()\[\]]|\$(?!\d)|(?<=\d)\$|\*\*(?=\s|$)|^\s*\*\*", " ", text)

    # "30^\circ" is 30°.
    circle = r"(?:\\(?:circ|degree)(?![A-Za-z])|°)"
    text = re.sub(rf"\^\s*(?:{circle}|\{{\s*{circle}\s*\}})", "°", text)

    tokens: list[_Token] = []
    bare = text.strip().rstrip(".").strip()
    for match in _TOKEN.finditer(bare):
        # Each alternative of the pattern has its reader.
        group = str(match.lastgroup)
        tokens += _TOKEN_READERS[group](match[group])
    return tokens


def _read_text(text: str) -> list[_Token]:
    words = " ".join(text.replace("~", " ").split())
    if words in ("", ","):
        return []
    if words in ("and", "or"):
        return [_Token(words)]
    kind = "name" if len(words) == 1 else "unit"
    return [_Token(kind, words)]


def _read_command(name: str) -> list[_Token]:
    if name in _DROPPED:
        return []
    if name in _COMMANDS:
        return [_Token(_COMMANDS[name])]
    if name in _FUNCTIONS:
        return [_Token("function", name)]
    if name in _GREEK:
        return [_Token("name", name)]
    raise NotReadable(name)


def _read_word(word: str) -> list[_Token]:
    letters = word.rstrip("'")
    if letters in ("and", "or"):
        return [_Token(letters)]
    if letters in ("pi", "sqrt") or letters in _FUNCTIONS:
        return _read_command(letters)
    # Longer words are words, not products.
    if len(letters) > 2:
        raise NotReadable(word)

    # "dy/dx" has two names.
    names = [letters] if letters[0] == "d" else list(letters)
    names[-1] += word[len(letters) :]
    return [_Token("name", name) for name in names]


def _read_sign(sign: str) -> list[_Token]:
    if sign.isalpha() and sign not in "π":
        return [_Token("name", sign)]
    return [_Token(_CHARACTERS.get(sign, sign))]


_TOKEN_READERS: dict[str, Callable[[str], list[_Token]]] = {
    "text": _read_text,
    "command": _read_command,
    "number": lambda text: [_Token("number", text.replace(",", ""))],
    "word": _read_word,
    "relation": lambda text: [_Token("=" if text == "==" else text)],
    "begin": lambda text: [_Token("begin", text)],
    "end": lambda text: [_Token("end")],
    "break": lambda text: [_Token("break")],
    "sign": _read_sign,
}


class _Parser:
    """A place in the tokens of a formula; each method reads one level of the grammar."""

    def __init__(self, tokens: list[_Token]):
        self.tokens = [*tokens, _Token("end of formula")]
        self.place = 0
        self.depth = 0
        self.in_bars = False  # whether the innermost open bracket is "|"

    @property
    def kind(self) -> str:
        return self.tokens[self.place].kind

    def take(self) -> _Token:
        token = self.tokens[self.place]
        self.place = min(self.place + 1, len(self.tokens) - 1)  # the end stays
        return token

    def accept(self, *kinds: str) -> str | None:
        return self.take().kind if self.kind in kinds else None

    def expect(self, kind: str) -> None:
        if self.take().kind != kind:
            raise NotReadable(f"no {kind}")

    def read_formula(self) -> Node:
        node = self.read_statements()
        self.expect("end of formula")
        return node

    def read_statements(self) -> Node:
        """Read parts joined by "or", and within them by commas and "and"."""
        groups = [[self.read_relation()]]
        separators: set[str] = set()

        while separator := self.accept("or", "and", ",", ";"):
            following = self.accept("or", "and")  # ", or"
            separator = following or separator
            separators.add(separator)
            if separator == "or":
                groups.append([])
            groups[-1].append(self.read_relation())

        # "x = 1, x = 2, or x = 3" is one list of cases.
        if "or" in separators and "and" not in separators:
            return Node("or", tuple(node for group in groups for node in group))
        return _join("or", [_join("list", group) for group in groups])

    def read_relation(self) -> Node:
        sides = [self.read_implication()]
        signs = []
        while sign := self.accept(*_RELATIONS):
            signs.append(sign)
            sides.append(self.read_implication())

        if not signs:
            return sides[0]
        # An inequality is a chain of one sign.
        op = signs[0] if signs in (["="], ["in"]) else "chain"
        return Node(op, tuple(sides), " ".join(signs))

    def read_implication(self) -> Node:
        left = self.read_joined(_JOINS)
        sign = self.accept("→", "↔")
        if not sign:
            return left
        # To the right: p → q → r is p → (q → r).
        right = self.nest(self.read_implication)
        return Node(sign, (left, right))

    def read_joined(self, signs: Sequence[str]) -> Node:
        """Read parts joined by the first of some signs, each of parts joined by the next."""
        if not signs:
            return self.read_sum()
        sign, *tighter = signs
        # A negation holds less than ∧ and more than what joins sets.
        if sign == "∖" and self.accept("¬"):
            denied = self.nest(lambda: self.read_joined(signs))
            return Node("¬", (denied,))

        parts = [self.read_joined(tighter)]
        while self.accept(sign):
            parts.append(self.read_joined(tighter))
            # From the left: A ∖ B ∖ C is (A ∖ B) ∖ C.
            if sign == "∖":
                parts = [Node(sign, tuple(parts))]
        return _join(sign, parts)

    def read_sum(self) -> Node:
        terms = [self.read_signed(self.read_product)]
        while self.kind in _SIGNS:
            terms.append(self.read_signed(self.read_product))
        return _join("+", terms)

    def read_signed(self, read: Callable[[], Node]) -> Node:
        sign = self.accept(*_SIGNS)
        node = read()
        if sign in (None, "+"):
            return node
        op = "negative" if sign == "-" else str(sign)
        return Node(op, (node,))

    def read_product(self) -> Node:
        factors = [self.read_factor()]
        while True:
            if self.accept("*"):
                factors.append(self.read_factor())
            elif self.accept("/"):
                factors.append(Node("inverse", (self.read_factor(),)))
            elif self.kind in _OPENING and not (self.kind == "|" and self.in_bars):
                # "H2O" is no product, nor is "4 2 7" or "10.0.0.1".
                if self.kind == "number" and factors[-1].op in ("name", "number"):
                    raise NotReadable(factors[-1].text)
                factors.append(self.read_power())
            elif self.kind == "unit":
                return self.read_unit(_join("*", factors))
            else:
                return _join("*", factors)

    def read_unit(self, node: Node) -> Node:
        unit = self.take().text
        if self.accept("^"):
            unit += f"^{self.read_exponent().text}"
        return Node("quantity", (node,), unit)

    def read_factor(self) -> Node:
        if self.kind in _SIGNS:
            return self.read_signed(lambda: self.nest(self.read_factor))
        return self.read_power()

    def read_power(self) -> Node:
        node = self.read_atom()
        # Each sign makes the tree deeper, as a bracket does.
        for _ in range(MAX_DEPTH):
            if self.accept("!"):
                node = Node("call", (node,), "factorial")
            elif self.accept("%"):
                node = Node("quantity", (node,), "percent")
            elif self.accept("°"):
                node = Node("degrees", (node,))
            elif self.accept("^"):
                node = Node("^", (node, self.read_exponent()))
            else:
                return node
        raise TooLarge

    def read_exponent(self) -> Node:
        # One digit ends it: in "2^3!" the factorial is of all.
        if self.kind == "number" and len(self.tokens[self.place].text) == 1:
            return Node("number", text=self.take().text)
        return self.nest(self.read_factor)

    def nest(self, read: Callable[[], Node]) -> Node:
        # Not lowered where it fails: then the whole text is no formula.
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge
        node = read()
        self.depth -= 1
        return node

    def read_atom(self) -> Node:
        token = self.take()
        if token.kind == "number":
            return self.read_mixed(Node("number", text=token.text))
        if token.kind == "name":
            return Node("name", text=token.text + self.read_subscript())
        if token.kind in ("π", "∞", "∅"):
            return Node("constant", text=token.kind)
        if token.kind == "frac":
            top = self.read_argument()
            bottom = self.read_argument()
            return Node("*", (top, Node("inverse", (bottom,))))
        if token.kind == "binom":
            arguments = (self.read_argument(), self.read_argument())
            return Node("call", arguments, "binom")
        if token.kind in ("sqrt", "√"):
            return self.read_root()
        if token.kind == "function":
            return self.read_call(token.text)
        if token.kind == "begin":
            return self.read_matrix(token.text)
        return self.read_bracket(token.kind)

    def read_mixed(self, whole: Node) -> Node:
        """Read the fraction of a mixed number after its whole."""
        if self.kind == "_":
            return Node("name", text=whole.text + self.read_subscript())
        if self.kind != "frac" or "." in whole.text:
            return whole

        place = self.place
        fraction = self.read_atom()
        top, inverse = fraction.args
        if top.op == inverse.args[0].op == "number":
            return Node("+", (whole, fraction))
        # Of other parts it is a factor, and read again as one.
        self.place = place
        return whole

    def read_subscript(self) -> str:
        if not self.accept("_"):
            return ""
        if not self.accept("{"):
            return "_" + self.take().text

        index = "_"
        while not self.accept("}"):
            token = self.take()
            if token.kind == "end of formula":
                raise NotReadable("no }")
            index += token.text or token.kind
        return index

    def read_argument(self) -> Node:
        """Read a group in braces, or one digit or letter: both stand after a command."""
        token = self.tokens[self.place]
        if token.kind == "number" and len(token.text) == 2:
            # "\frac12": a digit each.
            digits = [_Token("number", digit) for digit in token.text]
            self.tokens[self.place : self.place + 1] = digits
        if self.kind in ("{", "("):
            return self.read_bracket(self.take().kind)
        return self.nest(self.read_atom)

    def read_root(self) -> Node:
        degree = Node("number", text="2")
        if self.accept("["):
            degree = self.nest(self.read_sum)
            self.expect("]")
        # "\\sqrt12" is the root of 12.
        is_number = self.kind == "number"
        radicand = Node("number", text=self.take().text) if is_number else self.read_argument()
        return Node("^", (radicand, Node("inverse", (degree,))))

    def read_call(self, name: str) -> Node:
        base: tuple[Node, ...] = ()
        power = None
        # "\log_2 8", "\sin^2 x"
        if self.accept("_"):
            base = (self.read_argument(),)
        if self.accept("^"):
            power = self.read_exponent()

        if self.kind in ("(", "{", "["):
            argument = self.read_bracket(self.take().kind)
        else:
            argument = self.nest(self.read_call_argument)
        call = Node("call", (argument, *base), name)
        return Node("^", (call, power)) if power else call

    def read_call_argument(self) -> Node:
        """Read an argument without brackets: "\\sin 2x", up to the next function."""
        factors = [self.read_power()]
        while self.kind in ("number", "name", "π", "frac", "sqrt"):
            factors.append(self.read_power())
        return _join("*", factors)

    def read_bracket(self, opening: str) -> Node:
        closing = _CLOSINGS.get(opening)
        if closing is None:
            raise NotReadable(opening)
        if opening == "set(" and self.accept("set)"):
            return Node("constant", text="∅")

        outer = self.in_bars
        # A second bar ends what the first began.
        self.in_bars = opening == "|"
        inner = self.nest(self.read_statements)
        self.in_bars = outer
        end = self.take().kind
        if end not in closing:
            raise NotReadable(opening)

        if opening == "|":
            return Node("call", (inner,), "abs")
        if opening == "set(" and inner.op != "list":
            return Node("set", (inner,))
        if opening in ("set(", "{") and inner.op == "list":
            return Node("set", inner.args)
        # The brackets tell an open interval from a closed one.
        if inner.op == "list":
            return Node("tuple", inner.args, opening + end)
        if opening != "{" and closing[0] != end:
            raise NotReadable(end)
        return inner

    def read_matrix(self, name: str) -> Node:
        rows = [[self.nest(self.read_sum)]]
        while sign := self.accept("&", "break"):
            # A break may stand behind the last row.
            if self.kind == "end":
                break
            if sign == "break":
                rows.append([])
            rows[-1].append(self.nest(self.read_sum))

        self.expect("end")
        tuples = [Node("tuple", tuple(row), "row") for row in rows]
        return Node("matrix", tuple(tuples), name)


@functools.lru_cache(2_000)
def parse_formula(text: str) -> Node:
    """Return the tree of a formula.

    Raises:
        NotReadable: the text is no formula, or holds what the grammar does not know.
        TooLarge: it is longer or deeper than the bounds.
    """
    # Arrows as they are typed.
    for arrow, sign in _ARROWS.items():
        text = text.replace(arrow, sign)
    tokens = _tokenize(text)
    if not tokens:
        raise NotReadable(text)
    return _expand_signs(_Parser(tokens).read_formula())


def _has_sign(node: Node) -> bool:
    return node.op in ("±", "∓") or any(map(_has_sign, node.args))


def _choose_sign(node: Node, upper: bool) -> Node:
    """Return a formula with the upper or the lower one of each double sign."""
    args = tuple(_choose_sign(part, upper) for part in node.args)
    if node.op not in ("±", "∓"):
        return Node(node.op, args, node.text)

    # The upper sign of ∓ is a minus.
    is_plus = (node.op == "±") == upper
    return args[0] if is_plus else Node("negative", args)


def _expand_signs(node: Node) -> Node:
    """Write ± as the two cases that it stands for."""
    if not _has_sign(node):
        return node
    if node.op in ("list", "or", "set"):
        # The cases stand among the other parts: "1, ±2" has three.
        parts: list[Node] = []
        for part in node.args:
            expanded = _expand_signs(part)
            parts += expanded.args if expanded != part else (part,)
        return Node(node.op, tuple(parts), node.text)

    cases = (_choose_sign(node, upper=True), _choose_sign(node, upper=False))
    op = "or" if node.op in ("=", "chain") else "list"
    return Node(op, cases)


def find_names(node: Node) -> frozenset[str]:
    """Return the variables of a formula."""
    if node.op == "name":
        return frozenset([node.text])
    return frozenset().union(*map(find_names, node.args))


def count_nodes(node: Node) -> int:
    """Return the number of parts of a formula."""
    return 1 + sum(count_nodes(part) for part in node.args)
