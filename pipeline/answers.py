"""A model's answers to problems under one prompt; where they are kept as they come, an interrupted asking goes on."""

import contextlib
import json
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data.records import BadInput, Completion, Problem, record_json, write_text
from pipeline import processes
from pipeline.processes import by_main
from pipeline.progress import bar, say
from pipeline.prompts import encode, exemplars, prompt_ids


def complete(
    model,
    tokenizer,
    problems: list[Problem],
    prompt: str,
    shots: int = 0,
    *,
    max_tokens: int,
    batch_size: int,
    budget: int | None = None,
    least: int = 0,
    begin: str = "",
    at_most: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    wording: int = 0,
    after: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    label: str,
    kept: Path | None = None,
    written: Callable[[str], None] | None = None,
) -> list[Completion]:
    """One completion of every problem under one prompt, by a model or a :class:`pipeline.served.Served` one (which has
    no ``budget``, ``least`` or ``begin``), greedy unless there is a ``temperature``; ``budget`` caps the
    tokens of a thought, ``least`` is their floor, ``at_most`` what is asked for in words; ``begin`` is what every
    completion is made to begin with; ``wording`` chooses among the ways to put the instruction, and ``after``
    (id -> first answer, feedback) makes it a second answer. Where answers are ``kept`` in a folder as they come, in a
    file of each process, those in it are not asked for again. ``written`` is told the text so far after each token, in
    place of a bar."""
    from pipeline.generate import Sample, completion, generate, stop_ids, text_of
    from pipeline.served import Served

    known = {c.id: c for c in by_main(lambda: so_far(kept))} if kept else {}
    earlier, begun = by_main(lambda: spent(kept)) if kept else 0.0, time.monotonic()
    mine = kept / f"{processes.state().process_index}.jsonl" if kept else None
    asked = problems
    problems = [problem for problem in problems if problem.id not in known]
    if not problems:
        return [known[problem.id] for problem in asked]
    kinds = {problem.kind: exemplars(problem, shots) for problem in problems}
    prompts = [
        prompt_ids(tokenizer, problem, prompt, kinds[problem.kind], wording, after.get(problem.id, ()), at_most)
        for problem in problems
    ]
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    if (longest := max(map(len, prompts))) + max_tokens > context:
        raise BadInput(
            f"{label}: a prompt of {longest} tokens and eval.max_tokens={max_tokens} go beyond the base's context of "
            f"{context}; lower shots or eval.max_tokens, or leave out the longest problems"
        )
    stops = stop_ids(model, tokenizer)

    def answered(i: int, sample: Sample) -> Completion:
        return completion(tokenizer, problems[i], sample, stops, len(prompts[i]))

    def finished(i: int, sample: Sample) -> None:
        known[problems[i].id] = made = answered(i, sample)
        if mine:
            with open(mine, "a", encoding="utf-8") as file:
                row = record_json(made) | {"seconds": round(earlier + time.monotonic() - begun, 1)}
                file.write(f"{checked(json.dumps(row))}\n")

    def grown(_: int, sample: Sample) -> None:
        if written:
            written(text_of(tokenizer, sample.ids, stops))

    with contextlib.nullcontext() if written else bar(label, len(problems)) as advance:
        sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        sampling |= {"progress": advance, "finished": finished}
        if isinstance(model, Served):
            samples = model.generate(prompts, **sampling)
        else:
            samples = generate(
                model,
                tokenizer,
                prompts,
                **sampling,
                budget=budget,
                least=least,
                prefixes=[encode(tokenizer, begin)] * len(prompts),
                batch_size=batch_size,
                grown=grown if written else None,
            )
    for i, sample in enumerate(samples):
        if problems[i].id not in known:  # another process answered it, and wrote it down
            known[problems[i].id] = answered(i, sample)
    return [known[problem.id] for problem in asked]


def checked(text: str) -> str:
    """A line of a file that is written as a run goes, behind its checksum."""
    return f"{zlib.crc32(text.encode()):08x} {text}"


def so_far(kept: Path) -> list[Completion]:
    """The answers in a folder's files of them; lines that a kill cut off, or that are not what was written, are
    removed."""
    kept.mkdir(parents=True, exist_ok=True)
    found = []
    for file in sorted(kept.iterdir()):
        lines, rows = _rows(file)
        if (lost := len(lines) - 1 - len(rows)) > 0:
            say(f"{file}: {lost} of its lines are not what was written; asking again")
        write_text(file, "".join(f"{checked(json.dumps(row))}\n" for row in rows))
        found += [Completion(**{key: row[key] for key in row if key != "seconds"}) for row in rows]
    return found


def spent(kept: Path) -> float:
    """The seconds that the answers in a folder took, by however many askings."""
    files = kept.iterdir() if kept.is_dir() else ()
    return max((row["seconds"] for file in files for row in _rows(file)[1]), default=0.0)


def _rows(file: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """All lines of a file of answers, and the rows of those that are what was written."""
    lines = file.read_bytes().decode(errors="replace").split("\n")
    return lines, [json.loads(line[9:]) for line in lines if line == checked(line[9:])]
