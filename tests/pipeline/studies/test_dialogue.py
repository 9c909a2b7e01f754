"""What dialogue asks after each kind of answer, and what the second answers come to."""

import pytest

from data.datasets import load
from data.files import UserError
from data.problem import Completion, Problem
from eval.errors import GradedCompletion
from eval.grade import grade
from eval.studies import HOLDS, UNSURE, judge
from pipeline.studies.dialogue import (
    ASKED,
    HINT,
    PLAN,
    RIGHT,
    SLIP,
    WRONG_HINT,
    ask_again,
    make_turn,
    make_turns,
    measure,
    summarize,
    write_worked_answer,
)

PROBLEM = Problem("1", "What is 3 + 4 + 2?", "9", "number", family="expression", extra={"program": [["+", 3, 4, 7]]})


def answer(text):
    completion = Completion("1", text, 10, 0, 10, "stop")
    return make_turn(GradedCompletion(PROBLEM, completion, grade(PROBLEM, completion)))


def test_a_hint_names_the_wrong_step_and_a_wrong_hint_another_one():
    turn = answer("3 + 4 = 8\n8 + 2 = 10\n\\boxed{10}")
    assert turn.kind == SLIP
    assert turn.asked[HINT].startswith('Check step 1: "3 + 4 = 8".')
    assert turn.asked[WRONG_HINT].startswith('Check step 2: "8 + 2 = 10".')
    assert turn.asked[ASKED].startswith("Are you sure?")


def test_answers_without_a_false_step_are_asked_too():
    plan = answer("3 + 4 = 7\n7 - 2 = 5\n\\boxed{5}")
    assert plan.kind == PLAN
    right = answer("3 + 4 = 7\n7 + 2 = 9\n\\boxed{9}")
    assert right.kind == RIGHT
    assert right.asked[HINT].startswith("Check step 2")
    assert answer("\\boxed{5}") is None


def test_an_answer_that_was_cut_off_is_of_no_kind():
    completion = Completion("1", "3 + 4 = 8\n8 + 2 = 10\nSo", 10, 0, 10, "length")
    assert make_turn(GradedCompletion(PROBLEM, completion, grade(PROBLEM, completion))) is None


def test_worked_solutions_stand_for_right_answers():
    problems = load("arithmetic_v1", "train", 20, levels="3").problems
    turns = make_turns(problems, [write_worked_answer(problem) for problem in problems])
    assert len(turns) > 15
    assert {turn.kind for turn in turns} == {RIGHT}


def test_second_questions_are_asked_in_the_chat(tiny, settings):
    turns = [answer("3 + 4 = 8\n8 + 2 = 10\n\\boxed{10}")] * 2
    examples = load("arithmetic_v1", "train", 1).problems
    recipe = settings("dialogue", generation={"max_new_tokens": 3})
    completions = ask_again(*tiny, turns, HINT, examples, recipe)
    assert [completion.id for completion in completions] == ["1", "1"]


def test_a_base_that_writes_no_steps_is_refused(tiny_base, settings):
    recipe = settings("dialogue", problems=2, examples=1, generation={"max_new_tokens": 2})
    with pytest.raises(UserError, match="tiny answered nothing in two steps"):
        measure(recipe, tiny_base)


def make_answers(slips, others):
    """Forty answers of each kind, with the share that a right hint puts right."""
    right = {}
    for kind, share in ((SLIP, slips), (PLAN, others)):
        right[kind, HINT] = [float(i < share * 40) for i in range(40)]
        right[kind, WRONG_HINT] = right[kind, ASKED] = [0.0] * 40
    for way in (HINT, WRONG_HINT, ASKED):
        right[RIGHT, way] = [1.0] * 40
    return right


@pytest.mark.parametrize(("slips", "others", "verdict"), [(0.8, 0.1, HOLDS), (0.3, 0.25, UNSURE)])
def test_the_claim_is_of_slips_above_other_errors(slips, others, verdict):
    findings = summarize(make_answers(slips, others))
    assert judge(findings.effects, findings.controls, 0.1)[0] == verdict
    assert findings.n == 120

    # Where right answers are lost by a hint, the control is not flat.
    right = make_answers(slips, others)
    right[RIGHT, HINT] = [0.0] * 40
    findings = summarize(right)
    assert judge(findings.effects, findings.controls, 0.1)[0] == UNSURE


def test_no_errors_of_a_kind_tell_nothing():
    right = make_answers(0.8, 0.1)
    for way in (HINT, WRONG_HINT, ASKED):
        right[SLIP, way] = []
    findings = summarize(right)
    assert findings.effects[0].low < 0 < findings.effects[0].high
