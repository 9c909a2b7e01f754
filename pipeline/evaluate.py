"""The one place where a model is asked: an evaluation, which goes on where it was interrupted."""

import functools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.nn import Module

from data.files import UserError, append_jsonl, make_folder, read_appended_jsonl
from data.problem import Completion, Problem, record_to_json
from pipeline import processes
from pipeline.generate import TokenSequence, find_stop_ids, generate, to_completion
from pipeline.models.load import get_context_tokens
from pipeline.progress import progress_bar
from pipeline.prompts import Prompt, encode_forced_opening, encode_prompt, encode_text
from pipeline.thinking_budget import ThinkingLimits


@dataclass(frozen=True)
class Evaluation:
    """A model's completions of problems, and the seconds that decoding them took, interrupted runs included."""

    completions: list[Completion]
    seconds: float


def evaluate(
    model,
    tokenizer,
    problems: Sequence[Problem],
    prompt: Prompt,
    *,
    examples: Sequence[Problem] = (),
    max_new_tokens: int,
    batch_size: int,
    thinking: ThinkingLimits | None = None,
    prefix: str = "",
    temperature: float = 0.0,
    seed: int = 0,
    label: str,
    partial: Path | None = None,
) -> Evaluation:
    """Ask a model all problems under one prompt; returns a completion of each, in order.

    Args:
        model: On this machine, or a :class:`pipeline.client.ServedModel` (without thinking limits).
        prompt: The name of a prompt, or one of the user's own.
        examples: Worked problems that stand before each question.
        max_new_tokens: The most tokens of a completion.
        batch_size: Rows at a time.
        thinking: Bounds on the tokens of a thought.
        prefix: What each completion begins with; where it is empty, what the chat template says.
        temperature: 0 is greedy.
        label: What the progress bar and errors call this evaluation.
        partial: A folder for completions as they come, a file for each process; those in it are not asked for again.

    Raises:
        UserError: Where a prompt and its completion do not fit the context.
    """
    earlier = _read_partial(partial)
    completions = {completion.id: completion for completion in earlier.completions}
    places = [place for place, problem in enumerate(problems) if problem.id not in completions]
    missing = [problems[place] for place in places]
    prompts = [encode_prompt(tokenizer, problem, prompt, examples) for problem in missing]
    _check_context(model, prompts, max_new_tokens, label)

    # A thought that the template opens under this prompt is a part of the completion.
    beginning = encode_text(tokenizer, prefix) or encode_forced_opening(tokenizer, prompt)
    recorder = _Recorder(model, tokenizer, missing, prompts, earlier.seconds, partial)
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        # What is left is sampled as it would have been with the others.
        "places": places,
        "prefixes": [beginning] * len(prompts),
    }
    # Without a folder nothing is to be kept.
    settings["on_sequence_end"] = recorder.record if partial else None

    # A server has its own batches, and knows no limits.
    decode = model.generate
    if isinstance(model, Module):
        decode = functools.partial(generate, model, tokenizer)
        settings |= {"thinking": thinking, "batch_size": batch_size}

    with progress_bar(label, len(missing)) as on_progress:
        sequences = decode(prompts, on_progress=on_progress, **settings)
    # Before the sequences become texts, which is no decoding.
    seconds = recorder.elapsed_seconds()

    for i, sequence in enumerate(sequences):
        completions[missing[i].id] = recorder.to_completion(i, sequence)
    return Evaluation([completions[problem.id] for problem in problems], seconds)


def make_sample_seed(seed: int, number: int) -> int:
    """Return the seed of one of several samples; no two seeds share a sample."""
    return 1_000_003 * seed + number


class _Recorder:
    """Turns the sequences of one evaluation into completions, and writes them down as they come."""

    def __init__(self, model, tokenizer, problems, prompts, seconds_before, partial):
        self.tokenizer = tokenizer
        self.stops = find_stop_ids(model, tokenizer)
        self.problems = problems
        self.prompts = prompts

        # Each process writes a file of its own.
        self.file = partial / f"{processes.get_state().process_index}.jsonl" if partial else None
        self.seconds_before = seconds_before
        self.start = time.monotonic()

    def elapsed_seconds(self) -> float:
        """The seconds of decoding so far, earlier runs included."""
        return self.seconds_before + time.monotonic() - self.start

    def to_completion(self, i: int, sequence: TokenSequence) -> Completion:
        """The i-th sequence as what was written on its problem."""
        prompt_tokens = len(self.prompts[i])
        return to_completion(self.tokenizer, self.problems[i], sequence, self.stops, prompt_tokens)

    def record(self, i: int, sequence: TokenSequence) -> None:
        """Write down the i-th sequence, which is complete."""
        row = record_to_json(self.to_completion(i, sequence))
        row["seconds"] = round(self.elapsed_seconds(), 1)
        append_jsonl(self.file, [row])


def _read_partial(folder: Path | None) -> Evaluation:
    """What the files of an interrupted evaluation hold; nothing where there are none."""

    def read() -> Evaluation:
        rows: list[dict[str, Any]] = []
        if folder:
            make_folder(folder)
            for file in sorted(folder.glob("*.jsonl")):
                rows += read_appended_jsonl(file)

        # Each row has the seconds up to then, so the largest number is the sum of all.
        seconds = max((row.pop("seconds") for row in rows), default=0.0)
        return Evaluation([Completion(**row) for row in rows], seconds)

    return processes.on_main_process(read)


def _check_context(
    model,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    label: str,
) -> None:
    """Refuse prompts that leave no room for a completion."""
    context = get_context_tokens(model.config) or sys.maxsize
    longest = max((len(prompt) for prompt in prompts), default=0)

    if longest + max_new_tokens > context:
        raise UserError(
            f"{label}: a prompt of {longest} tokens and a completion of {max_new_tokens} go beyond the base's context "
            f"of {context}; lower shots or eval.generation.max_new_tokens, or leave out the longest problems"
        )
