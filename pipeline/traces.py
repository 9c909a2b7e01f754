"""Traces for sft, from four sources, and what of them is kept.

A style of data/traces.py tells the generators' own solutions; a data set gives its rationales; ``own`` are samples of a
trained stage (STaR, arXiv 2203.14465; RFT, arXiv 2308.01825); ``teacher`` is a model behind an address
(pipeline/teacher.py). All become the same record, a problem with its ``rationale``, and pass the same checks.
"""

import hashlib
import json
import os
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data import overlap, sets
from data.build import load
from data.records import BadInput, Completion, Problem, read_problems
from data.splits import BENCHMARKS, normalise
from data.traces import STYLES, marked_steps, restyled
from eval.errors import steps, wrong_step
from eval.extract import split_thought
from eval.grade import equal, grade
from pipeline import processes
from pipeline.prompts import encode, thinking_answer
from pipeline.recipe import SftSettings, TracesSettings

CHUNK = 64  # samples between two writes to disk


@dataclass(frozen=True)
class Candidate:
    """A text that may become a trace of ``problem``."""

    problem: Problem
    text: str
    finish: str = "stop"


def steps_of(text: str) -> str:
    """The steps of a completion: its thought, or what stands before its last box (or the end), without a last line that
    has no step."""
    thought, _, _ = split_thought(text)
    if thought is None:
        before, boxed, _ = text.rpartition("\\boxed")
        lines, _, last = (before if boxed else text).rpartition("\n")
        thought = f"{lines}\n{last}" if steps(last) or not lines else lines
    return "\n".join(line.strip() for line in thought.strip().split("\n") if line.strip())


def fault(candidate: Candidate, rationale: str) -> str | None:
    """Why a candidate is no trace; None where it is one, its length aside."""
    problem, text = candidate.problem, candidate.text
    graded = grade(problem, Completion(problem.id, text, 0, 0, 0, candidate.finish))
    if not graded.correct:
        return "a wrong answer" if graded.verdict == "wrong" else f"no answer ({graded.verdict})"
    if not rationale:
        return "no steps"
    if wrong_step(problem, thinking_answer(rationale, problem.answer)) is not None:
        return "a wrong step"
    worked = steps(rationale)
    if problem.kind == "number" and worked and not equal(problem.answer, worked[-1][1], "number"):
        return "steps that end elsewhere"
    return None


def verified(
    candidates: Iterable[Candidate],
    source: str,
    *,
    length: Callable[[str], int],
    max_tokens: int,
    each: int,
    held: Sequence[Problem],
    balanced: bool,
) -> tuple[list[Problem], dict[str, Any]]:
    """The traces among candidates, and an account of the others by reason.

    Kept are those with a right answer and no wrong step, of at most ``max_tokens`` tokens by ``length``, at most
    ``each`` of a problem, no two with the same steps, none on a problem that gives one of ``held`` away; ``balanced``:
    and of no level more than an even share.
    """
    dropped: Counter[str] = Counter()
    kept: list[Problem] = []
    paths: set[tuple] = set()
    of_problem: Counter[str] = Counter()
    seen = 0
    for candidate in candidates:
        seen += 1
        problem = candidate.problem
        rationale = steps_of(candidate.text)
        reason = fault(candidate, rationale)
        # Equal equations in the same order are the same path, whatever the words (RFT, section 3.3).
        worked = tuple(step for step, _, _ in steps(rationale))
        path = (problem.id, worked or normalise(rationale))
        if reason is None and length(thinking_answer(rationale, problem.answer)) > max_tokens:
            reason = f"more than {max_tokens} tokens"
        if reason is None and path in paths:
            reason = "a path that is there already"
        if reason is None and of_problem[problem.id] >= each:
            reason = f"more than {each} of a problem"
        if reason:
            dropped[reason] += 1
            continue
        paths.add(path)
        of_problem[problem.id] += 1
        number = of_problem[problem.id]
        identity = problem.id if number == 1 else f"{problem.id}#{number}"
        kept.append(replace(problem, id=identity, rationale=rationale, extra=problem.extra | {"source": source}))
    while leaks := {trace.id for trace, _, _ in overlap.overlaps(kept, held)} if kept else set():
        dropped["a problem that is held out"] += len(leaks)
        kept = [trace for trace in kept if trace.id not in leaks]
    if balanced and kept:
        counts = Counter(trace.level for trace in kept)
        share = -(-len(kept) // len(counts))
        taken: Counter[int] = Counter()
        even = []
        for trace in kept:
            taken[trace.level] += 1
            if taken[trace.level] <= share:
                even.append(trace)
        dropped["beyond its level's share"] += len(kept) - len(even)
        kept = even
    levels = Counter(trace.level for trace in kept)
    return kept, {
        "source": source,
        "texts": seen,
        "kept": len(kept),
        "dropped": {reason: count for reason, count in dropped.most_common() if count},
        "levels": {str(level): levels[level] for level in sorted(levels)},
    }


def file_name(source: str, stage: str) -> str:
    """The name, without its ending, of the files that a source's traces go to; that of a file tells its path apart."""
    if source == "own":
        return f"own_{stage}"
    name = re.sub(r"[^\w.-]+", "_", source.removesuffix(".jsonl"))
    return name if re.fullmatch(r"[\w-]+", source) else f"{name}-{key_of(source)[:6]}"


def told(account: Mapping[str, Any]) -> str:
    """An account in one sentence."""
    why = ", ".join(f"{count} {reason}" for reason, count in account["dropped"].items())
    cost = f"; cost {account['cost']:g}" if "cost" in account else ""
    cost += "; stopped at the cap, raise traces.teacher.most_cost for more" if account.get("capped") else ""
    levels = ", ".join(f"{count} of level {level}" for level, count in account["levels"].items())
    return (
        f"{account['source']}: {account['texts']} texts, {account['kept']} kept"
        + (f" ({levels})" if levels and list(account["levels"]) != ["0"] else "")
        + (f"; dropped: {why}" if why else "")
        + cost
    )


def held_out(others: Iterable[Problem] = ()) -> list[Problem]:
    """What no trace may give away: our dev and test problems, and those of other benchmarks to be scored."""
    return [p for name in BENCHMARKS for split in ("dev", "test") for p in load(name, split)] + list(others)


def generated(problems: Iterable[Problem], style: str) -> list[Candidate]:
    """The generators' own solutions of train problems, in a style."""
    return [Candidate(p, thinking_answer(restyled(p, style), p.answer)) for p in problems if p.rationale is not None]


def of_data_set(spec: str) -> tuple[str, list[Candidate]]:
    """The name and the rationales of a file or a data set (data/sets.py), whose train split is taken where none is
    named; calculator marks are made steps."""
    asks_for_more = not re.search(r"[?&](split|file)=", spec) and not spec.partition("?")[0].endswith(".jsonl")
    found = sets.read(f"{spec}{'&' if '?' in spec else '?'}split=train" if asks_for_more else spec)
    if not any(p.rationale for p in found.problems):
        raise BadInput(f"source {spec}: no problem of it has a rationale; name its field with rationale=, or after=")
    return found.name, [
        Candidate(p, thinking_answer(marked_steps(p.rationale or ""), p.answer)) for p in found.problems
    ]


class Texts:
    """Texts a model wrote, a line each, by a key of all that they came from. They are appended as they come, so that an
    interrupted generation goes on where it stopped; a last line that was cut is forgotten."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            whole = path.read_bytes().rpartition(b"\n")
            self.rows = [_text(line, f"{path}:{i}") for i, line in enumerate(whole[0].split(b"\n"), 1) if line]
            if whole[2]:
                os.truncate(path, len(whole[0]) + 1 if whole[0] else 0)
        self.by_key = {row["key"]: row for row in self.rows if row["key"]}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows, in one write, and see them on the disk."""
        if processes.main():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
                file.flush()
                os.fsync(file.fileno())
        self.rows += rows
        self.by_key |= {row["key"]: row for row in rows if row["key"]}


def _text(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("key"), str):
        raise BadInput(f"{where}: not what was written; delete the line, and its text is made again")
    return row


def key_of(*parts: object) -> str:
    """A short hash of what a text came from."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:24]


def hinted(problem: Problem) -> Problem:
    """The problem with its answer given away (STaR, arXiv 2203.14465, section 3.2)."""
    return replace(problem, question=f"{problem.question} (The answer is {problem.answer}.)")


def own(
    model,
    tokenizer,
    origin: str,
    problems: Sequence[Problem],
    settings: TracesSettings,
    seed: int,
    texts: Texts,
    progress,
) -> list[Candidate]:
    """``samples`` texts of each problem by the model that ``origin`` names; with ``rationalise``, as many again with a
    hint for the problems none of whose samples is right."""
    found = _sampled(model, tokenizer, origin, problems, problems, settings, seed, texts, progress)
    if settings.rationalise:
        solved = {c.problem.id for c in found if fault(c, steps_of(c.text)) is None}
        missed = [p for p in problems if p.id not in solved]
        hints = [hinted(p) for p in missed]
        found += _sampled(model, tokenizer, f"{origin} hint", missed, hints, settings, seed, texts, progress)
    return found


def _sampled(model, tokenizer, origin, problems, asked, settings, seed, texts: Texts, progress) -> list[Candidate]:
    from pipeline.generate import generate, stop_ids, text_of
    from pipeline.prompts import prompt_ids

    stops = stop_ids(model, tokenizer)
    plan = [(p, q, k) for p, q in zip(problems, asked, strict=True) for k in range(settings.samples)]
    keys = [key_of(origin, settings.temperature, settings.max_tokens, seed, p.id, k) for p, _, k in plan]
    for begin in range(0, len(plan), CHUNK):
        part, names = plan[begin : begin + CHUNK], keys[begin : begin + CHUNK]
        if all(name in texts.by_key for name in names):
            progress(len(part), 0)
            continue
        samples = generate(
            model,
            tokenizer,
            [prompt_ids(tokenizer, q, "think") for _, q, _ in part],
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=zlib.crc32(f"{seed} {origin} {begin}".encode()),
            progress=progress,
        )
        texts.add(
            [
                {"key": name, "id": p.id, "text": text_of(tokenizer, s.ids, stops), "finish": s.finish}
                for name, (p, _, _), s in zip(names, part, samples, strict=True)
            ]
        )
    return [
        Candidate(p, texts.by_key[name]["text"], texts.by_key[name]["finish"])
        for (p, _, _), name in zip(plan, keys, strict=True)
    ]


def token_counter(tokenizer) -> Callable[[str], int]:
    """The tokens of a completion with its end of turn."""
    return lambda text: len(encode(tokenizer, text)) + 1


def parsed(source: str) -> tuple[str, float]:
    """(name, weight) of one entry of ``sft.traces``."""
    name, colon, weight = source.rpartition(":")
    return (name, float(weight)) if colon and re.fullmatch(r"\d*\.?\d+", weight) else (source, 1.0)


def mixture(problems: Sequence[Problem], settings: SftSettings, seed: int) -> list[Problem]:
    """As many traces as there are problems, each source's share of them by its weight: of a style, the problems' own
    solutions; of a file, its traces in random order. Raises BadInput where a file is no traces file or too short."""
    sources = [parsed(entry) for entry in settings.traces]
    total = sum(weight for _, weight in sources)
    if not total:
        raise BadInput("sft.traces: no source with a weight; name one, such as [short]")
    rng = random.Random(seed)
    bounds = [round(len(problems) * sum(w for _, w in sources[: i + 1]) / total) for i in range(len(sources))]
    counts = [after - before for before, after in zip([0, *bounds], bounds, strict=False)]
    labels = [name for (name, _), count in zip(sources, counts, strict=True) for _ in range(count)]
    if len(sources) > 1:
        rng.shuffle(labels)
    files = {name: _drawn(name, labels.count(name), rng) for name, _ in sources if name not in STYLES}
    taken = []
    for problem, name in zip(problems, labels, strict=True):
        if name in STYLES:
            told_so = None if problem.rationale is None else restyled(problem, name)
            taken.append(replace(problem, rationale=told_so))
        else:
            taken.append(files[name].pop())
    return taken


def _drawn(name: str, count: int, rng: random.Random) -> list[Problem]:
    path = Path(name)
    if not path.is_file():
        raise BadInput(
            f"sft.traces: {name!r} is no style ({', '.join(STYLES)}) and no file; make one with `make traces`"
        )
    traces = read_problems(path)
    for trace in traces:
        text = thinking_answer(trace.rationale or "", trace.answer)
        if reason := fault(Candidate(trace, text), trace.rationale or ""):
            raise BadInput(f"{path}: {trace.id} has {reason}; `make traces SOURCE={path}` keeps the good ones")
    if len(traces) < count:
        raise BadInput(f"sft.traces: {count} traces of {path} are asked for, it has {len(traces)}; lower its weight")
    return rng.sample(traces, count)
