"""The relations of the analogies and their pairs (relations.yaml)."""

import functools
from dataclasses import dataclass
from pathlib import Path

import yaml

Pair = tuple[str, ...]  # a, b, and a word of their scene


@dataclass(frozen=True)
class Relation:
    """Pairs a, b such that "a is PHRASE b"; relations.yaml says what the fields are for."""

    phrase: str
    kinds: tuple[str, str]
    sides: list[int]
    pairs: list[Pair]


@functools.cache
def read_relations() -> list[Relation]:
    """The relations of relations.yaml."""
    path = Path(__file__).with_suffix(".yaml")

    relations = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        pairs = [tuple(pair.split()) for pair in entry.pop("pairs")]
        relations.append(Relation(**entry, pairs=pairs))
    return relations
