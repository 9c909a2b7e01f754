r"""Read a formula into a tree: expressions, equations, points, intervals, sets, lists, unions, signs of logic.

A small recursive parser, bounded by the length and the depth of the text. What it cannot read whole is no formula.
The grammar stands in docs/grading.md.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from eval.markup import LOGIC_SIGNS, drop_thousands_marks, to_plain_characters

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


_FUNCTIONS = """sin cos tan sec csc cot arcsin arccos arctan sinh cosh tanh ln log exp sqrt"""
FUNCTIONS = set(_FUNCTIONS.split())
_CONSTANTS = {"pi": "π", "infty": "∞", "emptyset": "∅", "varnothing": "∅", "degree": "°", "circ": "°"}
_GREEK = """
    alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi varphi chi psi
    omega Gamma Delta Theta Lambda Sigma Phi Omega ell
"""
_NAMES = set(_GREEK.split())
_DROPPED = {"left", "right", "big", "Big", "displaystyle", "textstyle", "limits", "quad", "qquad", *",;:! "}

_SYMBOLS = {
    **LOGIC_SIGNS,
    "times": "*",
    "cdot": "*",
    "div": "/",
    "pm": "±",
    "mp": "∓",
    "le": "<=",
    "leq": "<=",
    "leqslant": "<=",
    "ge": ">=",
    "geq": ">=",
    "geqslant": ">=",
    "ne": "!=",
    "neq": "!=",
    "lt": "<",
    "gt": ">",
    "approx": "=",
    "in": "in",
    "cup": "∪",
    "cap": "∩",
    "setminus": "∖",
    "sim": "¬",
    "{": "set(",
    "}": "set)",
    "|": "|",
    "%": "%",
    "lvert": "|",
    "rvert": "|",
}
_CHARACTERS = {
    "×": "*",
    "·": "*",
    "⋅": "*",
    "÷": "/",
    "⁄": "/",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "=",
    "∈": "in",
    "~": "¬",
    "⇒": "→",
}

_TOKEN = re.compile(
    r"\\(?:text|mathrm|mbox|textbf|operatorname)\s?\{(?P<text>[^{}]*)\}"
    r"|\\(?P<command>[A-Za-z]+|[{}|,;:!% ])"
    r"|(?P<number>\d{1,3}(?:,\d{3})+(?![\d,])|\d+(?:\.\d+)?|\.\d+)"
    r"|(?P<word>[A-Za-z]+'*)"
    r"|(?P<relation><=|>=|!=|==)"
    r"|(?P<break>\\\\)"
    r"|(?P<sign>\S)"
)

_RELATIONS = ("=", "<", ">", "<=", ">=", "!=")
# What an atom can begin with, so that a product needs no sign.
_OPENING = ("number", "name", "frac", "sqrt", "function", "binom", "(", "{", "|", "π", "∞", "∅", "√", "matrix")


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str = ""


def _tokenize(text: str) -> list[_Token]:
    if len(text) > MAX_LENGTH:
        raise TooLarge
    text = drop_thousands_marks(to_plain_characters(text))
    text = re.sub(r"\\[()\[\]]|\$(?!\d)|(?<=\d)\$|\*\*(?=\s|$)|^\s*\*\*", " ", text)

    tokens: list[_Token] = []
    for match in _TOKEN.finditer(text.strip().rstrip(".").strip()):
        group = str(match.lastgroup)
        tokens += _TOKEN_READERS[group](match[group])
    return tokens


def _read_text(text: str) -> list[_Token]:
    words = " ".join(text.split())
    if words in ("", ","):
        return []
    if words in ("and", "or"):
        return [_Token(words)]
    return [_Token("name", words)] if len(words) == 1 else [_Token("unit", words)]


def _read_command(name: str) -> list[_Token]:
    if name in _DROPPED:
        return []
    if name in ("dfrac", "tfrac", "cfrac"):
        name = "frac"
    if name in ("frac", "sqrt", "binom"):
        return [_Token(name)]
    if name in ("begin", "end"):
        return [_Token(name)]
    if name in FUNCTIONS:
        return [_Token("function", name)]
    if name in _CONSTANTS:
        return [_Token(_CONSTANTS[name])]
    if name in _NAMES:
        return [_Token("name", name)]
    if name in _SYMBOLS:
        return [_Token(_SYMBOLS[name])]
    raise NotReadable(name)


def _read_word(word: str) -> list[_Token]:
    letters = word.rstrip("'")
    if letters in ("and", "or"):
        return [_Token(letters)]
    if letters == "pi":
        return [_Token("π")]
    if letters in FUNCTIONS:
        return [_Token("sqrt" if letters == "sqrt" else "function", letters)]
    if letters in ("pmatrix", "bmatrix", "matrix", "vmatrix"):
        return [_Token("environment", letters)]
    # Longer words are words, not products.
    if len(letters) > 2:
        raise NotReadable(word)
    names = [_Token("name", letter) for letter in letters]
    # "dy/dx" has two names.
    if len(letters) == 2 and letters[0] == "d":
        names = [_Token("name", letters)]
    names[-1] = _Token("name", names[-1].text + word[len(letters) :])
    return names


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
    "break": lambda text: [_Token("break")],
    "sign": _read_sign,
}


class _Parser:
    """A place in the tokens of a formula; each method reads one level of the grammar."""

    def __init__(self, tokens: list[_Token]):
        self.tokens = [*tokens, _Token("end of formula")]
        self.place = 0
        self.depth = 0

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
        lists = [group[0] if len(group) == 1 else Node("list", tuple(group)) for group in groups]
        return lists[0] if len(lists) == 1 else Node("or", tuple(lists))

    def read_relation(self) -> Node:
        sides = [self.read_implication()]
        signs = []
        while sign := self.accept(*_RELATIONS, "in"):
            signs.append(sign)
            sides.append(self.read_implication())

        if not signs:
            return sides[0]
        op = signs[0] if len(signs) == 1 and signs[0] in ("=", "in") else "chain"
        return Node(op, tuple(sides), " ".join(signs))

    def read_implication(self) -> Node:
        left = self.read_disjunction()
        sign = self.accept("→", "↔")
        return Node(sign, (left, self.nest(self.read_implication))) if sign else left

    def read_disjunction(self) -> Node:
        return self.read_joined("∨", self.read_conjunction)

    def read_conjunction(self) -> Node:
        return self.read_joined("∧", self.read_negation)

    def read_negation(self) -> Node:
        if self.accept("¬"):
            return Node("¬", (self.nest(self.read_negation),))
        return self.read_difference()

    def read_difference(self) -> Node:
        node = self.read_union()
        while self.accept("∖"):
            node = Node("∖", (node, self.read_union()))
        return node

    def read_union(self) -> Node:
        return self.read_joined("∪", lambda: self.read_joined("∩", self.read_sum))

    def read_joined(self, sign: str, read_part: Callable[[], Node]) -> Node:
        parts = [read_part()]
        while self.accept(sign):
            parts.append(read_part())
        return parts[0] if len(parts) == 1 else Node(sign, tuple(parts))

    def read_sum(self) -> Node:
        terms = [self.read_signed(self.accept("+", "-", "±", "∓"), self.read_product())]
        while sign := self.accept("+", "-", "±", "∓"):
            terms.append(self.read_signed(sign, self.read_product()))
        return terms[0] if len(terms) == 1 else Node("+", tuple(terms))

    def read_signed(self, sign: str | None, node: Node) -> Node:
        if sign in (None, "+"):
            return node
        return Node("negative" if sign == "-" else str(sign), (node,))

    def read_product(self) -> Node:
        factors = [self.read_factor()]
        while True:
            if self.accept("*"):
                factors.append(self.read_factor())
            elif self.accept("/"):
                factors.append(Node("inverse", (self.read_factor(),)))
            elif self.kind in _OPENING or self.kind == "[" or self.kind == "set(":
                # "H2O" is no product.
                if self.kind == "number" and factors[-1].op == "name":
                    raise NotReadable(factors[-1].text)
                factors.append(self.read_power())
            elif self.kind == "unit":
                product = factors[0] if len(factors) == 1 else Node("*", tuple(factors))
                return self.read_unit(product)
            else:
                return factors[0] if len(factors) == 1 else Node("*", tuple(factors))

    def read_unit(self, node: Node) -> Node:
        unit = self.take().text
        if self.accept("^"):
            exponent = self.read_exponent()
            unit += f"^{exponent.text}"
        return Node("quantity", (node,), unit)

    def read_factor(self) -> Node:
        sign = self.accept("+", "-", "±", "∓")
        return self.read_signed(sign, self.nest(self.read_factor) if sign else self.read_power())

    def read_power(self) -> Node:
        node = self.read_atom()
        while True:
            if self.accept("!"):
                node = Node("call", (node,), "factorial")
            elif self.accept("%"):
                node = Node("quantity", (node,), "percent")
            elif self.accept("°"):
                node = Node("degrees", (node,))
            elif self.accept("^"):
                is_degree = self.is_degree()
                node = Node("degrees", (node,)) if is_degree else Node("^", (node, self.read_exponent()))
            else:
                return node

    def is_degree(self) -> bool:
        """Read the circle of "30^\\circ"."""
        if self.accept("°"):
            return True
        is_group = [token.kind for token in self.tokens[self.place : self.place + 3]] == ["{", "°", "}"]
        self.place += 3 if is_group else 0
        return is_group

    def read_exponent(self) -> Node:
        if self.kind == "number" and len(self.tokens[self.place].text) == 1:
            return Node("number", text=self.take().text)
        return self.nest(self.read_factor)

    def nest(self, read: Callable[[], Node]) -> Node:
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
            return Node("*", (self.read_argument(), Node("inverse", (self.read_argument(),))))
        if token.kind == "binom":
            return Node("call", (self.read_argument(), self.read_argument()), "binom")
        if token.kind in ("sqrt", "√"):
            return self.read_root()
        if token.kind == "function":
            return self.read_call(token.text)
        if token.kind == "begin":
            return self.read_matrix()
        return self.read_bracket(token.kind)

    def read_mixed(self, whole: Node) -> Node:
        """Read the fraction of a mixed number after its whole."""
        if self.kind == "_":
            return Node("name", text=whole.text + self.read_subscript())
        if self.kind != "frac" or "." in whole.text:
            return whole

        place = self.place
        fraction = self.read_atom()
        numbers = (fraction.args[0], fraction.args[1].args[0])
        if all(number.op == "number" for number in numbers):
            return Node("+", (whole, fraction))
        self.place = place
        return whole

    def read_subscript(self) -> str:
        if not self.accept("_"):
            return ""
        if not self.accept("{"):
            return "_" + self.take().text
        texts = []
        while self.kind != "}":
            token = self.take()
            if token.kind == "end of formula":
                raise NotReadable("no }")
            texts.append(token.text or token.kind)
        self.take()
        return "_" + "".join(texts)

    def read_argument(self) -> Node:
        """Read a group in braces, or one digit or letter: both stand after a command."""
        token = self.tokens[self.place]
        if token.kind == "number" and len(token.text) == 2:
            # "\frac12": a digit each.
            self.tokens[self.place : self.place + 1] = [_Token("number", digit) for digit in token.text]
        if self.kind in ("{", "("):
            return self.read_bracket(self.take().kind)
        return self.nest(self.read_atom)

    def read_root(self) -> Node:
        degree = Node("number", text="2")
        if self.accept("["):
            degree = self.nest(self.read_sum)
            self.expect("]")
        radicand = Node("number", text=self.take().text) if self.kind == "number" else self.read_argument()
        return Node("^", (radicand, Node("inverse", (degree,))))

    def read_call(self, name: str) -> Node:
        base: tuple[Node, ...] = ()
        power = None
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
        factors = [self.read_power()]
        while self.kind in ("number", "name", "π", "frac", "sqrt"):
            factors.append(self.read_power())
        return factors[0] if len(factors) == 1 else Node("*", tuple(factors))

    def read_bracket(self, opening: str) -> Node:
        closing = {"(": (")", "]"), "[": ("]", ")"), "{": ("}",), "set(": ("set)",), "|": ("|",)}.get(opening)
        if closing is None:
            raise NotReadable(opening)
        if opening == "set(" and self.accept("set)"):
            return Node("constant", text="∅")

        inner = self.nest(self.read_statements)
        end = self.take().kind
        if end not in closing:
            raise NotReadable(opening)

        if opening == "|":
            return Node("call", (inner,), "abs")
        if opening == "set(" or (opening == "{" and inner.op == "list"):
            return Node("set", inner.args if inner.op == "list" else (inner,))
        if inner.op == "list":
            return Node("tuple", inner.args, opening + end)
        if opening != "{" and closing[0] != end:
            raise NotReadable(end)
        return inner

    def read_matrix(self) -> Node:
        self.expect("{")
        name = self.take().text
        self.expect("}")
        rows = [[self.nest(self.read_sum)]]
        while sign := self.accept("&", "break"):
            if self.kind == "end":
                break
            if sign == "break":
                rows.append([])
            rows[-1].append(self.nest(self.read_sum))

        self.expect("end")
        self.expect("{")
        self.expect("environment")
        self.expect("}")
        return Node("matrix", tuple(Node("tuple", tuple(row), "row") for row in rows), name)


@functools.lru_cache(2_000)
def parse_formula(text: str) -> Node:
    """Return the tree of a formula.

    Raises:
        NotReadable: the text is no formula, or holds what the grammar does not know.
        TooLarge: it is longer or deeper than the bounds.
    """
    tokens = _tokenize(text)
    if not tokens:
        raise NotReadable(text)
    return _expand_signs(_Parser(tokens).read_formula())


def _has_sign(node: Node) -> bool:
    return node.op in ("±", "∓") or any(_has_sign(part) for part in node.args)


def _choose_sign(node: Node, upper: bool) -> Node:
    args = tuple(_choose_sign(part, upper) for part in node.args)
    if node.op in ("±", "∓"):
        return args[0] if (node.op == "±") == upper else Node("negative", args)
    return Node(node.op, args, node.text)


def _expand_signs(node: Node) -> Node:
    """Write ± as the two cases that it stands for."""
    if not _has_sign(node):
        return node
    if node.op in ("list", "or", "set"):
        parts: list[Node] = []
        for part in node.args:
            expanded = _expand_signs(part)
            parts += expanded.args if expanded != part else (part,)
        return Node(node.op, tuple(parts), node.text)

    cases = (_choose_sign(node, True), _choose_sign(node, False))
    return Node("or" if node.op in ("=", "chain") else "list", cases)


def find_names(node: Node) -> frozenset[str]:
    """Return the variables of a formula."""
    if node.op == "name":
        return frozenset([node.text])
    names: frozenset[str] = frozenset()
    for part in node.args:
        names |= find_names(part)
    return names


def count_nodes(node: Node) -> int:
    """Return the number of parts of a formula."""
    return 1 + sum(count_nodes(part) for part in node.args)
