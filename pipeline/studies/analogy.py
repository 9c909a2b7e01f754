"""King - man + woman: does the offset between two words lead from a third one to its partner?

Two hundred pairs of words in eight kinds (data/studies/analogy.jsonl). Of each pair "a b" and the next one "c d" of its
kind it is asked whether d is the word nearest to c + (b - a) by the cosine, among all words of the list but a, b and c.

Source: T. Mikolov et al. 2013, "Linguistic regularities in continuous space word representations"; that c alone is
often as near: A. Rogers et al. 2017, "The (too many) problems of analogical reasoning with word vectors".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.files import UserError, read_jsonl
from eval.studies import Findings, estimate_mean, make_line
from pipeline.prompts import encode_text
from pipeline.settings import Count, Share
from pipeline.studies.states import compute_states
from pipeline.studies.study import DATA, Base, StudySettings

CLAIM = "King - man + woman is queen: a relation between words is a direction in the space of their vectors."
LIMITS = (
    "It says how often a direction finds a partner among the 378 words of the list, in this base's input embeddings; "
    "it does not say that the base uses such directions."
)
NEEDS = "words"


class Settings(StudySettings):
    """The study's recipe."""

    random_offsets: Count
    depth: Share


@dataclass(frozen=True)
class Quadruple:
    """a is to b as c is to d; each is the place of a word in the list."""

    kind: str
    a: int
    b: int
    c: int
    d: int


def measure(settings: Settings, base: Base) -> Findings:
    """Measure in the embeddings and the states of a middle layer."""
    model, tokenizer = base.load()
    words, quadruples = read_quadruples()
    rows = encode_words(tokenizer, words)
    spaces = read_embeddings(model, [row[0] for row in rows])

    # A word alone would be the first token, whose states are like no others.
    opening = encode_text(tokenizer, "The word is")
    sentences = [opening + row for row in rows]
    states = compute_states(model, sentences, "analogy: states")

    last = states.shape[1] - 1
    middle = round(settings.depth * last)
    spaces["middle layer"] = states[:, middle]

    rng = np.random.default_rng(settings.seed)
    outcomes = {}
    for name, vectors in spaces.items():
        outcomes[name] = solve(vectors, quadruples, settings.random_offsets, rng)
    return summarize(quadruples, outcomes)


def read_embeddings(model, ids: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the vectors (tokens, size) of tokens in the input embeddings, and in the output's where it has others."""
    matrices = {
        "input": model.get_input_embeddings().weight,
        "output": model.get_output_embeddings().weight,
    }
    # Many bases have one matrix for both.
    if matrices["output"] is matrices["input"]:
        del matrices["output"]

    vectors = {}
    for name, matrix in matrices.items():
        rows = matrix[ids].detach()
        # numpy has no bfloat16.
        vectors[name] = rows.float().cpu().numpy()
    return vectors


def read_quadruples() -> tuple[list[str], list[Quadruple]]:
    """Return the words, and each pair with the next one of its kind."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for _, row in read_jsonl(DATA / "analogy.jsonl"):
        pair = (row["a"], row["b"])
        kinds.setdefault(row["kind"], []).append(pair)

    places: dict[str, int] = {}
    quadruples = []
    for kind, pairs in kinds.items():
        numbers = []
        for pair in pairs:
            # A word of several pairs keeps its first place.
            numbers.append([places.setdefault(word, len(places)) for word in pair])

        # The last pair goes with the first one, so every pair is asked for once.
        following = numbers[1:] + numbers[:1]
        for first, second in zip(numbers, following, strict=True):
            quadruples.append(Quadruple(kind, *first, *second))
    return list(places), quadruples


def encode_words(tokenizer, words: Sequence[str]) -> list[list[int]]:
    """Return each word, with the space before it, as its only token.

    Raises:
        UserError: A word is more than one token of this base.
    """
    rows = [encode_text(tokenizer, f" {word}") for word in words]
    for word, row in zip(words, rows, strict=True):
        if len(row) > 1:
            raise UserError(f"analogy: {word!r} is {len(row)} tokens of this base, not one; leave BASE out")
    return rows


def solve(
    vectors: np.ndarray,
    quadruples: Sequence[Quadruple],
    random_offsets: int,
    rng: np.random.Generator,
) -> dict[str, list[float]]:
    """Return for each way to find d how often it is found, of each quadruple.

    Args:
        vectors: (words, size).
        quadruples: Of words.
        random_offsets: How many offsets of another kind are tried for each.
        rng: Chooses them.
    """
    # All vectors of a model lie in one direction from 0; what tells words apart is the rest.
    vectors = vectors - vectors.mean(0)
    nothing = np.zeros_like(vectors[0])

    real, none, wrong = [], [], []
    for one in quadruples:
        offset = vectors[one.b] - vectors[one.a]
        real.append(float(is_found(vectors, one, offset)))
        # "Kings" may be the nearest word to "king", whatever is added.
        none.append(float(is_found(vectors, one, nothing)))

        # It is about as long as a real one: what is wrong with it is the relation.
        others = [other for other in quadruples if other.kind != one.kind]
        hits = []
        for i in rng.integers(0, len(others), random_offsets):
            random_offset = vectors[others[i].b] - vectors[others[i].a]
            hits.append(is_found(vectors, one, random_offset))
        wrong.append(float(np.mean(hits)))

    return {
        "with the offset": real,
        "without it": none,
        "with a random one": wrong,
    }


def is_found(vectors: np.ndarray, one: Quadruple, offset: np.ndarray) -> bool:
    """Whether d is nearest to c plus an offset, of all words but a, b and c."""
    target = vectors[one.c] + offset
    # Up to the length of the target, which is the same for all words.
    cosines = vectors @ target / np.linalg.norm(vectors, axis=1)
    # Else c itself would win nearly always: an offset is short.
    cosines[[one.a, one.b, one.c]] = -np.inf
    return int(cosines.argmax()) == one.d


def summarize(quadruples: Sequence[Quadruple], outcomes: Mapping[str, Mapping[str, Sequence[float]]]) -> Findings:
    """Return what it comes to: the effects and the control are of the input embeddings."""
    kinds = list(dict.fromkeys(one.kind for one in quadruples))
    # A word has one vector there, whatever stands before it, as in the source.
    deciding = {way: np.array(values) for way, values in outcomes["input"].items()}
    real, none, wrong = deciding.values()

    lines = []
    for way, hits in deciding.items():
        points = {f"all, {space}": np.array(found[way]) for space, found in outcomes.items()}
        for kind in kinds:
            is_of_kind = [one.kind == kind for one in quadruples]
            points[kind] = hits[is_of_kind]
        lines.append(make_line(way, points))

    return Findings(
        n=len(quadruples),
        unit="analogies",
        effects=[
            estimate_mean("found with the offset, above without it", real - none),
            estimate_mean("found with the offset, above a random one", real - wrong),
        ],
        controls=[
            # It leads away from the right word, where c alone was near it.
            estimate_mean("found with a random offset, above without it", wrong - none, may_fall=True),
        ],
        lines=lines,
        x_label="kind of pair (in the input embeddings)",
        y_label="share of partners found",
    )
