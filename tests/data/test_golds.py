"""How the answer of a benchmark with choices is read."""

import json

import pytest

from data.files import UserError
from data.golds import parse_choices, resolve_gold
from eval.grade import load_benchmark

ANIMALS = ("wolf", "cat", "dog", "horse")


@pytest.mark.parametrize(
    ("answer", "choices", "expected"),
    [
        ("cat", ANIMALS, "cat"),
        (" Cat ", ANIMALS, "cat"),
        ("B", ANIMALS, "cat"),
        ("(b)", ANIMALS, "cat"),
        (0, ANIMALS, "wolf"),  # an index, as MMLU has it
        (3, ANIMALS, "horse"),
        ("1", ANIMALS, "wolf"),  # a key, as ARC has it
        ("4", ANIMALS, "horse"),
        ("12", ("3", "6", "12", "24"), "12"),
        (12, ("3", "6", "12", "24"), "12"),
        ("2", ("1", "2", "3"), "2"),  # both readings agree
        ("B", ("B", "A"), "B"),  # letters name themselves
        ("(A)", ("(A)", "(B)"), "(A)"),
        ("B", ("cat", "cat"), "cat"),
        ("True", ("True", "False"), "True"),
        (2.5, ("2.5", "3"), "2.5"),
        ("bird", ANIMALS, "bird"),  # refused by load_benchmark
        (4, ANIMALS, "4"),
    ],
)
def test_a_gold_is_read_as_text_letter_index_or_key(answer, choices, expected):
    assert resolve_gold(answer, choices, "file:1") == expected


@pytest.mark.parametrize(
    ("answer", "choices"),
    [("2", ("2", "4", "6")), (1, ("1", "2", "3")), (2, ("2", "3", "4")), ("B", ("B", "both", "neither"))],
)
def test_an_ambiguous_gold_is_refused_in_one_line(answer, choices, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"id": "p7", "question": "q", "answer": answer, "choices": choices}) + "\n")

    with pytest.raises(UserError, match=r"mine\.jsonl:1: 'p7': .*ambiguous") as caught:
        load_benchmark(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", ["bird", "E", 4, -1, "5", "0"])
def test_an_answer_that_is_not_on_offer_is_refused(answer, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"id": "p7", "question": "q", "answer": answer, "choices": ANIMALS}) + "\n")

    with pytest.raises(UserError, match=r"mine\.jsonl:1: .*none of its choices"):
        load_benchmark(str(file))


@pytest.mark.parametrize("labels", [{}, {"label": None}])
def test_choices_without_labels_have_none(labels):
    # As a label, None would be the text "None".
    choices, read = parse_choices([{"text": "dog"} | labels, {"text": "None"}], "file:1")
    assert (choices, read) == (("dog", "None"), ())
    assert resolve_gold("None", choices, "file:1", read) == "None"
    assert resolve_gold("A", choices, "file:1", read) == "dog"


def test_with_labels_an_answer_is_a_label_or_a_text():
    # "4" would be the last one by its place.
    for answer, expected in [("0", "wolf"), ("3", "horse"), ("horse", "horse"), ("4", "4"), (4, "4")]:
        assert resolve_gold(answer, ANIMALS, "file:1", labels=("0", "1", "2", "3")) == expected

    # Letters that stand before the choices take nothing away.
    assert resolve_gold(1, ANIMALS, "file:1", labels=("A", "B", "C", "D")) == "cat"
