"""All ways to decide how long to think, asked the same problems (``make tradeoff``): the rl stage made never or always
to think or cut off at a budget, a probe that chooses, the learnt choice, the learnt length. What they come to is
worked out from disk, by eval/tradeoff.py."""

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from data.records import Problem, write_json, write_records
from eval import tradeoff
from eval.grade import grade
from pipeline import answers, probe, runs, stages
from pipeline.problems import ARITHMETIC, LOGIC, dev_problems, train_problems
from pipeline.progress import bar
from pipeline.prompts import THINK, prompt_ids
from pipeline.runs import Run
from pipeline.stages import BUDGETED

PROBED = (300, 150)  # train problems, arithmetic and logic, that the probe is fitted on
CHOSEN_ON = 100  # dev problems of each, on which its layer and threshold are chosen


def run(opened: Run) -> Path:
    """Bring both stages 5 up to date, ask all ways all problems, and leave the answers in runs/BASE/tradeoff."""
    for stage in ("adaptive", BUDGETED):
        stages.run_stage(opened, stage)
    folder, budgets = opened.root / "tradeoff", opened.recipe.adaptive_budget.budgets
    inputs: dict[str, Any] = {stage: stages.scoring_inputs(opened, stage) for stage in ("rl", "adaptive", BUDGETED)}
    inputs |= {"budgets": budgets, "seed": opened.recipe.seed, "accuracy_loss": opened.recipe.adaptive.accuracy_loss}
    partial = stages.unanswered(opened, "tradeoff", inputs)
    if partial is None:
        return folder
    (folder / "tradeoff.svg").unlink(missing_ok=True)  # of other answers
    start, said = time.monotonic(), folder / "ways.json"
    ways: list[dict[str, Any]] = []
    files = [said]

    def asked(model, tokenizer, kind: str, limit: int | None = None, **how) -> None:
        name = kind.replace(" ", "-") + ("" if limit is None else f"-{limit}")
        for benchmark in opened.benchmarks:
            kept = partial / name / benchmark.name
            texts = answered(opened, model, tokenizer, benchmark.problems, f"{name} {benchmark.name}", kept, **how)
            files.append(folder / name / f"{benchmark.name}.jsonl")
            write_records(files[-1], texts)
        ways.append({"kind": kind, "asked": limit, "folder": name})

    model, tokenizer = opened.load(stages.adapter_of(opened, "rl"))
    asked(model, tokenizer, tradeoff.NEVER, budget=0)
    asked(model, tokenizer, tradeoff.ALWAYS, begin=f"{THINK}\n")
    for limit in budgets:
        if limit:
            asked(model, tokenizer, tradeoff.FORCED, limit, begin=f"{THINK}\n", budget=limit)
    probed = fitted(opened, model, tokenizer, partial)
    model, tokenizer = opened.load(stages.adapter_of(opened, "adaptive"))
    asked(model, tokenizer, tradeoff.CHOICE)
    model, tokenizer = opened.load(stages.adapter_of(opened, BUDGETED))
    for limit in budgets:
        asked(model, tokenizer, tradeoff.LENGTH, limit, at_most=limit)
    about = {"base": opened.base, "seed": opened.recipe.seed, "benchmarks": [b.name for b in opened.benchmarks]}
    about |= {"n": {b.name: len(b.problems) for b in opened.benchmarks}, "probe": probed, "ways": ways}
    about |= {"problems": {b.name: tradeoff.problems_key(b.problems) for b in opened.benchmarks}}
    write_json(said, about)
    runs.record(folder, "scoring", inputs, time.monotonic() - start, files=runs.hashes(folder, files))
    shutil.rmtree(partial)
    return folder


def answered(opened: Run, model, tokenizer, problems: list[Problem], label: str, kept: Path, **how):
    """Greedy completions of the trained rungs' prompt, with the recipe's cap and batch; kept as they come."""
    settings = opened.recipe.eval
    return answers.complete(
        model,
        tokenizer,
        problems,
        "think",
        max_tokens=settings.max_tokens,
        batch_size=settings.batch_size,
        label=label,
        kept=kept,
        **how,
    )


def fitted(opened: Run, model, tokenizer, partial: Path) -> dict[str, Any]:
    """The probe: fitted on train problems that sft has not seen first, its layer and its threshold chosen on dev; its
    score of each benchmark problem. The threshold sends as many dev problems to the answer at once as it can for the
    accuracy that the learnt choice may lose, too."""

    def hidden(problems: list[Problem]) -> torch.Tensor:
        off = model.disable_adapter() if hasattr(model, "disable_adapter") else contextlib.nullcontext()
        with off, bar("hidden states", len(problems)) as advance:
            return probe.states(model, [prompt_ids(tokenizer, p, "think") for p in problems], advance=advance)

    def right(problems: list[Problem], label: str, **how) -> torch.Tensor:
        texts = answered(opened, model, tokenizer, problems, label, partial / label, **how)
        return torch.tensor([grade(p, c).correct for p, c in zip(problems, texts, strict=True)])

    of_train = train_problems(opened.recipe, *PROBED, [])
    train = [*of_train[ARITHMETIC], *of_train[LOGIC]]
    dev = [p for of_it in dev_problems(CHOSEN_ON).values() for p in of_it]
    at_once = right(dev, "dev, at once", budget=0)
    thought = right(dev, "dev, thinking", begin=f"{THINK}\n")
    dev_hidden = hidden(dev)
    made = probe.best(hidden(train), right(train, "train, at once", budget=0), dev_hidden, at_once)
    scores = made(dev_hidden)
    least = thought.float().mean() - opened.recipe.adaptive.accuracy_loss
    thresholds = [1.0, *sorted(set(scores.tolist()), reverse=True), 0.0]
    holding = [t for t in thresholds if torch.where(scores > t, at_once, thought).float().mean() >= least]
    of_test = {b.name: made(hidden(b.problems)).tolist() for b in opened.benchmarks}
    return {
        "layer": made.layer,
        "threshold": min(holding),
        "dev_auroc": tradeoff.auroc(scores.tolist(), at_once.tolist()),
        "scores": of_test,
    }
