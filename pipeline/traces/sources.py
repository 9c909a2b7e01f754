"""Where solutions come from: `make traces SOURCE=` writes the verified ones of a source, and sft mixes several.

A source is a style of the generators (procedure, short, long, prose), ``own`` for samples of a stage, ``teacher`` for
a model behind an address, or a data set or file with rationales.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data.dataset_spec import BUILT_IN, parse_spec
from data.datasets import BENCHMARKS, load, load_spec
from data.files import UserError, sha256_json, suggest, write_json, write_jsonl
from data.problem import Problem, read_problems
from data.solutions import STYLES, render_solution, solution_from_marks
from pipeline.progress import progress_bar, say
from pipeline.prompts import format_thinking_answer
from pipeline.stages.problems import select_stage_problems
from pipeline.traces.verify import (
    Candidate,
    Rules,
    describe_account,
    find_step_fault,
    make_candidate,
    select_solutions,
    to_conversation,
)

if TYPE_CHECKING:
    from pipeline.run import Run

WEIGHT = re.compile(r"\d*\.?\d+")


# What sft learns from


@dataclass(frozen=True)
class WeightedSource:
    """An entry of ``sft.solutions``: a style or a file, and its share of the solutions before all are added up."""

    name: str
    weight: float


def parse_source(text: str) -> WeightedSource:
    """Return the source that "long" or "FILE.jsonl:0.5" names."""
    # A path may have a colon of its own, so what follows the last one must be a number.
    name, colon, weight = text.rpartition(":")
    if colon and WEIGHT.fullmatch(weight):
        return WeightedSource(name, float(weight))
    return WeightedSource(text, 1.0)


def choose_solutions(problems: Sequence[Problem], solutions: Sequence[str], seed: int) -> list[Problem]:
    """Return as many problems with their solutions as there are ``problems``.

    Args:
        problems: What a style is told of: their own solutions.
        solutions: The sources, with weights; each gives its share. Of a file, solutions are drawn at random.
        seed: Of the choice.

    Raises:
        UserError: a source is unknown, or a file is too short or holds a wrong solution.
    """
    sources = [parse_source(text) for text in solutions]
    rng = random.Random(seed)

    # Which place goes to which source is drawn before the solutions of the files.
    names = _share_out(sources, len(problems))
    if len(sources) > 1:
        rng.shuffle(names)

    drawn = {}
    for source in sources:
        if source.name not in STYLES:
            drawn[source.name] = _draw_from_file(source.name, names.count(source.name), rng)

    chosen = []
    for problem, name in zip(problems, names, strict=True):
        if name not in STYLES:
            chosen.append(drawn[name].pop())
        # Of a data set without steps the answers alone are learnt.
        elif problem.rationale is None:
            chosen.append(problem)
        else:
            chosen.append(replace(problem, rationale=render_solution(problem, name)))
    return chosen


def _share_out(sources: Sequence[WeightedSource], count: int) -> list[str]:
    """The name of a source for each of ``count`` places, by the weights."""
    # Weights are relative: 1 and 0.5 are two thirds and one third.
    total = sum(source.weight for source in sources)
    if not total:
        raise UserError("sft.solutions: no source with a weight; name one, such as [short]")

    names: list[str] = []
    cumulative = 0.0
    for source in sources:
        # Rounding the sums and not the shares gives exactly ``count`` places.
        cumulative += source.weight
        end = round(count * cumulative / total)
        names += [source.name] * (end - len(names))
    return names


def _draw_from_file(name: str, count: int, rng: random.Random) -> list[Problem]:
    path = Path(name)
    if not path.is_file():
        raise UserError(
            f"sft.solutions: {name!r} is no style ({', '.join(STYLES)}) and no file; make one with `make traces`"
        )

    solutions = read_problems(path)
    # A file may come from elsewhere, or have been edited.
    for solution in solutions:
        fault = find_step_fault(solution)
        if fault:
            raise UserError(f"{path}: {solution.id} has {fault}; `make traces SOURCE={path}` keeps the good ones")

    # None is trained on twice.
    if len(solutions) < count:
        raise UserError(
            f"sft.solutions: {count} solutions of {path} are asked for, it has {len(solutions)}; lower its weight"
        )
    return rng.sample(solutions, count)


# make traces


@dataclass(frozen=True)
class Source:
    """Candidates, and what they come from."""

    name: str
    candidates: list[Candidate]


def make_traces(run: Run, source: str, stage: str) -> str:
    """Write the verified solutions of a source, and their account beside them, to runs/BASE/traces.

    Args:
        run: Whose recipe says what is asked.
        source: A style, "own", "teacher", a data set or a file.
        stage: Whose samples are "own".

    Returns:
        The account in one sentence, where the solutions are, and how to train on them.

    Raises:
        UserError: the source is unknown, or a stage or a teacher is not there.
    """
    from pipeline.models.load import load_tokenizer

    settings = run.recipe.traces
    file = run.dir.root / "traces" / f"{name_file(source, stage)}.jsonl"
    found = _collect_candidates(run, source, stage, file)
    rules = Rules(
        max_tokens=settings.generation["max_new_tokens"],
        max_per_problem=settings.max_per_problem,
        keep_at=1.0,
        require_checked_steps=False,
    )
    selection = select_solutions(
        found.candidates,
        found.name,
        tokenizer=load_tokenizer(run.base_folder),
        rules=rules,
        held_out=list_held_out(run),
    )

    write_jsonl(file, [to_conversation(solution) for solution in selection.solutions])
    write_json(file.with_suffix(".json"), selection.account)
    written = f'written to {file}; to train on it: make sft SET="sft.solutions=[{file}]"'
    return f"{describe_account(selection.account)}\n{written}"


def name_file(source: str, stage: str) -> str:
    """Return the name, without its ending, of the file of a source's solutions."""
    if source == "own":
        return f"own_{stage}"
    if re.fullmatch(r"[\w-]+", source):
        return source

    # A hash tells sources apart whose names come to the same.
    readable = re.sub(r"[^\w.-]+", "_", source.removesuffix(".jsonl"))
    return f"{readable}-{sha256_json(source)[:6]}"


def list_held_out(run: Run) -> list[Problem]:
    """Return what no solution may overlap with: dev and test of the recipe's benchmarks, and the run's own problems."""
    from pipeline.run import list_dev_problems

    # Adapters are chosen on dev, so one of them in training spoils as much as a test problem would.
    problems = list_dev_problems(run.recipe)
    for name in set(run.recipe.eval.benchmarks) & set(BENCHMARKS):
        for split in ("dev", "test"):
            problems += load(name, split).problems

    for benchmark in run.benchmarks:
        problems += benchmark.problems
    return problems


def _collect_candidates(run: Run, source: str, stage: str, file: Path) -> Source:
    partial_file = file.with_suffix(".partial")
    if source in STYLES:
        return Source(source, _render_candidates(run, source))
    if source == "own":
        return Source(f"own_{stage}", _sample_own(run, stage, partial_file))
    if source == "teacher":
        return Source(source, _ask_teacher(run, partial_file))

    # A misspelled style would otherwise be looked for as a data set.
    known = (*STYLES, "own", "teacher", *BENCHMARKS, *BUILT_IN)
    if source.partition("?")[0] not in known and not re.search("[./]", source):
        raise UserError(f"source {source!r} is unknown; {suggest(source, known)}, or a file, or OWNER/NAME of the hub")
    return read_rationales(source)


def _render_candidates(run: Run, style: str) -> list[Candidate]:
    candidates = []
    for problem in select_stage_problems(run.recipe, "sft", run.recipe.stages["sft"]):
        if problem.rationale is not None:
            text = format_thinking_answer(render_solution(problem, style), problem.answer)
            candidates.append(make_candidate(problem, text))
    return candidates


def read_rationales(source: str) -> Source:
    """Return the rationales of a file or data set; calculator marks become steps.

    A set without a named split gives its train split, a file all its lines.
    """
    spec = parse_spec(source)
    # Not isfile, which says no of a pipe.
    is_there = os.path.exists(spec.set) and not os.path.isdir(spec.set)
    is_file = is_there or spec.set.endswith((".jsonl", ".json"))
    if not (spec.split or spec.file or is_file):
        spec = replace(spec, split="train")

    dataset = load_spec(spec)
    if not any(problem.rationale for problem in dataset.problems):
        raise UserError(
            f"source {source}: no problem of it has a rationale; name its field with rationale= or answer_after="
        )

    candidates = []
    for problem in dataset.problems:
        steps = solution_from_marks(problem.rationale or "")
        candidates.append(make_candidate(problem, format_thinking_answer(steps, problem.answer)))
    return Source(dataset.name, candidates)


def _sample_own(run: Run, stage: str, partial_file: Path) -> list[Candidate]:
    from pipeline.models.load import load_model, resolve_precision

    # The stages need this module.
    from pipeline.stages import get_stage
    from pipeline.traces.sample import sample_candidates

    trained = run.dir.stage(stage)
    if not trained.adapter.is_dir():
        # A misspelled name is told so.
        get_stage(stage)
        raise UserError(
            f"{trained.folder}: no adapter to sample from; run `make {stage}` first if that is a stage that trains, or "
            "name one with --stage"
        )
    # A damaged adapter would write texts all the same.
    trained.check_adapter(run.fingerprint)

    settings = run.recipe.traces
    problems = select_stage_problems(run.recipe, "traces", settings)
    model, tokenizer = load_model(run.base_folder, trained.adapter, load=run.recipe.base.load)

    with progress_bar(f"sampling {stage}", len(problems) * settings.samples) as on_progress:
        return sample_candidates(
            model,
            tokenizer,
            problems,
            settings.samples,
            settings.generation,
            run.recipe.seed,
            partial_file,
            on_progress,
            origin=f"{trained.adapter_sha256()} {resolve_precision(run.recipe.base.load)}",
        )


def _ask_teacher(run: Run, partial_file: Path) -> list[Candidate]:
    from pipeline.client import Client
    from pipeline.traces.sample import sample_teacher

    settings = run.recipe.traces
    teacher = settings.teacher
    if not teacher.url or not teacher.model:
        raise UserError(
            "the teacher has no address or no model; "
            'set SET="traces.teacher.url=http://HOST:PORT/v1 traces.teacher.model=NAME"'
        )

    key = os.environ.get("OPENAI_API_KEY", "")
    client = Client(teacher.url, teacher.model, key, teacher.timeout, teacher.max_requests)
    problems = select_stage_problems(run.recipe, "traces", settings)
    count = len(problems) * settings.samples

    with progress_bar("asking the teacher", count, "texts") as on_progress:
        candidates = sample_teacher(
            client,
            problems,
            settings.samples,
            max_tokens=teacher.max_tokens,
            temperature=settings.generation["temperature"],
            concurrency=teacher.concurrency,
            partial_file=partial_file,
            on_progress=on_progress,
        )

    # The cap is no error: what came is used.
    if len(candidates) < count:
        say(
            f"teacher: {len(candidates)} of {count} texts, then traces.teacher.max_requests={teacher.max_requests} "
            "were sent; the same command goes on"
        )
    return candidates
