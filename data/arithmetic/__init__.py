"""arithmetic_v1: whole-number problems of one to four operations, each with its worked solution."""

from data.arithmetic.chain import draw_chain
from data.arithmetic.expression import draw_expression
from data.arithmetic.word import draw_word

# Sorted by name: a family that is drawn by chance depends on the order.
DRAWS = {
    "chain": draw_chain,
    "expression": draw_expression,
    "word": draw_word,
}
