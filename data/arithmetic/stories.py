"""The words of the word problems: worlds, each of parts of a story, and people and things (stories.yaml)."""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data.words import NAMES

GENDERS = ("he", "she")
POSSESSIVES = {"he": "his", "she": "her"}
OBJECTS = {"he": "him", "she": "her"}


@dataclass(frozen=True)
class Part:
    """One or two sentences of a word problem: its form, its wordings, and what each result is."""

    id: str
    form: str
    texts: Sequence[str]
    labels: Sequence[str] = ()
    now: str = " now"  # how a question after this part ends: "... have now?"
    passes_on: bool = False  # the value belongs to {other} from here on


@dataclass(frozen=True)
class World:
    """Parts that fit together in any order, since all of them speak of one quantity."""

    id: str
    begin: list[Part]
    middle: list[Part]
    ask: list[Part]


@functools.cache
def read_stories() -> dict[str, Any]:
    """What stands in stories.yaml."""
    path = Path(__file__).with_suffix(".yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@functools.cache
def read_worlds() -> list[World]:
    """The worlds of stories.yaml."""
    worlds = []
    for name, groups in read_stories()["worlds"].items():
        parts = {}
        # The places are the fields of a world: begin, middle, ask.
        for place, group in groups.items():
            parts[place] = [Part(part, **fields) for part, fields in group.items()]
        worlds.append(World(name, **parts))
    return worlds


def draw_slots(rng: random.Random) -> dict[str, Any]:
    """The people and things of one word problem."""
    stories = read_stories()
    things, boxes, gathers = rng.choice(stories["things"])
    do, does, units = rng.choice(stories["activities"])
    goods, junk = rng.sample(stories["goods"], 2)

    # Three different people, of whatever gender.
    gender = rng.choice(GENDERS)
    other_gender = rng.choice(GENDERS)
    people = {each: rng.sample(NAMES[each].split(), 3) for each in GENDERS}
    third_gender = rng.choice(GENDERS)

    return {
        "things": things,
        "boxes": boxes,
        "gathers": gathers,
        "do": do,
        "does": does,
        "units": units,
        "goods": goods,
        "junk": junk,
        "name": people[gender][0],
        "he": gender,
        "He": gender.capitalize(),
        "his": POSSESSIVES[gender],
        "him": OBJECTS[gender],
        "has": "has",
        "other": people[other_gender][1],
        "other_his": POSSESSIVES[other_gender],
        "third": people[third_gender][2],
        "treat": rng.choice(stories["treats"]),
        "wish": rng.choice(stories["wishes"]),
        "bus": rng.choice(stories["vehicles"]),
        "stock": rng.choice(stories["stock"]),
        "shop": rng.choice(stories["shops"]),
        "now": "",
    }
