"""The word problems of :mod:`data.arithmetic` in words: worlds, each of parts to begin with, parts for the middle and
parts that ask, and the people and things they are told of."""

import random
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """One or two sentences of a word problem: its form, its wordings, and what each result means."""

    id: str
    form: str
    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    now: str = " now"  # how a question after this part ends: "... have now?"
    passes_on: bool = False  # the value belongs to {other} from here on


@dataclass(frozen=True)
class World:
    """Parts that fit together in any order, since all of them speak of one quantity."""

    id: str
    begin: tuple[Part, ...]
    middle: tuple[Part, ...]
    ask: tuple[Part, ...]


NAMES = {
    "she": "Mia Zoe Anna Lena Ruth Nora Ivy Clara Aisha Mei Priya Sofia Ella Grace Hana Lucy Maya Rosa Tara",
    "he": "Tom Ben Leo Omar Raj Ivan Noah Max Paul Sam Kofi Luis Hugo Finn Jack Ali Ken Peter Victor Diego",
}
PRONOUNS = {"she": ("her", "her"), "he": ("his", "him")}

# what, in what it comes, how it is gathered
THINGS = (
    ("apples", "bags", "picks"),
    ("pears", "crates", "picks"),
    ("lemons", "baskets", "picks"),
    ("shells", "jars", "finds"),
    ("marbles", "bags", "collects"),
    ("stickers", "packs", "collects"),
    ("stamps", "envelopes", "collects"),
    ("cards", "packs", "collects"),
    ("cookies", "tins", "bakes"),
    ("muffins", "trays", "bakes"),
    ("candles", "boxes", "makes"),
    ("beads", "jars", "makes"),
    ("kites", "boxes", "makes"),
    ("toy cars", "boxes", "collects"),
    ("badges", "boxes", "collects"),
    ("plums", "baskets", "picks"),
)
GOODS = ("books", "mugs", "hats", "shirts", "puzzles", "pens", "toys", "plants", "posters", "games")
STOCK = ("lamps", "chairs", "clocks", "vases", "kettles", "scarves", "drums", "tents", "mirrors", "rugs")
TREATS = ("lunch", "a gift", "a ticket", "a taxi ride", "food", "a haircut")
WISHES = ("bike", "camera", "guitar", "phone", "coat", "tent")
VEHICLES = ("bus", "train", "tram", "ferry", "boat")
SHOPS = ("shop", "store")
# the verb three times, and what it is done to
ACTIVITIES = (
    ("read", "reads", "pages"),
    ("walk", "walks", "miles"),
    ("write", "writes", "letters"),
    ("bake", "bakes", "rolls"),
    ("plant", "plants", "trees"),
    ("paint", "paints", "tiles"),
    ("wash", "washes", "cars"),
    ("solve", "solves", "riddles"),
)

WORLDS = (
    World(
        "things",
        (
            Part("has", "a", ("{name} has {a} {things}.", "{name} starts with {a} {things}.")),
            Part(
                "boxes",
                "a*b",
                (
                    "{name} has {a} {boxes} with {b} {things} each.",
                    "{name} buys {a} {boxes} with {b} {things} each.",
                    "{name} fills {a} {boxes} with {b} {things} each.",
                ),
                ("{things} in {boxes}",),
                " in all",
            ),
            Part(
                "days",
                "a*b",
                ("{name} starts with no {things} and {gathers} {b} a day for {a} days.",),
                ("{things} so far",),
                " in all",
            ),
        ),
        (
            Part(
                "gain",
                "v+a",
                (
                    "{He} buys {a} more {things}.",
                    "{He} gets {a} more {things} from a friend.",
                    "A neighbor gives {him} {a} more {things}.",
                ),
                ("{things} now",),
            ),
            Part(
                "lose",
                "v-a",
                (
                    "{He} gives away {a} {things}.",
                    "{He} gives {a} {things} to {his} cousin.",
                    "{He} sells {a} {things}.",
                    "{He} loses {a} {things}.",
                ),
                ("{things} left",),
            ),
            Part(
                "more boxes",
                "v+a*b",
                (
                    "Then {he} buys {a} {boxes} with {b} {things} each.",
                    "Then {he} gets {a} {boxes} with {b} {things} each.",
                ),
                ("New {things}", "{things} now"),
            ),
            Part(
                "gives each",
                "v-a*b",
                ("{He} gives {b} {things} to each of {his} {a} friends.",),
                ("{things} given", "{things} left"),
            ),
            Part(
                "times",
                "v*a",
                ("{other} {has} {times} as many {things} as {name}.",),
                ("{other}'s {things}",),
                "",
                True,
            ),
            Part(
                "pile",
                "v/a",
                ("{He} sorts all of {his} {things} into {a} equal piles and keeps only one pile.",),
                ("{things} kept",),
            ),
        ),
        (
            Part("count", "", ("How many {things} does {name} have{now}?",)),
            Part(
                "share",
                "v/a",
                (
                    "{He} shares all of {his} {things} equally among {a} children. "
                    "How many {things} does each child get?",
                    "{He} gives all of {his} {things} to {a} children in equal shares. "
                    "How many {things} does each child get?",
                ),
                ("{things} each",),
            ),
            Part(
                "pack",
                "v/a",
                ("{He} packs all of {his} {things} into {boxes} of {a}. How many {boxes} does {he} fill?",),
                ("{boxes} filled",),
            ),
            Part(
                "sell",
                "v*a",
                ("{He} sells all of {his} {things} for {a} dollars each. How many dollars does {he} get?",),
                ("Dollars",),
            ),
            Part(
                "goal",
                "a-v",
                ("{He} wants to have {a} {things}. How many more {things} does {he} need?",),
                ("{things} needed",),
            ),
            Part(
                "both",
                "v+a",
                ("{third} has {a} {things}. How many {things} do {name} and {third} have together?",),
                ("{things} together",),
            ),
        ),
    ),
    World(
        "money",
        (
            Part("has", "a", ("{name} has {a} dollars.", "{name} has saved {a} dollars.")),
            Part(
                "earns",
                "a*b",
                (
                    "{name} starts with no money, works {a} hours and earns {b} dollars an hour.",
                    "{name} starts with no money and earns {b} dollars a day for {a} days.",
                    "{name} starts with no money and saves {b} dollars a week for {a} weeks.",
                ),
                ("Dollars so far",),
                " in all",
            ),
        ),
        (
            Part(
                "gets",
                "v+a",
                (
                    "{He} earns {a} more dollars.",
                    "{He} gets {a} dollars from {his} aunt.",
                    "{He} wins {a} dollars in a contest.",
                ),
                ("Dollars now",),
            ),
            Part(
                "spends",
                "v-a",
                ("{He} spends {a} dollars on {treat}.", "{He} pays {a} dollars for {treat}."),
                ("Dollars left",),
            ),
            Part(
                "buys",
                "v-a*b",
                ("{He} buys {a} {goods} for {b} dollars each.",),
                ("Cost of {goods}", "Dollars left"),
            ),
            Part(
                "sells",
                "v+a*b",
                ("{He} sells {a} old {junk} for {b} dollars each.",),
                ("Dollars for {junk}", "Dollars now"),
            ),
            Part(
                "times",
                "v*a",
                ("{other} {has} {times} as much money as {name}.",),
                ("{other}'s dollars",),
                "",
                True,
            ),
        ),
        (
            Part("count", "", ("How many dollars does {name} have{now}?",)),
            Part(
                "wish",
                "a-v",
                (
                    "A {wish} costs {a} dollars. How many more dollars does {he} need to buy it?",
                    "{He} wants a {wish} that costs {a} dollars. How many more dollars does {he} need?",
                ),
                ("Dollars needed",),
            ),
            Part(
                "spends all",
                "v/a",
                (
                    "{He} spends all of {his} money on {goods} that cost {a} dollars each. "
                    "How many {goods} does {he} buy?",
                ),
                ("{goods} bought",),
            ),
            Part(
                "share",
                "v/a",
                ("{He} shares all of {his} money equally among {a} children. How many dollars does each child get?",),
                ("Dollars each",),
            ),
            Part(
                "both",
                "v+a",
                ("{third} has {a} dollars. How many dollars do {name} and {third} have together?",),
                ("Dollars together",),
            ),
        ),
    ),
    World(
        "ride",
        (
            Part("on", "a", ("There are {a} people on a {bus}.", "A {bus} leaves with {a} people on board.")),
            Part("groups", "a*b", ("An empty {bus} picks up {a} groups of {b} people.",), ("People on board",)),
        ),
        (
            Part(
                "in",
                "v+a",
                ("At the next stop, {a} people get on.", "Then {a} more people get on."),
                ("People now",),
            ),
            Part(
                "out",
                "v-a",
                ("At the next stop, {a} people get off.", "Then {a} people get off."),
                ("People left",),
            ),
            Part(
                "stops in",
                "v+a*b",
                ("At each of the next {a} stops, {b} people get on.",),
                ("People getting on", "People now"),
            ),
            Part(
                "stops out",
                "v-a*b",
                ("At each of the next {a} stops, {b} people get off.",),
                ("People getting off", "People left"),
            ),
        ),
        (
            Part("count", "", ("How many people are on the {bus} now?",)),
            Part(
                "seats",
                "a-v",
                ("The {bus} has {a} seats, and everyone on board sits down. How many seats stay empty?",),
                ("Empty seats",),
            ),
            Part(
                "fare",
                "v*a",
                ("Everyone on board pays {a} dollars. How many dollars do they pay in all?",),
                ("Dollars paid",),
            ),
            Part(
                "walk",
                "v/a",
                ("At the last stop, everyone gets off and walks on in groups of {a}. How many groups are there?",),
                ("Groups",),
            ),
        ),
    ),
    World(
        "shop",
        (
            Part("has", "a", ("A {shop} has {a} {stock}.", "There are {a} {stock} in a {shop}.")),
            Part(
                "shelves",
                "a*b",
                ("A {shop} has {a} shelves with {b} {stock} each.",),
                ("{stock} at first",),
                " in all",
            ),
        ),
        (
            Part(
                "brings",
                "v+a",
                ("A truck brings {a} more {stock}.", "The {shop} gets {a} more {stock}."),
                ("{stock} now",),
            ),
            Part(
                "sells",
                "v-a",
                ("The {shop} sells {a} {stock}.", "Customers buy {a} {stock}."),
                ("{stock} left",),
            ),
            Part(
                "crates",
                "v+a*b",
                ("A truck brings {a} crates with {b} {stock} each.",),
                ("New {stock}", "{stock} now"),
            ),
            Part(
                "days",
                "v-a*b",
                ("For {a} days, the {shop} sells {b} {stock} a day.",),
                ("{stock} sold", "{stock} left"),
            ),
        ),
        (
            Part("count", "", ("How many {stock} does the {shop} have{now}?",)),
            Part(
                "sells all",
                "v*a",
                (
                    "Then the {shop} sells all the {stock} it has for {a} dollars each. "
                    "How many dollars does it get for them?",
                ),
                ("Dollars",),
            ),
            Part(
                "rows",
                "v/a",
                ("It puts all the {stock} it has in {a} equal rows. How many {stock} are in each row?",),
                ("{stock} each",),
            ),
            Part(
                "goal",
                "a-v",
                ("It needs {a} {stock} in all. How many more {stock} must it order?",),
                ("{stock} needed",),
            ),
        ),
    ),
    World(
        "work",
        (
            Part("first", "a", ("On Monday, {name} {does} {a} {units}.", "{name} {does} {a} {units} in the morning.")),
            Part("days", "a*b", ("{name} {does} {b} {units} a day for {a} days.",), ("{units} so far",)),
        ),
        (
            Part(
                "more",
                "v+a",
                ("Then {he} {does} {a} more {units}.", "The next day, {he} {does} {a} {units}."),
                ("{units} so far",),
            ),
            Part(
                "stretch",
                "v+a*b",
                ("For the next {a} days, {he} {does} {b} {units} a day.",),
                ("New {units}", "{units} so far"),
            ),
        ),
        (
            Part("count", "", ("How many {units} does {name} {do} in all?",)),
            Part(
                "goal",
                "a-v",
                ("{He} wants to {do} {a} {units} in all. How many more {units} must {he} {do}?",),
                ("{units} to go",),
            ),
            Part(
                "rival",
                "v*a",
                ("{other} {does} {times} as many {units} as {name}. How many {units} does {other} {do}?",),
                ("{other}'s {units}",),
            ),
        ),
    ),
)


def slots(rng: random.Random) -> dict[str, Any]:
    """The people and things of one word problem."""
    things, boxes, gathers = rng.choice(THINGS)
    do, does, units = rng.choice(ACTIVITIES)
    goods, junk = rng.sample(GOODS, 2)
    gender, other_gender = (rng.choice(("he", "she")) for _ in range(2))
    people = rng.sample(NAMES["he"].split(), 3), rng.sample(NAMES["she"].split(), 3)
    name, other, third = people[gender == "she"][0], people[other_gender == "she"][1], people[rng.randrange(2)][2]
    his, him = PRONOUNS[gender]
    return {
        **{"name": name, "he": gender, "He": gender.capitalize(), "his": his, "him": him, "has": "has"},
        **{"other": other, "other_his": PRONOUNS[other_gender][0], "third": third},
        **{"things": things, "boxes": boxes, "gathers": gathers, "do": do, "does": does, "units": units},
        **{"goods": goods, "junk": junk, "treat": rng.choice(TREATS), "wish": rng.choice(WISHES)},
        **{"bus": rng.choice(VEHICLES), "stock": rng.choice(STOCK), "shop": rng.choice(SHOPS), "now": ""},
    }
