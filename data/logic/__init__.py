"""logic_v1: rule chains, truth values, orderings, syllogisms and analogies, each with its worked solution.

Every family is made so that its surface does not give the answer away: each wording, negation and mood comes with
either answer, and :mod:`data.generated` keeps as many of one label as of the other.
"""

from data.logic import analogy, boolean, ordering, rules, syllogism

DRAWS = {
    "analogy": analogy.draw_analogy,
    "boolean": boolean.draw_boolean,
    "ordering": ordering.draw_ordering,
    "rules": rules.draw_rules,
    "syllogism": syllogism.draw_syllogism,
}
# What may follow the lines of a solution, for those who write one and those who check one.
PROCEDURES = {
    "analogy": analogy.list_next_lines,
    "boolean": boolean.list_next_lines,
    "ordering": ordering.list_next_lines,
    "rules": rules.list_next_lines,
    "syllogism": syllogism.list_next_lines,
}
