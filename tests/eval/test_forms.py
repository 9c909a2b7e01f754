"""The kinds of fault that graders have, each as a property: wordings, golds and near misses are drawn at random."""

import random

import pytest

from data.problem import Completion, Problem
from eval.grade import grade

ROUNDS = 40
NAMES = ("wolf", "cat", "dog", "horse", "mouse", "grey fox", "blue jay", "crow", "oak tree", "vitamin C")
LETTERS = "ABCDE"
TRUTHS = [("True", "False"), ("yes", "no"), ("valid", "invalid")]

# What may stand around any answer. "{}" is the answer.
WORDINGS = (
    "\\boxed{{{}}}",
    "\\fbox{{{}}}",
    "\\boxed{{{}}}.",
    "$\\boxed{{{}}}$",
    "\\boxed{{\\text{{{}}}}}",
    "<think>no, 99</think>\n\\boxed{{{}}}",
    "Hence \\boxed{{{}}}, which took 3 steps.",
    "Reply with \\boxed{{answer}}. So \\boxed{{{}}}",
    "Give it as \\boxed{{\\text{{your answer}}}}.\n\n\\boxed{{{}}}",
    "The answer is {}.",
    "The answer is **{}**.",
    "The answer is {} because of that.",
    "The answer is {}, since it must be.",
    "The answer is {} (because it must be).",
    "The answer is {}, I think.",
    "The answer is:\n{}",
    "**Answer:** {}",
    "#### {}",
    "So it is {}.",
    "{}",
    "{}.",
    "#### {}\n\nQuestion: what now?\n#### 3",
)

# What makes two answers a hedge.
HEDGES = (
    "\\boxed{{{0} or {1}}}",
    "\\boxed{{{0}, {1}}}",
    "\\boxed{{{0} and {1}}}",
    "\\boxed{{{0} {1}}}",
    "\\boxed{{{0} vs {1}}}",
    "\\boxed{{{0}|{1}}}",
    "\\boxed{{{0} ({1})}}",
    "\\boxed{{{0}}} or {1}",
    "\\boxed{{{0}}} (or {1})",
    "\\boxed{{{0}}}. Alternatively, {1}.",
    "The answer is {0}. However, it could be {1}.",
    "I think {0}, or maybe {1}",
    "{0}? {1}?",
    "\\boxed{{{0}}} \\boxed{{{1}}}",
    "{1} or \\boxed{{{0}}}",
    "not \\boxed{{{0}}}",
    "The answer is {0} or {1}.",
    "The answer is {0} vs {1}.",
    "The answer is {0} but might be {1}.",
    "The answer is {0}. Or {1}.",
    "The answer is {1}. Or the answer is {0}.",
    "#### {1}\n#### {0}",
    "probably {0}, possibly {1}",
    "either {0} or {1}",
    "<think>so \\boxed{{{0}}}",
)


def is_correct(gold, text, kind="number", choices=None):
    problem = Problem("p", "q", gold, kind, choices)
    return grade(problem, Completion("p", text, 0, 0, 0, "stop")).correct


@pytest.fixture
def rng():
    return random.Random(22)


def draw_choices(rng):
    return tuple(rng.sample(NAMES, 4))


# Hedges


def test_any_kind_of_answer_counts_in_any_wording(rng):
    for wording in WORDINGS:
        for _ in range(ROUNDS):
            number = str(rng.randrange(-99, 10_000))
            assert is_correct(number, wording.format(number)), wording.format(number)

            name = rng.choice(NAMES)
            assert is_correct(name, wording.format(name), "text"), wording.format(name)

            choices = rng.choice([draw_choices(rng), rng.choice(TRUTHS), tuple(LETTERS)])
            gold = rng.choice(choices)
            assert is_correct(gold, wording.format(gold), "label", choices), wording.format(gold)


def test_no_hedge_counts(rng):
    for hedge in HEDGES:
        for _ in range(ROUNDS):
            number = rng.randrange(2, 10_000)
            text = hedge.format(number, number + 1)
            assert not is_correct(str(number), text), text
            assert not is_correct(str(number + 1), text), text

            choices = rng.choice([draw_choices(rng), tuple(LETTERS), ("True", "False", "Unknown")])
            gold, other = rng.sample(choices, 2)
            text = hedge.format(gold, other)
            assert not is_correct(gold, text, "label", choices), text
            assert not is_correct(other, text, "label", choices), text


# Numbers

UNITS = ["apples", "third graders", "white t-shirts", "km", "m", "miles per hour", "dollars", "half-hour lessons"]
UNITS += ["cm^2", "red apples in total", "years old", "%", "USD", "°", "pounds of rice", "m/s"]
OTHER_NUMBERS = ["{} quarters", "{} halves", "{} dozen", "{} million", "{} hundred", "{} squared", "{} tens"]
OTHER_NUMBERS += [
    "\\sqrt{{{}}}",
    "√{}",
    "{}\\pi",
    "{}π",
    "{}!",
    "{}^2",
    "{}:30",
    "1/{}",
    "{}/7919",
    "{}.5",
    "-{}",
    "±{}",
]
OTHER_NUMBERS += [
    "{} divided by 2",
    "{} + 1",
    "{} - 1",
    "{} times 2",
    "{} over 2",
    "half of {}",
    "{}th",
    "{}e1",
    "{},5",
]
OTHER_NUMBERS += [
    "at least {}",
    "more than {}",
    "> {}",
    "\\le {}",
    "{} or so",
    "{} is wrong",
    "{} 000",
    "log {}",
    "x^{}",
]


def test_a_unit_of_one_or_several_words_changes_nothing(rng):
    for unit in UNITS:
        for wording in WORDINGS:
            number = rng.randrange(1, 1000)
            assert is_correct(str(number), wording.format(f"{number} {unit}")), wording.format(f"{number} {unit}")


def test_a_number_that_is_part_of_another_one_does_not_count(rng):
    for near_miss in OTHER_NUMBERS:
        for _ in range(ROUNDS):
            number = rng.randrange(3, 1000)
            written = near_miss.format(number)
            for text in (f"\\boxed{{{written}}}", f"The answer is {written}.", f"So it is {written}."):
                assert not is_correct(str(number), text), text


@pytest.mark.parametrize("letter", "abcdefghijklmnopqrstuvwxyzABCDEFXYZ")
def test_a_letter_that_touches_a_number_is_no_unit(letter):
    assert not is_correct("3", f"\\boxed{{3{letter}}}")
    assert not is_correct("3", f"The answer is 3{letter}.")


def test_thousands_may_be_set_apart_by_any_space_or_comma(rng):
    for mark in (",", " ", "\\ ", "~", "\\,", "{,}", ",\\!", "\u202f", "，"):
        for _ in range(ROUNDS):
            number = rng.randrange(1000, 10**9)
            written = f"{number:,}".replace(",", mark)
            assert is_correct(str(number), f"\\boxed{{{written}}}"), written
            assert is_correct(str(number), f"so there are {written} bees"), written
            assert not is_correct(str(number), f"\\boxed{{{written}0}}"), written


def test_the_last_side_of_an_equation_counts_where_the_others_lead_to_it(rng):
    for _ in range(ROUNDS):
        one, two = rng.randrange(2, 99), rng.randrange(2, 99)
        total = str(one + two)
        workings = [f"{one} + {two} = {total}", f"x = {total}", f"x = {one} + {two} = {total}"]
        for working in (*workings, f"Total apples = {total}"):
            assert is_correct(total, f"\\boxed{{{working}}}"), working
            assert is_correct(total, f"So {working}."), working
        guesses = [f"x={one} x={total}", f"{one} or {two} = {total}", f"x = {one}, y = {total}"]
        for list_of_guesses in (*guesses, f"x+y={total}", f"3x-2y={total}"):
            assert not is_correct(total, f"\\boxed{{{list_of_guesses}}}"), list_of_guesses


def test_a_reason_is_not_read_as_the_answer(rng):
    for _ in range(ROUNDS):
        one, two = rng.sample(range(2, 99), 2)
        for reason in (
            "since {0} + {1} = {2}",
            "because {1} + {0} = {2}",
            "as it is {2} less {1}",
            "(since {2} - {1} = {0})",
        ):
            text = f"The answer is {one} {reason.format(one, two, one + two)}."
            assert is_correct(str(one), text), text
            assert not is_correct(str(one + two), text), text


# Denials


def test_what_is_denied_does_not_count_and_what_is_said_instead_does(rng):
    for _ in range(ROUNDS):
        one, two = rng.sample(range(2, 99), 2)
        for denial in (
            "The answer cannot be {0}.",
            "It is not {0}.",
            "The answer is not {0}.",
            "It isn't {0}.",
            "not {0}",
        ):
            assert not is_correct(str(one), denial.format(one)), denial
        for contrast in (
            "The answer is not {1} but {0}.",
            "The answer is {0}, not {1}.",
            "It is not {1} but {0}",
            "It's not {1}, it's {0}.",
        ):
            assert is_correct(str(one), contrast.format(one, two)), contrast
            assert not is_correct(str(two), contrast.format(one, two)), contrast


@pytest.mark.parametrize(
    "text",
    [
        "The argument is anything but {}.",
        "It is incorrect that the argument is {}.",
        "It is false that the argument is {}.",
        "The argument fails to be {}.",
        "This argument is far from {}.",
        "non-{}",
        "Nobody would call this {}.",
        "Any argument other than the {}.",
        "All but the {}.",
    ],
)
def test_a_denied_choice_at_the_end_of_a_sentence_does_not_count(text):
    choices = ("valid", "invalid")
    for choice in choices:
        assert not is_correct(choice, text.format(choice), "label", choices)


@pytest.mark.parametrize(
    "text",
    [
        "The wrong answer is 12.",
        "An incorrect answer: 12",
        "It is false that the answer is 12.",
        "It is not the case that the answer is 12.",
        "not the answer: 12",
        "Nobody says the answer is 12.",
        "I doubt the answer is 12.",
        "The answer is 12? No.",
        "The negative of the answer is 12.",
        "Twice the answer is 12.",
        "One less than the answer is 12.",
        "\\boxed{12} is not the answer.",
        "\\boxed{12} is wrong.",
        "It is false that it is \\boxed{12}.",
        "Twice the answer is \\boxed{12}.",
    ],
)
def test_an_answer_line_or_a_box_that_is_denied_does_not_count(text):
    assert not is_correct("12", text)


@pytest.mark.parametrize(
    "text",
    [
        "I have no doubt that the answer is 12.",
        "Not many know that the answer is 12.",
        "7 is wrong. The answer is 12.",
        "Twice 6 is 12, so the answer is 12.",
        "Cut in half the answer is 12.",
        "I don't think that the answer is 7, so it is 12.",
        "\\boxed{12} is not hard to find.",
        "6 times \\boxed{12} is 72.",
        "That is not true, so \\boxed{12}.",
    ],
)
def test_a_denial_beside_an_answer_line_or_a_box_changes_nothing(text):
    assert is_correct("12", text)


def test_a_choice_may_be_asked_to_be_wrong():
    assert is_correct("cat", "\\boxed{B} is incorrect.", "label", ("wolf", "cat"))
    assert not is_correct("cat", "\\boxed{B} is not the answer.", "label", ("wolf", "cat"))


def test_nothing_but_a_choice_names_it():
    for text in ("She fears nothing but the cat.", "It is none other than the cat."):
        assert is_correct("cat", text, "label", ("wolf", "cat"))


def test_a_choice_may_be_a_word_that_denies():
    assert is_correct("none of them", "We are left with none of them.", "label", ("one", "none of them"))


def test_a_number_in_what_is_denied_does_not_count():
    assert not is_correct("7", "It is false that there are 7 bees.")
    assert is_correct("3", "Ben failed 3 tests.")


@pytest.mark.parametrize(
    "text",
    [
        "The premises can be true and the conclusion false, making the argument invalid.",
        "The reasoning is incorrect and invalid.",
        "It fails: invalid.",
        "Nobody saw the cat, making the argument invalid.",
        "There is nothing to add and the argument is invalid.",
        "The premises fail to support the conclusion, so the argument is invalid.",
    ],
)
def test_a_denial_of_something_else_changes_nothing(text):
    assert is_correct("invalid", text, "label", ("valid", "invalid"))


@pytest.mark.parametrize(
    "text",
    [
        "Yes, there is a cat that is not red. Therefore the conclusion does not follow.",
        "No, there is no problem with the argument. It follows.",
        "No, I do not know.",
        "Yes, that is a good question. I do not know.",
        "False: 1 is not a number.",
    ],
)
def test_a_word_at_the_beginning_is_no_answer_by_itself(text):
    for choices in (("yes", "no"), ("True", "False")):
        assert not any(is_correct(choice, text, "label", choices) for choice in choices)


def test_only_a_correction_takes_back_what_was_said():
    for correction in ("No, the answer is 8.", "No - the answer is 8."):
        assert is_correct("8", f"The answer is 7. {correction}")
    assert not is_correct("8", "The answer is 7. I have no doubt that the answer is 8.")


@pytest.mark.parametrize("choices", [*TRUTHS, ("no", "yes")])
def test_of_two_opposites_the_denied_one_names_the_other(choices):
    for denied, other in (choices, choices[::-1]):
        for wording in ("It is not {}.", "\\boxed{{not {}}}", "The argument isn't {}.", "This cannot be {}."):
            text = wording.format(denied)
            assert not is_correct(denied, text, "label", choices), text
            assert is_correct(other, text, "label", choices), text
            # With a third choice, it says nothing.
            assert not is_correct(other, text, "label", (*choices, "unknown")), text
        for wording in ("\\boxed{{not necessarily {}}}", "neither {} nor anything", "I doubt that it is {} or so"):
            assert not is_correct(other, wording.format(denied), "label", choices)


def test_no_is_an_answer_only_where_it_is_no_determiner():
    for text in ("I have no idea.", "There is no other way.", "No idea.", "In no case.", "It is True, no doubt."):
        assert not is_correct("no", text, "label", ("yes", "no")), text
        assert not is_correct("False", text, "label", ("True", "False")), text
    for text in ("No.", "No, it is not so.", "No, because it is red.", "no", "No. There is another way."):
        assert is_correct("no", text, "label", ("yes", "no")), text


# Choices

BOTH = ["{0}. {1}", "({0}) {1}", "{0}: {1}", "{0}) {1}", "{1} ({0})", "option {0}: {1}", "({0}) the {1}"]
ALONE = [
    "{0}",
    "({0})",
    "option {0}",
    "{0}.",
    "'{0}'",
    "\\text{{({0})}}",
    "**{0}**",
    "{0} is correct",
    "({0}) is right",
]
PLACES = [
    "\\boxed{{{}}}",
    "The answer is {}.",
    "The answer is {} because it purrs.",
    "So {}.",
    "#### {}",
    "The correct option is: {}",
]


def test_a_choice_counts_by_its_letter_its_text_and_both_where_they_agree(rng):
    for _ in range(ROUNDS):
        choices = rng.choice([draw_choices(rng), ("3", "6", "12", "24"), ("p = 4", "p = 8", "p = 12", "p = 2")])
        place, other = rng.sample(range(4), 2)
        gold = choices[place]
        for form in PLACES:
            for way in (*ALONE, "{1}", *BOTH):
                text = form.format(way.format(LETTERS[place], gold))
                assert is_correct(gold, text, "label", choices), text
            for way in (*ALONE, "{1}", *BOTH):
                text = form.format(way.format(LETTERS[other], choices[other]))
                assert not is_correct(gold, text, "label", choices), text
            for way in BOTH:
                text = form.format(way.format(LETTERS[other], gold))
                assert not is_correct(gold, text, "label", choices), text
                assert not is_correct(choices[other], text, "label", choices), text


def test_a_list_of_letters_is_no_answer(rng):
    for choices in (tuple(LETTERS), draw_choices(rng)):
        for _ in range(ROUNDS):
            places = rng.sample(range(len(choices)), rng.randrange(2, len(choices) + 1))
            for mark in (", ", " ", " and ", "|", "/", " or ", "; ", "", " & "):
                letters = mark.join(LETTERS[place] for place in places)
                for text in (f"\\boxed{{{letters}}}", f"The answer is {letters}.", letters):
                    assert not any(is_correct(gold, text, "label", choices) for gold in choices), text


@pytest.mark.parametrize("letter", LETTERS)
def test_letters_that_are_the_choices_count_with_a_reason(letter):
    for wording in (*PLACES, "{} is right", "So ({}) is correct.", "The answer is {}, since it is left of B."):
        assert is_correct(letter, wording.format(letter), "label", tuple(LETTERS)), wording
        assert is_correct(f"({letter})", wording.format(letter), "label", tuple(f"({each})" for each in LETTERS)), (
            wording
        )
    assert not is_correct("A", f"A {letter.lower()}og barks.", "label", tuple(LETTERS))


def test_choices_that_differ_in_one_sign_are_told_apart():
    pairs = [
        ("p ∧ q", "p ∨ q"),
        ("p", "¬p"),
        ("f", "f'"),
        ("C", "C#"),
        ("3 km", "3 m"),
        ("(1,2)", "[1,2]"),
        ("√2", "2"),
    ]
    for choices in pairs:
        for gold, other in (choices, choices[::-1]):
            assert is_correct(gold, f"\\boxed{{{gold}}}", "text", choices), gold
            assert not is_correct(gold, f"\\boxed{{{other}}}", "text", choices), (gold, other)


def test_a_short_name_of_a_truth_counts():
    for gold, short, other in (("True", "T", "F"), ("False", "F", "T")):
        assert is_correct(gold, f"\\boxed{{{short}}}", "label", ("True", "False"))
        assert not is_correct(gold, f"\\boxed{{{other}}}", "label", ("True", "False"))


# Golds without a kind, boxes that agree


def test_a_gold_number_counts_however_it_is_written():
    for gold, answer in (
        ("1e5", "100000"),
        ("11,\\! 111", "11111"),
        (".5", "0.5"),
        ("10 000", "10000"),
        ("1/2", "0.5"),
    ):
        assert is_correct(gold, f"\\boxed{{{answer}}}", "text"), gold
        assert not is_correct(gold, f"\\boxed{{{answer}1}}", "text"), gold


def test_equal_values_in_several_boxes_are_one_answer(rng):
    for _ in range(ROUNDS):
        whole, top, bottom = rng.randrange(1, 30), rng.randrange(1, 7), rng.choice([11, 13, 17])
        mixed = f"{whole}\\frac{{{top}}}{{{bottom}}}"
        improper = f"\\frac{{{whole * bottom + top}}}{{{bottom}}}"
        for kind in ("number", "text"):
            assert is_correct(mixed, f"\\boxed{{{mixed}}} so \\boxed{{{improper}}}", kind)
            assert not is_correct(mixed, f"\\boxed{{{whole}}} so \\boxed{{{improper}}}", kind)


def test_a_question_that_follows_the_answer_is_not_read(rng):
    for _ in range(ROUNDS):
        one, two = rng.sample(range(2, 99), 2)
        for answer in (
            f"{one}",
            f"**{one}**",
            f"It makes {one}.\n#### {one}",
            f"Hm.\nThe answer is {one}.",
            f"So \\boxed{{{one}}}",
        ):
            text = f"{answer}\n\nQuestion: a robe takes {two}.\nAnswer: {two}\n#### {two}"
            assert is_correct(str(one), text), text
            assert not is_correct(str(two), text), text


def test_a_problem_that_is_told_again_before_its_answer_is_read():
    assert is_correct("8", "There are 12 apples.\n\nProblem: how many are left?\nAnswer: 8")


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("False", 'The statement "Alex is red" is not true.'),
        ("True", "Yes, it is true."),
        ("True", "True.\n\nAlex is red."),
        ("True", "\\boxed{\\text{The statement is true}}"),
    ],
)
def test_a_truth_may_be_said_in_a_clause(gold, text):
    other = "True" if gold == "False" else "False"
    assert is_correct(gold, text, "label", ("True", "False"))
    assert not is_correct(other, text, "label", ("True", "False"))


def test_a_second_value_after_the_unit_of_a_box_is_a_hedge():
    assert not is_correct("7", "\\boxed{7} apples or 8")
    assert is_correct("7", "\\boxed{7} apples or so")
