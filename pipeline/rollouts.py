"""Samples of a model with what they earn: TRL's ``rollout_func`` and ``reward_funcs`` for GRPO."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from accelerate.utils import gather_object

from data.problem import Completion, Problem
from eval.grade import grade
from pipeline import processes
from pipeline.forward import token_logprobs
from pipeline.generate import TokenSequence, find_stop_ids, generate, to_completion
from pipeline.learnability import is_mixed
from pipeline.problem_sampler import ProblemSampler
from pipeline.prompts import encode_forced_opening, encode_prompt
from pipeline.rewards import CombinedReward, RewardScore

# Samples of a step on which the sampler's log-probabilities are compared with the model's own.
CHECKED_SAMPLES = 4


@dataclass(frozen=True)
class Rollout:
    """One sample of a problem and what it earns."""

    problem: Problem
    prompt_ids: list[int]
    sequence: TokenSequence
    completion: Completion
    reward: RewardScore


Group = list[Rollout]


@dataclass
class GroupSampler:
    """Samples groups: several completions of a problem each.

    Args:
        size: Completions of a group.
        max_new_tokens: The most tokens of one.
    """

    tokenizer: Any
    reward: CombinedReward
    size: int
    max_new_tokens: int
    temperature: float

    def sample(
        self,
        model,
        problems: Sequence[Problem],
        seed: int,
        on_progress: Callable[[int, int], None] | None = None,
        engine: Any = None,
    ) -> list[Group]:
        """Return a group for each problem; by TRL's vLLM, which has no seed, where there is such an ``engine``."""
        # Samples of a problem stand side by side, as TRL wants them.
        repeated = [problem for problem in problems for _ in range(self.size)]
        prompts = [encode_prompt(self.tokenizer, problem, "think") for problem in repeated]
        stops = find_stop_ids(model, self.tokenizer)
        if engine:
            sequences = sample_by_vllm(engine, self.tokenizer, prompts, stops)
        else:
            sequences = generate(
                model,
                self.tokenizer,
                prompts,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=seed,
                on_progress=on_progress,
            )

        completions = []
        for problem, sequence in zip(repeated, sequences, strict=True):
            completions.append(to_completion(self.tokenizer, problem, sequence, stops))

        ids = [sequence.ids for sequence in sequences]
        rewards = self.reward(repeated, completions, ids)
        parts = zip(repeated, prompts, sequences, completions, rewards, strict=True)
        rollouts = [Rollout(*part) for part in parts]

        groups = []
        for start in range(0, len(rollouts), self.size):
            groups.append(rollouts[start : start + self.size])
        return groups


def sample_by_vllm(
    engine,
    tokenizer,
    prompts: Sequence[list[int]],
    stops: set[int],
) -> list[TokenSequence]:
    """Complete every prompt by the ``vllm_generation`` of TRL's trainer, which has its settings. Not run with vLLM yet.

    Several processes, all called with the same, ask for a share each and all return all, as with :func:`generate`.
    """
    state = processes.get_state()
    # TRL wants equal shares: the last one takes the first prompts again.
    count = len(prompts)
    share = -(-count // state.num_processes)
    start = state.process_index * share
    mine = [prompts[i % count] for i in range(start, start + share)]

    # A thought that the chat template opens is a part of the completion everywhere else.
    opening = encode_forced_opening(tokenizer)
    asked = [prompt + opening for prompt in mine]
    _, texts, logprobs, _ = engine.generate(prompts=asked, images=None, num_generations=1)

    sequences = []
    for ids, row in zip(texts, logprobs, strict=True):
        # The opening is forced, and has no log-probability.
        forced = [True] * len(opening) + [False] * len(ids)
        # The chosen token's stands first, or alone.
        chosen = [each[0] for each in row]
        has_ended = stops.intersection(ids[-1:])
        sequence = TokenSequence(
            ids=[*opening, *ids],
            forced=forced,
            logprobs=[0.0] * len(opening) + chosen,
            finish="stop" if has_ended else "length",
        )
        sequences.append(sequence)

    gathered: list[TokenSequence] = gather_object(sequences)
    return gathered[:count]


@dataclass
class RolloutFunction:
    """The ``rollout_func`` of a GRPO training: groups of samples whose rewards differ.

    A group that earns all the same is replaced by another problem's, until ``max_resample`` times as many groups as
    needed were sampled. ``metrics`` are what the last call saw.
    """

    sampler: GroupSampler
    problems: ProblemSampler
    max_resample: int
    seed: int
    metrics: dict[str, float] = field(default_factory=dict)

    def __call__(self, prompts: list[str], trainer) -> dict[str, Any]:
        """Return as many samples as there are ``prompts``. Their texts say nothing: the problems are drawn here."""
        # Every process has the groups of all, whose decoding they share, and returns its part of them.
        accelerator = trainer.accelerator
        share = len(prompts)
        count = share * accelerator.num_processes // self.sampler.size
        model = accelerator.unwrap_model(trainer.model)
        # TRL gives it the weights of this step before it asks for samples.
        engine = trainer.vllm_generation if trainer.use_vllm else None
        step = trainer.state.global_step
        groups = self.sample_groups(model, count, step, engine)

        rollouts = [rollout for group in groups for rollout in group]
        start = accelerator.process_index * share
        mine = rollouts[start : start + share]
        return {
            "prompt_ids": [rollout.prompt_ids for rollout in mine],
            "completion_ids": [rollout.sequence.ids for rollout in mine],
            "logprobs": [rollout.sequence.logprobs for rollout in mine],
            # TRL's name for the tokens that are the model's own, which alone are trained.
            "env_mask": [[int(not forced) for forced in rollout.sequence.forced] for rollout in mine],
            "reward_parts": [rollout.reward.parts for rollout in mine],
        }

    def sample_groups(self, model, count: int, step: int, engine: Any = None) -> list[Group]:
        """Return ``count`` groups; ones without a signal only where there are no others."""
        limit = count * self.max_resample
        mixed: list[Group] = []
        others: list[Group] = []

        drawn = 0
        while len(mixed) < count and drawn < limit:
            missing = min(count - len(mixed), limit - drawn)
            first = step * limit + drawn
            drawn += missing

            # All follows from the seed and the step, so a resumed training draws the same.
            numbers = range(first, first + missing)
            problems = [self.problems.draw(number) for number in numbers]
            seed = zlib.crc32(f"{self.seed} {first}".encode())
            groups = self.sampler.sample(model, problems, seed, engine=engine)
            for group in groups:
                rewards = [rollout.reward.total for rollout in group]
                (mixed if is_mixed(rewards) else others).append(group)

        # TRL wants as many as it asked for, with a signal or without.
        sampled = mixed + others
        self.metrics = self.measure(model, sampled)
        self.metrics["sampled/mixed"] = len(mixed) / len(sampled)
        return sampled[:count]

    def measure(self, model, groups: list[Group]) -> dict[str, float]:
        """Return what is to be logged of all that was sampled, also of groups that are not trained on."""
        rollouts = [rollout for group in groups for rollout in group]
        # By the grader, whatever the rewards are.
        grades = [grade(rollout.problem, rollout.completion) for rollout in rollouts]

        # Each costs a pass through the model.
        checked = rollouts[:CHECKED_SAMPLES]
        temperature = self.sampler.temperature
        drifts = [measure_drift(model, rollout, temperature) for rollout in checked]
        return {
            "sampled/accuracy": fmean(each.correct for each in grades),
            "sampled/samples": len(rollouts),
            "drift": fmean(drifts),
        }


def measure_drift(model, rollout: Rollout, temperature: float) -> float:
    """Return how far the sampler's log-probabilities are from the model's own, in nats a sampled token."""
    sequence = rollout.sequence
    own = token_logprobs(model, rollout.prompt_ids, sequence.ids, temperature)
    sampled = torch.tensor(sequence.logprobs)
    # What is forced has no log-probability of its own.
    is_sampled = ~torch.tensor(sequence.forced)
    return float((own - sampled).abs()[is_sampled].mean())


def build_reward_functions(
    names: Sequence[str],
    rollouts: RolloutFunction,
) -> list[Any]:
    """Return TRL's ``reward_funcs``, one for each reward, so that each is logged under its name.

    They hand on what was computed for the rollout. Computed again, a reward by chance would be another one, and TRL's
    own texts lack the think tags where these are special tokens.
    """
    functions = []
    for name in names:
        # The default holds on to this name; the loop's own goes on to the last.
        def hand_on(prompts, completions, reward_parts, log_metric, name=name, **columns) -> list[float]:
            # Once a step, whichever reward is asked first.
            if name == names[0]:
                for metric, value in rollouts.metrics.items():
                    log_metric(metric, value)
            return [parts[name] for parts in reward_parts]

        # TRL logs a reward under its function's name.
        hand_on.__name__ = name.rpartition(":")[2]
        functions.append(hand_on)
    return functions
