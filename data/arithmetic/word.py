"""Word problems: parts of a story put together, each with the operation that it stands for."""

import random
from typing import Any

from data.arithmetic.forms import OPERATIONS, Draw, count_operations, draw_tree
from data.arithmetic.stories import Part, World, draw_slots, read_worlds
from data.arithmetic.trees import make_problem
from data.problem import Problem
from data.words import capitalize_first

# More parts than this have more operations than level 5.
MAX_MIDDLE = 4


def draw_word(rng: random.Random, level: int) -> Problem | None:
    """One word problem; None where the draw leads nowhere."""
    world = rng.choice(read_worlds())
    most = min(MAX_MIDDLE, len(world.middle))
    count = rng.randint(0, most)
    middle = rng.sample(world.middle, count)
    begin = rng.choice(world.begin)
    ask = rng.choice(world.ask)
    parts = [begin, *middle, ask]

    # Only a part that asks may have no operation of its own: "How many does she have?"
    forms = [part.form for part in parts if part.form]
    operations = sum(map(count_operations, forms))
    if operations != OPERATIONS[level]:
        return None

    draw = draw_tree(rng, forms, level)
    # With 1, the plural would be wrong: "1 apples".
    if draw is None or 1 in draw.list_numbers():
        return None

    story = _Story(rng)
    for index, part in enumerate(parts):
        # Only the last part can be without a form, so the places of parts and forms agree.
        numbers = draw.numbers[index] if part.form else ()
        in_middle = part in middle
        story.add_part(part, numbers, in_middle)

    question = " ".join(story.sentences)
    key = _make_key(world, parts, draw)
    return make_problem("word", level, question, draw.tree, key, story.labels)


class _Story:
    """The sentences so far, and the people and things that the next one may name."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.slots: dict[str, Any] = draw_slots(rng)
        self.sentences: list[str] = []
        self.labels: list[str] = []

    def add_part(
        self,
        part: Part,
        numbers: tuple[int, ...],
        in_middle: bool,
    ) -> None:
        slots = self.slots
        # A form has up to two numbers; the texts call them {a} and {b}.
        slots.update(zip("ab", numbers, strict=False))
        is_double = numbers[:1] == (2,)
        slots["times"] = "twice" if is_double else f"{slots['a']} times"

        text = self.rng.choice(part.texts)
        sentence = text.format(**slots)
        self.sentences.append(sentence)

        for wording in part.labels:
            label = wording.format(**slots)
            # A label begins its line of the solution.
            self.labels.append(capitalize_first(label))

        # How the next part speaks of what this one leaves: "now has", "have now".
        slots["now"] = part.now
        slots["has"] = "now has" if in_middle else "has"
        if part.passes_on:
            self._pass_on()

    def _pass_on(self) -> None:
        """Go on with the other person, by name, since "she" could be either."""
        for pronoun in ("name", "he", "He", "him"):
            self.slots[pronoun] = self.slots["other"]
        self.slots["his"] = self.slots["other_his"]


def _make_key(world: World, parts: list[Part], draw: Draw) -> str:
    # Neither wordings nor people are in it: they do not change the sum.
    names = ",".join(part.id for part in parts)
    drawn = draw.list_numbers()
    numbers = ",".join(map(str, drawn))
    return f"word:{world.id}/{names}:{numbers}"
