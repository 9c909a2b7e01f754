"""What `make traces` writes, and a later round of sft learns from: the verified traces of one source, for a run."""

import os
from pathlib import Path
from typing import Any

from data.records import BadInput, Problem, write_json, write_records
from pipeline import base, runs, traces
from pipeline.problems import sft_problems, trace_problems
from pipeline.processes import by_main
from pipeline.progress import bar
from pipeline.runs import Run


def own_traces(run: Run, stage: str) -> tuple[list[Problem], dict[str, Any]]:
    """The traces among a stage's samples of train problems, and an account of the others."""
    settings = run.recipe.traces
    model, tokenizer = run.load(run.stage(stage) / "adapter")
    problems = trace_problems(run.recipe)
    texts = by_main(lambda: traces.Texts(run.root / "traces" / f"own_{stage}.raw.jsonl"))
    origin = str(runs.folder_hash(run.stage(stage) / "adapter"))
    with bar(f"sampling {stage}", len(problems) * settings.samples) as advance:
        found = traces.own(model, tokenizer, origin, problems, settings, run.recipe.seed, texts, advance)
    return verified(run, f"own_{stage}", found, tokenizer, balanced=True)


def verified(run: Run, source: str, found: list[traces.Candidate], tokenizer, balanced: bool = False):
    """The traces among candidates, checked for this run, and an account of the others."""
    return traces.verified(
        found,
        source,
        length=traces.token_counter(tokenizer),
        max_tokens=run.recipe.traces.max_tokens,
        each=run.recipe.traces.each,
        held=traces.held_out(run.held),
        balanced=balanced,
    )


def make_traces(run: Run, source: str, stage: str) -> tuple[Path, dict[str, Any]]:
    """Write the traces of a source, and its account beside them, to runs/BASE/traces; returns their file and account.

    ``source`` is a style of data/traces.py, a data set or file (data/sets.py), ``own`` for the samples of ``stage``, or
    ``teacher``."""
    settings, tokenizer = run.recipe.traces, base.load_tokenizer(run.folder)
    folder = run.root / "traces"
    if source == "own":
        if not (run.stage(stage) / "adapter").is_dir():
            raise BadInput(f"{run.stage(stage)}: no adapter to sample from; run `make {stage}` first, or name --stage")
        kept, account = own_traces(run, stage)
    elif source == "teacher":
        from pipeline import teacher

        problems = trace_problems(run.recipe)
        texts = traces.Texts(folder / "teacher.raw.jsonl")
        one = teacher.Teacher(settings.teacher, os.environ.get("OPENAI_API_KEY", ""), texts)
        with bar("asking the teacher", len(problems) * settings.samples, "texts") as advance:
            found, paid = teacher.taught(one, problems, settings.samples, settings.temperature, advance)
        kept, account = verified(run, source, found, tokenizer, balanced=True)
        account |= paid
    elif source in traces.STYLES:
        found = traces.generated(sft_problems(run.recipe.sft), source)
        kept, account = verified(run, source, found, tokenizer)
    else:
        named, found = traces.of_data_set(source)
        kept, account = verified(run, named, found, tokenizer)
    file = folder / f"{traces.file_name(source, stage)}.jsonl"
    write_records(file, kept)
    write_json(file.with_suffix(".json"), account)
    return file, account
