"""Candidate solutions that a model writes: one of ours, or a teacher behind an address.

Texts are written to a file as they come, so an interrupted sampling goes on where it stopped and ends the same.
"""

import contextlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from data.files import append_jsonl, read_appended_jsonl, sha256_json
from data.problem import Completion, Problem, record_to_json
from pipeline import processes
from pipeline.client import Client, RequestLimit
from pipeline.generate import BATCH_SIZES, find_stop_ids, generate, to_completion
from pipeline.prompts import build_messages, encode_prompt, format_question
from pipeline.traces.verify import Candidate, make_candidate

# Texts that are written together. On a GPU those that end leave their slots to the next ones: more texts than slots.
PART_SIZES = {"cpu": BATCH_SIZES["cpu"], "cuda": 4096}

# Gets how many texts came, and their tokens.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Draw:
    """One text that is to be written: the ``number``-th of a problem. Its key names everything that it comes from."""

    problem: Problem
    number: int
    key: str


def plan_draws(problems: Sequence[Problem], samples: int, origin: Sequence[Any]) -> list[Draw]:
    """Return ``samples`` draws of each problem."""
    draws = []
    for problem in problems:
        for number in range(samples):
            key = sha256_json([*origin, problem.id, format_question(problem), number])[:24]
            draws.append(Draw(problem, number, key))
    return draws


class CompletionFile:
    """Completions by the keys of their draws, in a file that grows; read and written by the main process only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = Lock()

        # Damaged lines are gone after this, and their texts are written again.
        self.completions: dict[str, Completion] = {}
        for row in processes.on_main_process(lambda: read_appended_jsonl(path)):
            key = row.pop("key")
            self.completions[key] = Completion(**row)

    def add(self, completions: Mapping[str, Completion]) -> None:
        """Add completions by key."""
        rows = [{"key": key} | record_to_json(completion) for key, completion in completions.items()]
        # Threads of a teacher's sampling write to the same file.
        with self.lock:
            if processes.is_main():
                append_jsonl(self.path, rows)
            self.completions |= completions

    def to_candidates(self, draws: Sequence[Draw]) -> list[Candidate]:
        """Return the candidates of the draws that are there, in their order."""
        candidates = []
        for draw in draws:
            if draw.key in self.completions:
                candidates.append(Candidate(draw.problem, self.completions[draw.key]))
        return candidates


def ignore_progress(texts: int, tokens: int) -> None:
    """Show nothing."""


# A model of ours


def sample_candidates(
    model,
    tokenizer,
    problems: Sequence[Problem],
    samples: int,
    generation: Mapping[str, Any],
    seed: int,
    partial_file: Path,
    on_progress: OnProgress = ignore_progress,
    origin: str = "",
) -> list[Candidate]:
    """Have a model write ``samples`` texts for each problem.

    Args:
        model: With its adapter.
        tokenizer: Of the model.
        problems: What is asked, under the prompt "think".
        samples: Texts of each problem.
        generation: ``max_new_tokens`` and ``temperature``.
        seed: Of the sampling.
        partial_file: Where texts are written as they come; those in it are not asked for again.
        on_progress: Gets (texts, tokens) as they come.
        origin: Names the model's weights, where one file may hold texts of several.

    Returns:
        The candidates of each problem, side by side.
    """
    # Whatever changes a text is in its key, so a file may hold texts of several settings.
    draws = plan_draws(problems, samples, [origin, dict(generation), seed])
    file = CompletionFile(partial_file)

    # A part is asked for whole, so a text does not depend on where the sampling was interrupted.
    size = PART_SIZES[model.device.type]
    for start in range(0, len(draws), size):
        part = draws[start : start + size]
        if all(draw.key in file.completions for draw in part):
            on_progress(len(part), 0)
            continue

        part_seed = zlib.crc32(f"{seed} {origin} {start}".encode())
        file.add(_sample_part(model, tokenizer, part, generation, part_seed, on_progress))
    return file.to_candidates(draws)


def _sample_part(
    model, tokenizer, draws: Sequence[Draw], generation: Mapping[str, Any], seed: int, on_progress: OnProgress
) -> dict[str, Completion]:
    prompts = [encode_prompt(tokenizer, draw.problem, "think") for draw in draws]
    sequences = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=generation["max_new_tokens"],
        temperature=generation["temperature"],
        seed=seed,
        on_progress=on_progress,
    )

    stops = find_stop_ids(model, tokenizer)
    completions = {}
    for draw, prompt, sequence in zip(draws, prompts, sequences, strict=True):
        completions[draw.key] = to_completion(tokenizer, draw.problem, sequence, stops, len(prompt))
    return completions


# A teacher


def sample_teacher(
    client: Client,
    problems: Sequence[Problem],
    samples: int,
    *,
    max_tokens: int,
    temperature: float,
    concurrency: int,
    partial_file: Path,
    on_progress: OnProgress = ignore_progress,
) -> list[Candidate]:
    """Have a teacher write ``samples`` texts for each problem; fewer where the client's requests are used up.

    Args:
        client: Of the teacher.
        problems: What is asked, under the prompt "cot".
        samples: Texts of each problem.
        max_tokens: The most of a text.
        temperature: Of the teacher's sampling.
        concurrency: Requests under way together.
        partial_file: Where texts are written as they come; those in it are not asked for again.
        on_progress: Gets (texts, 0) as they come.

    Raises:
        UserError: the teacher refuses or cannot be reached; what came is in the file.
    """
    draws = plan_draws(problems, samples, ["teacher", client.model, max_tokens, temperature])
    file = CompletionFile(partial_file)

    def ask(draw: Draw) -> None:
        if draw.key in file.completions:
            return

        # A teacher does not know our think tags.
        messages = build_messages(draw.problem, "cot")
        answer = client.chat(
            messages,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=draw.number,
        )
        candidate = make_candidate(draw.problem, answer.text, answer.finish)
        file.add({draw.key: candidate.completion})

    # Where one fails, or is one too many, the map cancels those that have not begun. What came is used.
    with ThreadPoolExecutor(concurrency) as pool, contextlib.suppress(RequestLimit):
        for _ in pool.map(ask, draws):
            on_progress(1, 0)
    return file.to_candidates(draws)
