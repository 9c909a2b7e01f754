"""The choice between thinking and a direct answer: what both come to, how it is trained, and its operating point.

Offline everything about the choice is known: each training problem is answered greedily twice, with a thought and
directly. Then the beginning, which differs in its first token, is trained by a weighted cross-entropy. With the
advantage A = right(direct) - right(thinking) + price x (hundreds of tokens that the thought takes more), its label is
the direct beginning where A > 0, else the thinking one, and its weight is |A|: cost-sensitive classification, whose
optimum answers directly exactly where the expected A is above 0. So long thoughts that seldom help go first. Of
problems with a level A may be the mean over their family and level, since one outcome is a matter of luck. A policy
gradient on the same outcomes stalls at probabilities near 0, since it carries the factor p (1 - p) (measured).

What is learnt for the choice changes what is written after it, too. Two things keep it. By ``keep_share`` each token of
some answers is to stay as likely as it was to the parent. By ``content_weight`` the model is trained on its own right
answers, of thoughts on those without a wrong step; nano, whose direct answers get better by it, needs that. On the
default base the last layer alone is trained, which also changes less (docs/trials.md).

Source: AdaptThink, arXiv 2505.13417, for the aim; LHRM, arXiv 2505.14631, for an advantage on the mode token only;
Learning without Forgetting, arXiv 1606.09282, section 3, for keeping what was known by the outputs of the parent.
"""

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from data.problem import Completion, Problem
from data.splits import LEVELS
from eval.steps import find_wrong_step
from pipeline.forward import merge_adapter, prefill, token_logprobs
from pipeline.processes import gather_weights
from pipeline.prompts import DIRECT, THINK, encode_prompt, encode_text
from pipeline.settings import AdaptiveSettings
from pipeline.training import DevScoredSftTrainer, Row

THINKING = f"{THINK}\n"

# Greedy decoding takes the likelier of the two beginnings.
GREEDY = 0.5

# Prompts whose probability is computed at once.
PROMPTS_AT_ONCE = 128

# The probability of a token is told from 1 up to here, so that what is left has a logarithm.
CERTAIN = -1e-6


@dataclass(frozen=True)
class Answer:
    """A greedy answer and the grader's verdict."""

    completion: Completion
    verdict: str

    @property
    def is_right(self) -> bool:
        """Whether it is correct."""
        return self.verdict == "correct"

    @property
    def tokens(self) -> int:
        """Its length."""
        return self.completion.tokens


@dataclass(frozen=True)
class Outcome:
    """What both ways of answering a problem come to."""

    problem: Problem
    thinking: Answer
    direct: Answer

    def compute_advantage(self, price: float) -> float:
        """Return what a direct answer is worth over a thought, in right answers, at a price of 100 tokens."""
        saved = (self.thinking.tokens - self.direct.tokens) / 100
        return self.direct.is_right - self.thinking.is_right + price * saved


@dataclass(frozen=True)
class Point:
    """What greedy answers come to at a share of the way from the parent's weights to the trained ones.

    ``tokens`` are the mean of an answer, ``direct_rate`` the share of answers without a thought.
    """

    share: float
    accuracy: float
    tokens: float
    direct_rate: float


@dataclass(frozen=True)
class Beginnings:
    """The two ways to begin an answer as token ids: what they share, and what each has after that."""

    shared: list[int]
    thinking: list[int]
    direct: list[int]


def encode_beginnings(tokenizer) -> Beginnings:
    """Return the two ways to begin an answer; they differ in the first token after the shared ones."""
    thinking = encode_text(tokenizer, THINKING)
    direct = encode_text(tokenizer, DIRECT)

    count = 0
    while thinking[count] == direct[count]:
        count += 1
    return Beginnings(thinking[:count], thinking[count:], direct[count:])


@torch.no_grad()
def compute_direct_probabilities(model, tokenizer, problems: Sequence[Problem]) -> list[float]:
    """Return for each problem the probability of the direct beginning, of the two."""
    beginnings = encode_beginnings(tokenizer)
    pair = [beginnings.thinking[0], beginnings.direct[0]]
    prompts = [encode_prompt(tokenizer, problem, "think") + beginnings.shared for problem in problems]

    model.eval()
    probabilities: list[float] = []
    with gather_weights(model), merge_adapter(model):
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            _, _, logits = prefill(model, prompts[start : start + PROMPTS_AT_ONCE])
            shares = torch.softmax(logits[:, pair].float(), dim=-1)
            probabilities += shares[:, 1].tolist()
    return probabilities


def compute_advantages(outcomes: Sequence[Outcome], price: float, group_share: float) -> list[float]:
    """Return what a direct answer is worth on each problem, partly as the mean over its family and level.

    One outcome is a matter of luck, above all where an answer can be guessed; its group's mean is less so.

    Args:
        outcomes: Of the training problems.
        price: Of 100 tokens, in right answers.
        group_share: Of the mean, from 0 to 1; a problem without a level has none.
    """
    own = [outcome.compute_advantage(price) for outcome in outcomes]
    groups: dict[tuple[str, int], list[float]] = {}
    for outcome, advantage in zip(outcomes, own, strict=True):
        groups.setdefault((outcome.problem.family, outcome.problem.level), []).append(advantage)

    advantages = []
    for outcome, advantage in zip(outcomes, own, strict=True):
        problem = outcome.problem
        share = group_share if problem.level in LEVELS else 0.0
        mean = fmean(groups[problem.family, problem.level])
        advantages.append((1 - share) * advantage + share * mean)
    return advantages


def build_choice_rows(
    tokenizer,
    outcomes: Sequence[Outcome],
    advantages: Sequence[float],
    settings: AdaptiveSettings,
    seed: int,
) -> list[Row]:
    """Return the rows that train the choice and, as the settings say, keep or train the content of answers.

    Args:
        tokenizer: Of the model.
        outcomes: Of the training problems.
        advantages: Of a direct answer to each, as :func:`compute_advantages` gives them.
        settings: Of the stage.
        seed: Of the draw of the problems whose answers are kept.

    Returns:
        Rows with two weights for each token: ``weights`` of its cross-entropy, ``kept`` of its divergence.
    """
    rng = random.Random(seed)
    count = round(settings.keep_share * len(outcomes))
    kept = set(rng.sample(range(len(outcomes)), count))

    rows: list[Row] = []
    for number, (outcome, advantage) in enumerate(zip(outcomes, advantages, strict=True)):
        keep_weight = settings.keep_weight if number in kept else 0.0
        # A choice that does not pay is not pushed away: its rival is the label.
        for is_direct, choice_weight in ((False, max(-advantage, 0.0)), (True, max(advantage, 0.0))):
            # What is not to be chosen need not be kept.
            keeps = keep_weight if choice_weight else 0.0
            rows.append(_build_row(tokenizer, outcome, is_direct, choice_weight, settings.content_weight, keeps))
    return [row for row in rows if any(row["weights"])]


def _build_row(
    tokenizer,
    outcome: Outcome,
    is_direct: bool,
    choice_weight: float,
    content_weight: float,
    keep_weight: float,
) -> Row:
    """A prompt and an answer, with weights of 0 before the choice."""
    beginnings = encode_beginnings(tokenizer)
    start = encode_prompt(tokenizer, outcome.problem, "think") + beginnings.shared
    beginning = beginnings.direct if is_direct else beginnings.thinking
    answer = outcome.direct if is_direct else outcome.thinking

    learnt_weight = content_weight if _is_to_be_learnt(outcome, answer) else 0.0
    content: list[int] = []
    # A truncated answer is nothing to learn or to keep.
    if (learnt_weight or keep_weight) and answer.completion.finish == "stop":
        text = answer.completion.text.removeprefix(DIRECT if is_direct else THINKING)
        content = [*encode_text(tokenizer, text), tokenizer.eos_token_id]

    # The choice is the first token. The others are trained with it, or they would be repetitions of it:
    # "<think></think></think>", on and on.
    weights = [choice_weight] * len(beginning)
    # All tokens of the content share one weight, so that long answers count no more.
    weights += [learnt_weight / len(content)] * len(content) if content else []
    kept = [0.0] * len(beginning)
    kept += [keep_weight / len(content)] * len(content) if content else []

    pairs = zip(weights, kept, strict=True)
    return {
        "input_ids": start + beginning + content,
        "completion_mask": [0] * len(start) + [int(weight > 0 or keeps > 0) for weight, keeps in pairs],
        "weights": [0.0] * len(start) + weights,
        "kept": [0.0] * len(start) + kept,
    }


def _is_to_be_learnt(outcome: Outcome, answer: Answer) -> bool:
    """Whether an answer is right, and not by luck."""
    if not answer.is_right:
        return False
    return answer is outcome.direct or not find_wrong_step(outcome.problem, answer.completion.text)


def add_parent_logprobs(parent, rows: Sequence[Row]) -> list[Row]:
    """Return rows with ``parent_logprobs`` (nats): what the parent gives each token that is kept, 0 elsewhere."""
    parent.eval()
    scored = []
    with gather_weights(parent):
        for row in rows:
            ids = row["input_ids"]
            # Kept tokens are the last of a row.
            count = sum(weight > 0 for weight in row["kept"])
            start = len(ids) - count
            logprobs = token_logprobs(parent, ids[:start], ids[start:]).tolist() if count else []
            scored.append({**row, "parent_logprobs": [0.0] * start + logprobs})
    return scored


def collate_weighted(pad_token_id: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch with the weights of its rows; all tensors are (rows, longest row)."""
    pad = functools.partial(pad_sequence, batch_first=True)
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    batch = {
        "input_ids": pad(ids, padding_value=pad_token_id),
        "attention_mask": pad([torch.ones_like(row) for row in ids]),
        "labels": pad([torch.tensor(row["labels"]) for row in rows], padding_value=-100),
    }
    for name in ("weights", "kept", "parent_logprobs"):
        batch[name] = pad([torch.tensor(row[name]) for row in rows])
    return batch


def compute_divergences(parent_logprobs: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    """Return the KL divergence from the parent's to the model's distribution over "this token" and "another" (nats).

    It is at most that over the whole vocabulary, and needs no more than the probability of one token.

    Args:
        parent_logprobs: Of the tokens, by the parent.
        logprobs: The same by the model, of the same shape.
    """
    parent = parent_logprobs.float().clamp(max=CERTAIN)
    model = logprobs.float().clamp(max=CERTAIN)
    parent_others = torch.log(-torch.expm1(parent))
    model_others = torch.log(-torch.expm1(model))
    return parent.exp() * (parent - model) + parent_others.exp() * (parent_others - model_others)


class ChoiceTrainer(DevScoredSftTrainer):
    """TRL's trainer with a loss of its own, in the mean over rows.

    It is the weighted cross-entropy of the tokens and their weighted divergence from the parent.
    """

    # The loss is divided by the rows of the whole step, below.
    loss_is_scaled_for_ga: Any = True

    def compute_loss(
        self,
        model,
        inputs,
        return_outputs=False,
        num_items_in_batch=None,
    ):
        """Return the loss of a micro-batch, its share of the batch of the step."""
        # Log-probabilities begin with the second token of a row.
        weights, kept, parent_logprobs = (inputs.pop(name)[:, 1:] for name in ("weights", "kept", "parent_logprobs"))
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)

        learnt = -(weights * outputs.log_probs).sum()
        changed = (kept * compute_divergences(parent_logprobs, outputs.log_probs)).sum()
        rows = len(weights) * self.current_gradient_accumulation_steps
        loss = (learnt + changed) / rows
        return (loss, outputs) if return_outputs else loss


def measure_point(share: float, answers: Sequence[Answer]) -> Point:
    """Return what greedy answers come to; ``share`` says of which adapter they are."""
    return Point(
        share=share,
        accuracy=fmean(answer.is_right for answer in answers),
        tokens=fmean(answer.tokens for answer in answers),
        direct_rate=fmean(answer.completion.text.startswith(DIRECT) for answer in answers),
    )


def choose_point(points: Sequence[Point], min_accuracy: float) -> Point:
    """Return the point with the fewest tokens among those accurate enough, else the most accurate one."""
    accurate = [point for point in points if point.accuracy >= min_accuracy]
    if accurate:
        return min(accurate, key=lambda point: point.tokens)
    return max(points, key=lambda point: point.accuracy)
