"""Nothing wrong, long, repeated or held out is kept, and the account says why the others are not."""

import re
from dataclasses import replace

import pytest

from data.files import write_jsonl
from data.problem import Problem, read_problems
from pipeline.prompts import build_messages, encode_text
from pipeline.rewards import combine_rewards
from pipeline.traces.verify import (
    Candidate,
    Rules,
    describe_account,
    extract_steps,
    make_candidate,
    select_solutions,
    to_conversation,
    write_solution,
)

WORD = Problem("w1", "Ann has 9 pens and buys 3. How many?", "12", "number", family="word", level=1)
RULES_PROBLEM = Problem(
    "r1",
    "Rex is a dog. All dogs are loud. Is it true that Rex is loud?",
    "yes",
    "label",
    choices=("yes", "no"),
    family="rules",
    level=1,
)
GOOD = "<think>\n9 + 3 = 12\n</think>\n\\boxed{12}"

RULES = Rules(max_tokens=1000, max_per_problem=2, keep_at=1.0, require_checked_steps=False)


@pytest.fixture
def select(tiny):
    """The function that selects: select(candidates, held_out=[...], reward=..., key=value of Rules)."""

    def run(candidates, held_out=(), reward=None, **changes):
        rules = replace(RULES, **changes)
        return select_solutions(candidates, "test", tokenizer=tiny[1], rules=rules, held_out=held_out, reward=reward)

    return run


def think(problem, steps):
    """Return a candidate that thinks these steps and gives the right answer."""
    return make_candidate(problem, f"<think>\n{steps}\n</think>\n\\boxed{{{problem.answer}}}")


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        (GOOD, "stop", None),
        ("9 + 3 = 12\nThe answer is \\boxed{12}", "stop", None),
        ("9 + 3 = 12\nThe answer is 12.", "stop", None),
        ("<think>\n9 + 3 = 11\n</think>\n\\boxed{11}", "stop", "a wrong answer"),
        ("<think>\n9 + 3 = 11\n11 + 1 = 12\n</think>\n\\boxed{12}", "stop", "a wrong step"),
        ("<think>\n9 - 3 = 6\n</think>\n\\boxed{12}", "stop", "steps that end elsewhere"),
        ("<think></think>\n\\boxed{12}", "stop", "no steps"),
        ("<think>\n<think>\n9 + 3 = 12\n</think>\n\\boxed{12}", "stop", "think tags in its steps"),
        ("<think>\n9 + 3 = 12", "stop", "no answer (unclosed)"),
        ("<think>\n9 + 3 = 12", "length", "no answer (truncated)"),
    ],
)
def test_a_text_is_kept_only_where_answer_and_steps_are_right(select, text, finish, reason):
    selection = select([make_candidate(WORD, text, finish)])

    if reason is None:
        [solution] = selection.solutions
        assert solution.rationale == "9 + 3 = 12"
        assert solution.extra == {"source": "test"}
        assert selection.account["dropped"] == {}
    else:
        assert selection.solutions == []
        assert selection.account["dropped"] == {reason: 1}


def test_a_path_that_is_there_already_is_dropped_and_so_is_one_too_many(select):
    candidates = [
        make_candidate(WORD, GOOD),
        think(WORD, "In all: 9 + 3 = 12"),
        think(WORD, "3 + 9 = 12"),
        think(WORD, "10 + 3 = 13\n13 - 1 = 12"),
    ]
    selection = select(candidates)

    assert [solution.id for solution in selection.solutions] == ["w1", "w1#2"]
    assert [solution.rationale for solution in selection.solutions] == ["9 + 3 = 12", "3 + 9 = 12"]
    assert selection.account["dropped"] == {"a path that is there already": 1, "more than 2 of a problem": 1}


def test_a_long_solution_is_dropped_its_end_of_turn_counted(select, tiny):
    tokens = len(encode_text(tiny[1], GOOD)) + 1
    candidates = [make_candidate(WORD, GOOD)]

    assert select(candidates, max_tokens=tokens).solutions
    account = select(candidates, max_tokens=tokens - 1).account
    assert account["dropped"] == {f"more than {tokens - 1} tokens": 1}


def test_no_solution_gives_a_problem_away_that_is_held_out(select):
    twin = replace(WORD, id="t1", question=WORD.question.replace("Ann", "Bob"))
    other = replace(WORD, id="w2", question="Ann has 8 pens and buys 4. How many?")
    candidates = [make_candidate(WORD, GOOD), think(WORD, "3 + 9 = 12"), think(other, "8 + 4 = 12")]
    selection = select(candidates, held_out=[twin])

    assert [solution.id for solution in selection.solutions] == ["w2"]
    assert selection.account["dropped"] == {"a problem that is held out": 2}


def test_answers_that_can_be_guessed_need_steps_that_reach_it_where_the_rules_say(select):
    guess = think(RULES_PROBLEM, "It feels loud to me")
    worked = think(RULES_PROBLEM, "Rex is a dog.\nAll dogs are loud.\nSo Rex is loud.\nAsked loud, found loud: yes.")
    number = think(WORD, "Nine pens and three make twelve")

    assert len(select([guess, worked, number]).solutions) == 3
    selection = select([guess, worked, number], require_checked_steps=True)
    assert [solution.id for solution in selection.solutions] == ["r1", "w1"]
    assert "All dogs" in selection.solutions[0].rationale
    assert selection.account["dropped"] == {"steps that do not reach the answer": 1}


def test_the_weighted_reward_decides(select):
    reward = combine_rewards(["correctness", "format"], [1.0, 0.5])
    boxed = make_candidate(WORD, GOOD)
    bare = make_candidate(WORD, "3 + 9 = 12\nThe answer is 12.")
    selection = select([boxed, bare], reward=reward, keep_at=1.5)

    assert [solution.rationale for solution in selection.solutions] == ["9 + 3 = 12"]
    assert selection.account["dropped"] == {"a reward below 1.5": 1}


def test_a_reward_that_keeps_a_wrong_answer_keeps_it_as_it_is(select):
    reward = combine_rewards(["format"], [1.0])
    wrong = make_candidate(WORD, "<think>\n9 + 4 = 13\n</think>\n\\boxed{13}")
    [solution] = select([wrong], reward=reward).solutions

    assert (solution.answer, solution.rationale) == ("13", "9 + 4 = 13")


def test_a_wrong_answer_that_is_kept_has_its_steps_checked_as_a_right_one(select):
    reward = combine_rewards(["format"], [1.0])
    wrong = make_candidate(RULES_PROBLEM, "<think>\nRex is a dog.\nSo Rex is not loud.\n</think>\n\\boxed{no}")
    assert select([wrong], reward=reward).account["dropped"] == {"a wrong step": 1}


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("<think>\n 9 + 3 = 12 \n\n</think>\n\\boxed{12}", "9 + 3 = 12"),
        ("9 + 3 = 12, so \\boxed{12}", "9 + 3 = 12, so"),
        ("9 + 3 = 12\nSo it is \\boxed{12}", "9 + 3 = 12"),
        ("9 + 3 = 12\n12 - 2 = 10\n\\boxed{10}", "9 + 3 = 12\n12 - 2 = 10"),
        ("\\boxed{12}", ""),
    ],
)
def test_steps_are_the_thought_or_what_stands_before_the_answer(text, steps):
    assert extract_steps(text) == steps


def test_a_candidate_without_an_answer_is_no_solution():
    assert write_solution(make_candidate(WORD, "<think>\n9 + 3 = 12")) is None


def test_an_answer_that_no_grader_reads_is_not_kept_by_a_reward_for_the_format(select):
    """Else sft would refuse its own training data."""
    rambling = make_candidate(RULES_PROBLEM, "<think>\nRex is a dog.\n</think>\n\\boxed{All of it is so}")
    wrong = make_candidate(RULES_PROBLEM, "<think>\nRex is a dog.\n</think>\n\\boxed{no}")
    reward = combine_rewards(["format"], [1.0])

    selection = select([rambling, wrong], reward=reward)

    assert [solution.answer for solution in selection.solutions] == ["no"]
    assert selection.account["dropped"] == {"no answer (no_answer)": 1}


def test_nothing_of_nothing_is_kept(select):
    selection = select([])
    assert selection.solutions == []
    assert selection.account["candidates"] == 0


def test_a_written_solution_is_a_conversation_of_trl_and_a_problem_of_ours(select, tmp_path):
    [solution] = select([make_candidate(replace(WORD, extra={"program": [["+", 9, 3, 12]]}), GOOD)]).solutions
    row = to_conversation(solution)

    assert row["prompt"] == build_messages(WORD, "think")
    assert row["completion"] == [{"role": "assistant", "content": GOOD}]
    assert (row["id"], row["level"], row["family"], row["source"]) == ("w1", 1, "word", "test")
    # A list of texts and numbers is no column that TRL's tables can hold.
    assert "program" not in row

    write_jsonl(tmp_path / "solutions.jsonl", [row])
    [back] = read_problems(tmp_path / "solutions.jsonl")
    assert back == solution


def test_trl_reads_written_solutions(select, tmp_path):
    from datasets import load_dataset
    from trl import is_conversational

    solutions = select([make_candidate(WORD, GOOD), think(RULES_PROBLEM, "Rex is a dog.")]).solutions
    write_jsonl(tmp_path / "solutions.jsonl", [to_conversation(solution) for solution in solutions])
    files = str(tmp_path / "solutions.jsonl")
    dataset = load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))

    assert len(dataset) == 2
    assert is_conversational(dataset[0])


def test_an_account_is_one_sentence(select):
    account = select([make_candidate(WORD, GOOD), make_candidate(WORD, GOOD), make_candidate(WORD, "No.")]).account
    sentence = describe_account(account)

    assert sentence.startswith("test: 3 candidates, 1 kept (1 of level 1); dropped: ")
    assert re.search("1 a path that is there already", sentence)


def test_a_candidate_of_our_own_has_the_models_tokens():
    assert isinstance(make_candidate(WORD, GOOD), Candidate)
    assert make_candidate(WORD, GOOD, "length").completion.finish == "length"
