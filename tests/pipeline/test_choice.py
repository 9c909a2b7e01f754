"""The choice of stage 5: labels, weights and loss, and the point on dev that is the best."""

import copy
import functools
import json
import math
import types
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


def build_rows(tokenizer, outcomes, keep_share=1.0, keep_weight=0.5, content_weight=0.0, parent=None):
    """The rows of outcomes; with a parent's log-probabilities where one is given, else with zeros."""
    advantages = [outcome.compute_advantage(PRICE) for outcome in outcomes]
    settings = types.SimpleNamespace(keep_share=keep_share, keep_weight=keep_weight, content_weight=content_weight)
    rows = choice.build_choice_rows(tokenizer, outcomes, advantages, settings, seed=1)
    if parent:
        return choice.add_parent_logprobs(parent, rows)
    return [{**row, "parent_logprobs": [0.0] * len(row["input_ids"])} for row in rows]


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

    [row] = build_rows(tokenizer, [outcome])
    expected = beginnings.direct[0] if advantage > 0 else beginnings.thinking[0]
    weight, token = read_choice(tokenizer, outcome, row)
    assert token == expected
    assert weight == pytest.approx(abs(advantage))


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


def test_what_is_not_kept_ends_with_the_beginning_which_is_trained_whole(tiny):
    """All of it: what follows the choice would else be learnt as a repetition of it."""
    _, tokenizer = tiny
    outcome = make_outcome(True, True)
    [row] = build_rows(tokenizer, [outcome], keep_share=0.0)

    direct = choice.encode_beginnings(tokenizer).direct
    assert len(direct) > 1
    assert row["input_ids"][-len(direct) :] == direct
    assert row["weights"] == pytest.approx([0.0] * (len(row["weights"]) - len(direct)) + [PRICE] * len(direct))
    assert not any(row["kept"])


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


@pytest.mark.parametrize("is_right", [True, False])
def test_the_content_of_the_answer_that_pays_is_kept_right_or_wrong(tiny, is_right):
    _, tokenizer = tiny
    thought = make_outcome(True, False)
    direct = make_outcome(is_right, is_right)

    for outcome, kind in ((thought, "thinking"), (direct, "direct")):
        [row] = build_rows(tokenizer, [outcome])
        content = getattr(outcome, kind).completion.text.removeprefix("<think>\n").removeprefix(prompts.DIRECT)
        ids = prompts.encode_text(tokenizer, content) + [tokenizer.eos_token_id]
        assert row["input_ids"][-len(ids) :] == ids
        assert row["kept"] == pytest.approx([0.0] * (len(row["kept"]) - len(ids)) + [0.5 / len(ids)] * len(ids))
        # The choice is trained beside it, and nothing has both weights.
        assert not any(weight and kept for weight, kept in zip(row["weights"], row["kept"], strict=True))


@pytest.mark.parametrize("content_weight", [0.0, 0.5])
def test_of_a_truncated_answer_only_the_choice_is_trained(tiny, content_weight):
    _, tokenizer = tiny
    [row] = build_rows(tokenizer, [make_outcome(True, False, finish="length")], content_weight=content_weight)
    assert not any(row["kept"])
    assert tokenizer.decode(row["input_ids"]).endswith("<think>\n")


def test_with_a_content_weight_right_answers_of_both_kinds_are_trained(tiny):
    _, tokenizer = tiny
    outcome = make_outcome(True, True)
    [thinking, direct] = build_rows(tokenizer, [outcome], keep_share=0.0, content_weight=0.5)
    for row, answer in ((direct, outcome.direct), (thinking, outcome.thinking)):
        assert tokenizer.decode(row["input_ids"]).endswith(answer.completion.text + tokenizer.eos_token)
    assert sum(thinking["weights"]) == pytest.approx(0.5)
    beginning = choice.encode_beginnings(tokenizer).direct
    assert sum(direct["weights"]) == pytest.approx(0.5 + PRICE * len(beginning))
    # Nothing but the weights of tokens that are trained.
    assert sum(thinking["completion_mask"]) == sum(weight > 0 for weight in thinking["weights"])

    [row] = build_rows(tokenizer, [make_outcome(False, False)], keep_share=0.0, content_weight=0.5)
    assert row["input_ids"][-len(beginning) :] == beginning


def test_a_thought_with_a_wrong_step_is_not_trained(tiny):
    _, tokenizer = tiny
    outcome = make_outcome(True, False)
    lucky = prompts.format_thinking_answer("6 + 5 = 12", outcome.problem.answer)
    outcome = replace(outcome, thinking=make_answer(outcome.problem, True, lucky, 108))

    [row] = build_rows(tokenizer, [outcome], keep_share=0.0, content_weight=0.5)
    beginning = choice.encode_beginnings(tokenizer).thinking
    assert sum(row["weights"]) == pytest.approx((1 - PRICE) * len(beginning))
    assert tokenizer.decode(row["input_ids"]).endswith("<think>\n")


def test_a_share_of_the_problems_is_kept_by_chance(tiny):
    _, tokenizer = tiny
    outcomes = [make_outcome(True, False, number=number) for number in range(6, 26)]
    are_kept = [any(row["kept"]) for row in build_rows(tokenizer, outcomes, keep_share=0.25)]
    assert sum(are_kept) == 5
    # Problems come in an order of levels and families.
    assert are_kept != [number % 4 == 0 for number in range(20)]


def test_a_row_is_what_generation_writes(tiny):
    """The prompt, the beginning and the rest of the completion, each in the tokens that decoding has."""
    _, tokenizer = tiny
    outcome = make_outcome(True, False)
    [row] = build_rows(tokenizer, [outcome])

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


@pytest.fixture
def two_outcomes():
    return [make_outcome(True, False), make_outcome(False, True, number=7)]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loss_is_the_weighted_cross_entropy_in_the_mean_over_rows(tiny, tmp_path, two_outcomes, accumulation):
    model, tokenizer = tiny
    # Nothing has changed yet, so the divergence is 0.
    rows = build_rows(tokenizer, two_outcomes, parent=model) * 2

    size = {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
    train(tiny, rows, tmp_path, **size)

    losses = []
    for row in rows:
        logprobs = token_logprobs(model, row["input_ids"][:1], row["input_ids"][1:])
        losses.append(float(-(torch.tensor(row["weights"][1:]) * logprobs).sum()))
    assert read_losses(tmp_path)[0] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_another_content_than_the_parents_adds_to_the_loss(tiny, tmp_path, two_outcomes):
    model, tokenizer = tiny
    rows = build_rows(tokenizer, two_outcomes, parent=model) * 2
    # As if the parent had been surer of each token.
    changed = [{**row, "parent_logprobs": [value / 2 for value in row["parent_logprobs"]]} for row in rows]

    train(tiny, rows, tmp_path / "same")
    train(tiny, changed, tmp_path / "changed")

    added = []
    for row in changed:
        parent = torch.tensor(row["parent_logprobs"])
        divergence = choice.compute_divergences(parent, 2 * parent)
        added.append(float((torch.tensor(row["kept"]) * divergence).sum()))
    before, after = (read_losses(tmp_path / name)[0] for name in ("same", "changed"))
    assert after - before == pytest.approx(sum(added) / len(added), rel=1e-3)


def read_losses(work):
    return [json.loads(line)["loss"] for line in (work / "train.jsonl").read_text().splitlines()]


def test_a_divergence_is_that_of_a_token_and_all_others():
    parent, model = torch.tensor([0.8, 0.3, 1.0]).log(), torch.tensor([0.5, 0.3, 1.0]).log()
    expected = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert choice.compute_divergences(parent, model).tolist() == pytest.approx([expected, 0, 0], abs=1e-6)


def test_a_token_that_both_are_sure_of_has_a_gradient_without_an_error():
    model = torch.zeros(2, requires_grad=True)
    choice.compute_divergences(torch.tensor([0.0, -20.0]), model).sum().backward()
    assert model.grad.isfinite().all()


def test_the_stock_forward_gives_the_same_loss(tiny, tmp_path, two_outcomes):
    rows = build_rows(tiny[1], two_outcomes, parent=tiny[0]) * 2
    for fast in (True, False):
        train(tiny, rows, tmp_path / str(fast), fast=fast)
    assert read_losses(tmp_path / "True") == pytest.approx(read_losses(tmp_path / "False"), rel=1e-4)


def test_content_that_is_kept_changes_less(tiny, tmp_path):
    """Both are trained on the same choices, which change the content unless it is kept."""
    model, tokenizer = tiny
    outcomes = [make_outcome(number % 2 == 0, number % 2 == 1, number=number) for number in range(6, 14)]
    # A parent that is sure of its content has something to lose.
    learnt = [{**row, "weights": [float(kept > 0) for kept in row["kept"]]} for row in build_rows(tokenizer, outcomes)]
    trained = train(tiny, learnt, tmp_path / "parent", num_train_epochs=20).merge_and_unload()
    # A trainer leaves its own forward on what it trained.
    parent = copy.deepcopy(model)
    parent.load_state_dict(trained.state_dict())
    contents = build_rows(tokenizer, outcomes, parent=parent)

    changes = []
    for share in (0.0, 1.0):
        rows = build_rows(tokenizer, outcomes, share, keep_weight=10.0, parent=parent)
        trained = train((parent, tokenizer), rows, tmp_path / str(share), num_train_epochs=10)
        losses = [-sum(row["parent_logprobs"]) for row in choice.add_parent_logprobs(trained, contents)]
        changes.append(sum(losses) + sum(sum(row["parent_logprobs"]) for row in contents))
    # What is lost is the log-probability of the parent's own tokens.
    assert changes[1] < 0.5 * changes[0]


def test_the_choice_that_pays_is_learnt(tiny, tmp_path):
    """Half of the problems pay directly, and the others do not."""
    _, tokenizer = tiny
    outcomes = [make_outcome(number % 2 == 0, number % 2 == 1, number=number) for number in range(6, 14)]
    problems = [outcome.problem for outcome in outcomes]
    rows = build_rows(tokenizer, outcomes, 0.0)

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
