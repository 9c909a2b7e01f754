"""The choice of stage 5: labels, weights and loss, and the point on dev that is the best."""

import copy
import functools
import json
from dataclasses import replace

import pytest
import torch

from data.problem import Completion, Problem
from pipeline import choice, prompts, training
from pipeline.choice import Answer, Outcome, Point
from pipeline.forward import token_logprobs

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
PRICE = 0.1


def make_answer(problem, is_right, text, tokens, finish="stop"):
    completion = Completion(problem.id, text, 10, 0, tokens, finish)
    return Answer(completion, "correct" if is_right else "wrong")


def make_outcome(thinking, direct, number=6, finish="stop", thinking_tokens=108, direct_tokens=8):
    """The outcome of a sum: whether the thought and the direct answer are right; it takes 100 tokens more to think."""
    problem = Problem(f"p{number}", f"What is {number} + {number}?", str(2 * number), "number", family="sums", level=1)
    long = prompts.format_thinking_answer("a step", problem.answer)
    short = prompts.format_direct_answer(problem.answer)
    return Outcome(
        problem,
        make_answer(problem, thinking, long, thinking_tokens, finish),
        make_answer(problem, direct, short, direct_tokens, finish),
    )


def build_rows(tokenizer, outcome, content_weight=0.5):
    return choice.build_choice_rows(tokenizer, [outcome], [outcome.compute_advantage(PRICE)], content_weight)


def read_choice(tokenizer, outcome, row):
    """The weight of the choice in a row, and the token there."""
    beginnings = choice.encode_beginnings(tokenizer)
    place = len(prompts.encode_prompt(tokenizer, outcome.problem, "think")) + len(beginnings.shared)
    return row["weights"][place], row["input_ids"][place]


@pytest.mark.parametrize(
    ("thinking", "direct", "advantage"),
    [(True, False, PRICE - 1), (True, True, PRICE), (False, True, 1 + PRICE), (False, False, PRICE)],
)
def test_the_choice_is_weighted_by_what_it_pays(tiny, thinking, direct, advantage):
    _, tokenizer = tiny
    outcome = make_outcome(thinking, direct)
    beginnings = choice.encode_beginnings(tokenizer)
    assert outcome.compute_advantage(PRICE) == pytest.approx(advantage)

    weights = dict.fromkeys((beginnings.thinking[0], beginnings.direct[0]), 0.0)
    for row in build_rows(tokenizer, outcome):
        weight, token = read_choice(tokenizer, outcome, row)
        weights[token] += weight

    assert weights[beginnings.direct[0]] == pytest.approx(max(advantage, 0))
    assert weights[beginnings.thinking[0]] == pytest.approx(max(-advantage, 0))


def test_an_advantage_is_shared_by_a_family_and_level():
    lucky, unlucky, other = (make_outcome(False, True), make_outcome(True, False), make_outcome(True, False))
    other = replace(other, problem=replace(other.problem, level=2))
    own = [1 + PRICE, PRICE - 1, PRICE - 1]

    assert choice.compute_advantages([lucky, unlucky, other], PRICE, 0.0) == pytest.approx(own)
    assert choice.compute_advantages([lucky, unlucky, other], PRICE, 1.0) == pytest.approx([PRICE, PRICE, PRICE - 1])
    halves = choice.compute_advantages([lucky, unlucky, other], PRICE, 0.5)
    assert halves == pytest.approx([0.5 + PRICE, PRICE - 0.5, PRICE - 1])

    # Problems of unknown level have nothing in common.
    unknown = [replace(each, problem=replace(each.problem, level=0)) for each in (lucky, unlucky)]
    assert choice.compute_advantages(unknown, PRICE, 1.0) == pytest.approx(own[:2])


def test_without_a_content_weight_the_beginning_is_trained_and_nothing_else(tiny):
    """All of it: what follows the choice would else be learnt as a repetition of it."""
    _, tokenizer = tiny
    outcome = make_outcome(True, True)
    [row] = build_rows(tokenizer, outcome, content_weight=0.0)

    direct = choice.encode_beginnings(tokenizer).direct
    assert len(direct) > 1
    assert row["input_ids"][-len(direct) :] == direct
    assert row["weights"] == pytest.approx([0.0] * (len(row["weights"]) - len(direct)) + [PRICE] * len(direct))


def test_a_longer_thought_must_bring_more():
    short = make_outcome(True, True, thinking_tokens=28, direct_tokens=8)
    long = make_outcome(True, True, thinking_tokens=88, direct_tokens=8)
    assert (short.compute_advantage(0.5), long.compute_advantage(0.5)) == pytest.approx((0.1, 0.4))


def test_the_beginnings_differ_in_one_token(tiny):
    _, tokenizer = tiny
    beginnings = choice.encode_beginnings(tokenizer)
    assert tokenizer.decode(beginnings.shared + beginnings.thinking) == "<think>\n"
    assert tokenizer.decode(beginnings.shared + beginnings.direct) == prompts.DIRECT
    assert beginnings.thinking[0] != beginnings.direct[0]


def test_the_content_of_right_and_whole_answers_is_trained_and_no_other(tiny):
    _, tokenizer = tiny

    [thinking, direct] = build_rows(tokenizer, make_outcome(True, True))
    for row, text in ((direct, "direct"), (thinking, "thinking")):
        answer = getattr(make_outcome(True, True), text).completion.text
        assert tokenizer.decode(row["input_ids"]).endswith(answer + tokenizer.eos_token)
    assert sum(thinking["weights"]) == pytest.approx(0.5)
    beginning = choice.encode_beginnings(tokenizer).direct
    assert sum(direct["weights"]) == pytest.approx(0.5 + PRICE * len(beginning))

    [row] = build_rows(tokenizer, make_outcome(False, False))
    assert sum(row["completion_mask"]) == len(beginning)
    assert row["input_ids"][-len(beginning) :] == beginning

    [row] = build_rows(tokenizer, make_outcome(True, True, finish="length"))
    assert sum(row["completion_mask"]) == len(beginning)


def test_the_content_of_a_thought_with_a_wrong_step_is_not_trained(tiny):
    _, tokenizer = tiny
    outcome = make_outcome(True, False)
    lucky = prompts.format_thinking_answer("6 + 5 = 12", outcome.problem.answer)
    outcome = replace(outcome, thinking=make_answer(outcome.problem, True, lucky, 108))

    [row] = build_rows(tokenizer, outcome)
    assert sum(row["completion_mask"]) == 1
    assert sum(row["weights"]) == pytest.approx(1 - PRICE)


def test_a_row_is_what_generation_writes(tiny):
    """The prompt, the beginning and the rest of the completion, each in the tokens that decoding has."""
    _, tokenizer = tiny
    outcome = make_outcome(True, False)
    [row] = build_rows(tokenizer, outcome)

    prompt = prompts.encode_prompt(tokenizer, outcome.problem, "think")
    beginning = prompts.encode_text(tokenizer, "<think>\n")
    assert row["input_ids"][: len(prompt) + len(beginning)] == prompt + beginning
    assert row["completion_mask"][len(prompt) :] == [0] * (len(beginning) - 1) + [1] * (
        len(row["input_ids"]) - len(prompt) - len(beginning) + 1
    )


def train(tiny, rows, work, fast=True, **trainer):
    settings = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}
    return training.train_sft(
        copy.deepcopy(tiny[0]),
        tiny[1],
        rows,
        {**settings, "remove_unused_columns": False, **trainer},
        work=work,
        seed=1,
        label="adaptive",
        lora=LORA,
        fast=fast,
        trainer_class=choice.ChoiceTrainer,
        data_collator=functools.partial(choice.collate_weighted, tiny[1].pad_token_id),
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loss_is_the_weighted_cross_entropy_in_the_mean_over_rows(tiny, tmp_path, accumulation):
    model, tokenizer = tiny
    outcomes = [make_outcome(True, False), make_outcome(False, True, number=7)]
    rows = [row for outcome in outcomes for row in build_rows(tokenizer, outcome)]
    rows *= 2

    size = {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
    train(tiny, rows, tmp_path, **size)

    losses = []
    for row in rows:
        logprobs = token_logprobs(model, row["input_ids"][:1], row["input_ids"][1:])
        losses.append(float(-(torch.tensor(row["weights"][1:]) * logprobs).sum()))
    logged = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])["loss"]
    assert logged == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_the_stock_forward_gives_the_same_loss(tiny, tmp_path):
    rows = build_rows(tiny[1], make_outcome(True, False)) * 4
    logs = []
    for fast in (True, False):
        train(tiny, rows, tmp_path / str(fast), fast=fast)
        lines = (tmp_path / str(fast) / "train.jsonl").read_text().splitlines()
        logs.append([json.loads(line)["loss"] for line in lines])
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


def test_the_choice_that_pays_is_learnt(tiny, tmp_path):
    """Half of the problems pay directly, and the others do not."""
    _, tokenizer = tiny
    outcomes = [make_outcome(number % 2 == 0, number % 2 == 1, number=number) for number in range(6, 14)]
    problems = [outcome.problem for outcome in outcomes]
    rows = [row for outcome in outcomes for row in build_rows(tokenizer, outcome, 0.1)]

    model = train(tiny, rows, tmp_path, num_train_epochs=25, learning_rate=2e-2)

    probabilities = choice.compute_direct_probabilities(model, tokenizer, problems)
    assert [p > 0.5 for p in probabilities] == [number % 2 == 1 for number in range(6, 14)]


def test_the_probability_is_that_of_the_token_in_which_the_beginnings_differ(tiny):
    model, tokenizer = tiny
    problems = [make_outcome(True, True, number=number).problem for number in (6, 7, 123)]
    beginnings = choice.encode_beginnings(tokenizer)

    found = choice.compute_direct_probabilities(model, tokenizer, problems)

    for problem, probability in zip(problems, found, strict=True):
        prompt = prompts.encode_prompt(tokenizer, problem, "think") + beginnings.shared
        pair = [float(token_logprobs(model, prompt, [ids[0]])) for ids in (beginnings.thinking, beginnings.direct)]
        assert probability == pytest.approx(float(torch.softmax(torch.tensor(pair), -1)[1]), abs=1e-5)


def test_a_point_is_what_its_answers_come_to():
    thought, wrong, direct = make_outcome(True, True), make_outcome(False, True), make_outcome(True, True)
    point = choice.measure_point(0.5, [thought.thinking, wrong.thinking, direct.direct, direct.direct])
    assert point == Point(share=0.5, accuracy=0.75, tokens=58.0, direct_rate=0.5)


def test_the_operating_point_has_the_fewest_tokens_within_the_margin():
    points = [
        Point(0.0, 0.75, 108.0, 0.0),
        Point(0.5, 0.75, 83.0, 0.25),
        Point(1.0, 0.5, 8.0, 1.0),
    ]
    assert choice.choose_point(points, 0.75).share == 0.5
    assert choice.choose_point(points, 0.5).share == 1.0
    assert choice.choose_point(points, 0.9).accuracy == 0.75
