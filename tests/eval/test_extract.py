"""The one rule that extracts an answer."""

from fractions import Fraction

import pytest

from eval.extract import Extraction, extract, has_reasoning, parse_value, split_thought
from eval.grade import is_equal
from eval.markup import find_boxes, normalize_answer
from eval.numbers import parse_number, parse_quantity

TRUTH = ("True", "False")
ANIMALS = ("wolf", "cat", "grey wolf")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("just 5", (None, "just 5", True)),
        ("<think>a</think>b", ("a", "b", True)),
        ("<think></think>b", ("", "b", True)),
        ("<think>a", ("a", "", False)),
        ("a</think>b", ("a", "b", True)),  # the prompt opened the thought
        ("a</think>b<think>c</think>d", ("a", "b<think>c</think>d", True)),
        ("<think>a</think>b<think>c", ("a", "b<think>c", False)),
        ("x <think>a <think> b</think>c", ("a <think> b", "c", True)),
        ("<think>a</think>b</think>c", ("a", "b</think>c", True)),
    ],
)
def test_thought_is_split_from_the_answer(text, expected):
    assert split_thought(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{5}", ["5"]),
        (r"\boxed {5} and \boxed{\frac{1}{2}}", ["5", r"\frac{1}{2}"]),
        (r"\boxed{\boxed{5}}", [r"\boxed{5}"]),
        (r"\boxed{5", []),
        (r"\boxed{ } \boxed{}", []),
        (r"{ \boxed{3 \} 4} }", [r"3 \} 4"]),
        (r"\boxed{ \boxed{5}", ["5"]),
    ],
)
def test_boxes_need_balanced_braces(text, expected):
    assert find_boxes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("108 apples", 108),
        ("1,234", 1234),
        (r"1{,}234", 1234),
        (r"1\,234", 1234),
        ("1\u202f234", 1234),
        ("$5.50", Fraction(11, 2)),
        (r"\$18", 18),
        ("-$5", -5),
        ("\u22123", -3),
        ("negative 5", -5),
        ("\u0663\u0664", 34),
        ("5.", 5),
        (".5", Fraction(1, 2)),
        ("1/2", Fraction(1, 2)),
        (r"-\dfrac12", Fraction(-1, 2)),
        (r"2\frac{1}{2}", Fraction(5, 2)),
        ("50%", 50),
        (r"50\%", 50),
        ("1e3", 1000),
        (r"1.5 \times 10^{3}", 1500),
        ("3\u00bd", Fraction(7, 2)),
        ("5 cm\u00b2", 5),
        ("twelve", 12),
        ("Twenty-five", 25),
        ("thirty two cats", 32),
        ("2 million", 2_000_000),
        (r"\text{18 dollars}", 18),
        (r"30^\circ", 30),
        ("5 m^2", 5),
        ("51 third graders", 51),
        ("12 horse power", 12),
        ("3 doubled letters", 3),
        ("3 sixtieth birthdays", 3),
        (r"12 \mathrm{~cm}", 12),
        (r"12\text{~cm}", 12),
        (r"12 \text{ cm}^{2}", 12),
        (r"12 \text{ m/s}^{2}", 12),
        ("12°C", 12),
        (r"12 ^{\circ}\text{C}", 12),
        (r"\theta = 12", 12),
        ("θ = 12", 12),
        (r"\alpha_1 = 12", 12),
        ("x = 5", 5),
        ("3 + 4 = 7", 7),
        ("**5**", 5),
        ("$\\frac{3}{4}$", Fraction(3, 4)),
    ],
)
def test_numbers_are_read_exactly(text, expected):
    assert parse_number(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "apples",
        "3 or 4",
        "3, 4",
        "3,4",
        "1,2345",
        "5 or six",
        "five or six",
        "5 hundred thousand",
        "3 sevenths",
        "3 twelfths",
        "3 millionths",
        "2 to the fifth power",
        "5 quadrillion",
        "5 sixtieths",
        "5 twenty-fifths",
        "1 fiftieth",
        "1 fifth of the cake",
        "5 doubled",
        "5 halved",
        "5x",
        "5e",
        "1/0",
    ]
    + ["12^{2}", "π = 12", r"\sqrt{x} = 12", r"2\theta = 12"]
    + ["not 5", "x >= 5", "5 and a half", "5k", "1/2/3", "1e999999999", "9" * 201, "nan", "inf", "12:30"],
)
def test_anything_else_is_no_number(text):
    assert parse_number(text) is None


def test_units_are_the_same_in_each_way_of_writing_them():
    for one, other in (
        (r"12 \text{ cm}^{2}", "12 cm^2"),
        ("12°C", "12 degrees Celsius"),
        (r"12 \mathrm{~kg}", "12 kg"),
    ):
        assert parse_quantity(one).unit == parse_quantity(other).unit != ""
    assert not is_equal("12°C", "12°F", "number")


@pytest.mark.parametrize(
    "text", ["3 + 4", "10 - 3", "10-3", "3 * 4", "6/2", "2^3", "5!", "5\u00b2", r"\sqrt{25}", r"5\pi"]
)
def test_an_expression_left_to_work_out_is_no_number(text):
    assert parse_number(text) is None


def test_texts_lose_case_articles_punctuation_and_keep_operators():
    assert (
        normalize_answer("The  Grey-wolf!") == normalize_answer("grey wolf") == normalize_answer(r"\text{a grey wolf}.")
    )
    assert normalize_answer("x - 2") == normalize_answer("x-2") != normalize_answer("x+2")
    assert normalize_answer("A") == "a"
    assert normalize_answer("3.5") != normalize_answer("35")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("False.", "false"),
        ("no", "false"),
        ("(A)", "true"),
        ("B", "false"),
        ("(B) False", "false"),
        ("(A) False", None),
        ("not true", "false"),  # of two, the other
        ("isn't true", "false"),
        ("not necessarily true", None),
        ("True or False", None),
        ("the statement is true", "true"),
        ("untrue", None),
    ],
)
def test_labels(text, expected):
    assert parse_value(text, "label", TRUTH) == expected


def test_the_longest_choice_wins_and_letters_stand_for_choices():
    assert parse_value("a grey wolf", "text", ANIMALS) == "grey wolf"
    assert parse_value("C", "text", ANIMALS) == "grey wolf"
    assert parse_value("option b", "text", ANIMALS) == "cat"
    assert parse_value("D", "text", ANIMALS) is None
    assert parse_value("yes", "text", TRUTH) is None  # synonyms are for labels
    assert parse_value("C. coli", "text", ("C. coli", "E. coli")) == "c coli"


def test_choices_that_are_letters_are_not_positions():
    assert parse_value("b", "label", ("B", "A")) == "b"
    assert parse_value("(A)", "label", ("(B)", "(A)")) == "a"
    assert extract("A dog barks, so B", "label", ("A", "B")).answer == "B"


def test_rule_one_comes_before_two_and_two_before_three():
    assert extract(r"\boxed{1} <answer>2</answer> Or 3", "number") == Extraction("1", boxed=True)
    assert extract("<answer>2</answer> We had 3.", "number") == Extraction("2")
    assert extract(r"\boxed{1} The answer is 2. Or 3", "number") == Extraction("1", boxed=True)
    assert extract("The answer is 2. We had 3", "number") == Extraction("2")
    assert extract("It is 2. Then it is 3", "number") == Extraction("3")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 1. No, the answer is 2.", "2"),
        ("**Answer:** 7", "7"),
        ("Of 9 and 2.\n<answer>\n7\n</answer>", "7"),
        ("<answer>The answer is $7.</answer>", "7"),
        ("Answer: 7</answer>", "7"),
        ("**Answer**: 7\nmore 8", "7"),
        ("The final answer is:\n\\[\n5\n\\]", "5"),
        ("The answer is\n\n8", "8"),
        ("The answer is 3.5. I think", "3.5"),
        ("The answer is 8 because 5 + 3 = 8 holds", "8"),
        ("The answer is 5 + 3 = 8.", "8"),
        ("The answer is 2 of them.", "2"),
        ("5 - 3 = 2 of them", "2"),
        ("so it fell to -3 degrees", "-3"),
        ("nothing here", None),
        ("", None),
    ],
)
def test_numbers_in_sentences(text, answer):
    extraction = extract(text, "number")
    assert (extraction.answer and parse_number(extraction.answer)) == (answer and parse_number(answer))
    assert not extraction.ambiguous


@pytest.mark.parametrize(
    "text",
    [r"\boxed{3}, or \boxed{4}", r"\boxed{3 or 4}", r"\boxed{3, 4}", "The answer is 3 or 4.", "The answer is 3, 4"]
    + ["The answer is 3 apples or 4", "The answer is 3 and 4", "The answer is 3 + 4", "The answer is 2. Or 3"]
    + ["<answer>3</answer> <answer>4</answer>", "<answer>3</answer> or 4", "<answer>3</answer> The answer is 4."]
    + [r"\boxed{3 + 4}", "".join(f"\\boxed{{5 {chr(97 + i)}{chr(97 + i)}}}" for i in range(26))],
)
def test_guesses_are_ambiguous(text):
    assert extract(text, "number").ambiguous


@pytest.mark.parametrize(
    "text",
    ["The answer is 3 apples for 4 kids", "The answer is plain: see 9", "5 - 3 leaves 2 of them", "10-3"]
    + ["The answer is not 3", "Is it 3?", "Step 3", "The answer is between 3 and 4", "First 2, then 3"],
)
def test_what_has_something_left_over_is_no_answer(text):
    answer = extract(text, "number").answer
    assert answer is None or parse_number(answer) is None


def test_boxes_that_agree_are_one_answer():
    assert extract(r"\boxed{0.5} = \boxed{\frac{1}{2}}", "number") == Extraction(r"\frac{1}{2}", boxed=True)
    assert extract(r"write \boxed{} so \boxed{5}", "number") == Extraction("5", boxed=True)


@pytest.mark.parametrize(
    ("text", "answer", "ambiguous"),
    [
        ("So the answer is **False**.", "False", False),
        ("The answer is True, since it is not false.", "True", False),
        ("The answer is True or False", "True or False", True),
        ("The answer is not true.", "not true", False),
        ("It is false. So it is true", "it is true", False),
        ("That is not true", "That is not true", False),
        ("no idea? (B)", "B", False),
        ("Hm.\nB", "B", False),
        ("Hm", None, False),
    ],
)
def test_labels_in_sentences(text, answer, ambiguous):
    assert extract(text, "label", TRUTH) == Extraction(answer, ambiguous=ambiguous)


def test_free_text_takes_the_sentence_or_a_short_last_line():
    assert extract("The answer is a wolf. Yes", "text").answer == "a wolf"
    assert extract("Emily is a cat.\n\n**mouse**\n", "text").answer == "mouse"
    assert extract("word " * 40, "text").answer is None
    assert extract("<answer>the wolf</answer>", "text").answer == "the wolf"


def test_a_truncated_text_counts_only_what_was_complete():
    assert extract("The answer is 12", "number", finished=False).answer is None
    assert extract("The answer is 12.", "number", finished=False).answer is None  # 12.5 was possible
    assert extract("The answer is 12. Next", "number", finished=False).answer == "12"
    assert extract("<answer>12", "number", finished=False).answer is None
    assert extract("<answer>12</answer>", "number", finished=False).answer == "12"
    assert extract("The answer is 7.\nThe answer is 12", "number", finished=False).answer == "7"
    assert extract("It is 12. Next", "number", finished=False).answer is None
    # The next question says that it was complete.
    assert extract("The answer is 12\n\nQuestion: 5 + 3?", "number", finished=False).answer == "12"
    assert extract(r"\boxed{12} and on", "number", finished=False) == Extraction("12", boxed=True)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("(A)", "wolf"),
        ("A. wolf", "wolf"),
        ("option A: the wolf", "wolf"),
        ("(A) or (B)", None),
        ("(A) (B) (C)", None),
        ("A) B) C)", None),
        ("(A) is wrong", None),
        ("(B) wolf", None),
        ("(B) or (A) wolf", None),
    ],
)
def test_letters_that_list_choices_stand_for_nothing(text, answer):
    assert parse_value(text, "text", ("wolf", "cat", "dog")) == answer


def test_a_choice_whose_text_ends_in_a_letter_is_named_by_both():
    assert parse_value("(B) vitamin C", "text", ("iron", "vitamin C", "zinc")) == normalize_answer("vitamin C")


def test_several_letters_in_a_box_are_several_guesses():
    assert extract(r"\boxed{(A) or (B)}", "text", ("wolf", "cat")).ambiguous
    assert extract("The answer is B. cat. Or maybe A. wolf.", "text", ("wolf", "cat")).ambiguous
    assert extract("The answer is **B.** cat. Or maybe A. wolf.", "text", ("wolf", "cat")).ambiguous
    assert not extract("The answer is **B.** cat. It meows.", "text", ("wolf", "cat")).ambiguous
    assert not extract(r"\boxed{(A)}", "text", ("wolf", "cat")).ambiguous


@pytest.mark.parametrize(
    "text", ["12 or 13 = 13", "12, 13 = 13", "it is 12 and 1 = 13", "2 dozen", "5 millions", "3 fifths"]
)
def test_a_list_before_an_equals_sign_and_a_number_of_something_else_are_no_number(text):
    assert parse_number(text) is None


@pytest.mark.parametrize("letters", ["a" * 150, "ab " * 50, "a-" * 75, "a - " * 40])
def test_long_words_before_an_equals_sign_are_read_once(letters):
    # Words that can be split in many ways would be tried in each of them, for ages.
    assert parse_number(f"{letters}! = 3") is None
    assert extract(f"The answer is {letters}! = 3", "number").answer != "3"


def test_a_letter_on_a_line_of_its_own_stands_for_its_choice():
    assert parse_value("B\nwolf", "text", ("cat", "wolf")) == "wolf"
    assert parse_value("B\nit is true", "label", ("valid", "invalid")) is None


def test_what_is_worked_out_in_the_box_is_reasoning():
    assert has_reasoning("<think></think>\n\\boxed{25 * 4 = 100, 100 + 8 = 108}")
    assert has_reasoning("<think></think>\n\\boxed{first take four of the apples}")
    assert not has_reasoning("<think></think>\n\\boxed{x = 108}") and not has_reasoning(
        "<think></think>\n\\boxed{108 red apples}"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\n2 + 2 = 4\n</think>\n\\boxed{4}", True),
        ("<think></think>\n\\boxed{4}", False),
        ("<think>\n</think>\nThe answer is \\boxed{4}", False),
        ("<think></think>\n2 + 2 = 4 and 4 + 1 = 5\n\\boxed{5}", True),
        ("2 + 2 = 4 and 4 + 1 = 5, so \\boxed{5}", False),
        ("<think>2 + 2", True),
    ],
)
def test_reasoning_after_an_empty_thought_counts(text, expected):
    assert has_reasoning(text) is expected
