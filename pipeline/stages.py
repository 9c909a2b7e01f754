"""The five stages: what each stands on, trains and is asked with.

A stage first brings what it stands on up to date, then trains its adapter (sft, rl, adaptive), then answers every
benchmark with every variant of its prompt; completions, grades and scores go to disk. What is up to date is left alone.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from data.build import load
from data.records import Completion, Problem, read_completions, write_json, write_records
from eval.extract import EXTRACTION_VERSION
from eval.grade import grade_all
from eval.score import SCORES_VERSION, score
from pipeline import base, runs
from pipeline.progress import bar, console, training_bar
from pipeline.prompts import DIRECT, THINK, exemplars, prompt_ids
from pipeline.recipe import STAGES, RlSettings, SftSettings
from pipeline.reward import NoSignal
from pipeline.runs import Run

STANDS_ON = {"plain": None, "cot": None, "sft": None, "rl": "sft", "adaptive": "rl"}
# Stages that differ from a real one in one setting, by which what they teach is taken away: a gain that stays is fake.
CONTROLS = {
    "sft_answers": ("sft", {"traces": "answers"}),
    "sft_shuffled": ("sft", {"traces": "shuffled"}),
    "rl_random": ("rl", {"reward": "random"}),
    "rl_format": ("rl", {"reward": "format"}),
}
STANDS_ON |= {control: STANDS_ON[real] for control, (real, _) in CONTROLS.items()}
TRAINED = ("sft", "rl", "adaptive", *CONTROLS)
ARITHMETIC, LOGIC = "arithmetic_v1", "logic_v1"


def run_stage(run: Run, stage: str) -> None:
    """Bring one stage up to date, and whatever it stands on."""
    parent = STANDS_ON[stage]
    if parent:
        run_stage(run, parent)
    base.check_space(run.stage(stage), 1.0, "set RUNS=")
    if stage in TRAINED:
        try:
            train(run, stage)
        except NoSignal as error:
            if stage not in CONTROLS:
                raise
            console.print(f"{error}. A control with nothing to learn is its parent, so it gets no row")
            return
    answer(run, stage)


def settings_of(run: Run, stage: str) -> Any:
    """The section of the recipe that a stage runs under."""
    real, change = CONTROLS.get(stage, (stage, {}))
    return dataclasses.replace(getattr(run.recipe, real), **change)


def adapter_of(run: Run, stage: str) -> Path | None:
    """The folder of a trained stage's adapter; None for a prompted stage."""
    return run.stage(stage) / "adapter" if stage in TRAINED else None


def training_inputs(run: Run, stage: str) -> dict[str, Any]:
    """What a stage's adapter is made from."""
    parent = STANDS_ON[stage]
    return {
        "base": run.fingerprint,
        "settings": runs.settings(settings_of(run, stage)),
        "seed": run.recipe.seed,
        "stands_on": runs.folder_hash(run.stage(parent) / "adapter") if parent else None,
        "problems": (runs.ROOT / "data" / "benchmarks" / "SHA256SUMS").read_text(),
    }


def scoring_inputs(run: Run, stage: str) -> dict[str, Any]:
    """What a stage's completions and scores are made from."""
    adapter = adapter_of(run, stage)
    return {
        "base": run.fingerprint,
        "adapter": runs.folder_hash(adapter) if adapter else None,
        "variants": variants(run, stage),
        "settings": {"max_tokens": run.recipe.eval.max_tokens, "batch_size": run.recipe.eval.batch_size},
        "benchmarks": {b.name: [b.sha256, len(b.problems)] for b in run.benchmarks},
        "extraction": EXTRACTION_VERSION,
        "scores": SCORES_VERSION,
    }


def status(run: Run) -> dict[str, str]:
    """Of each stage, whether it is up to date, and if not, why."""
    found: dict[str, str] = {}
    for stage in STAGES:
        made, parent = runs.manifest(run.stage(stage)), STANDS_ON[stage]
        needed = {"training": training_inputs} if stage in TRAINED else {}
        reasons = []
        for part, inputs in (needed | {"scoring": scoring_inputs}).items():
            if part not in made:
                reasons.append(f"no {part} yet")
                continue
            changed = runs.differences(made[part]["inputs"], json.loads(json.dumps(inputs(run, stage))))
            reasons += [f"{part}: {change}" for change in changed]
        adapter = adapter_of(run, stage)
        if adapter and "training" in made and made["training"]["adapter"] != runs.folder_hash(adapter):
            reasons.append("the adapter on disk is not the one that was trained")
        if parent and found[parent] != "up to date":
            reasons.append(f"{parent}, which it stands on, is not up to date")
        found[stage] = "; ".join(reasons) or "up to date"
    return found


def train(run: Run, stage: str) -> None:
    """Train the stage's adapter unless the one on disk was made from the same inputs."""
    stage_dir, parent = run.stage(stage), STANDS_ON[stage]
    section, inputs = settings_of(run, stage), training_inputs(run, stage)
    made = runs.folder_hash(stage_dir / "adapter")
    if runs.up_to_date(stage_dir, "training", inputs):
        if runs.manifest(stage_dir)["training"]["adapter"] == made:
            return
        console.print(f"{stage}: the adapter on disk is not the one the manifest names; training it again")
    work = runs.work_folder(stage_dir, inputs)
    console.print(f"{stage}: training")
    start = time.monotonic()
    best = train_rl(run, stage, section, work) if parent else train_sft(run, section, work)
    shutil.rmtree(stage_dir / "adapter", ignore_errors=True)
    shutil.copytree(best, stage_dir / "adapter.new", dirs_exist_ok=True)
    (stage_dir / "adapter.new").rename(stage_dir / "adapter")
    curve = work / "curve.json"
    if curve.is_file():
        for name in ("curve.json", "train.jsonl", "preflight.json"):
            if (work / name).is_file():
                shutil.copy(work / name, stage_dir / name)
    recipe = {"seed": run.recipe.seed, "profile": run.profile, stage: runs.settings(section)}
    (stage_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    seconds = time.monotonic() - start
    made = runs.folder_hash(stage_dir / "adapter")
    runs.record(stage_dir, "training", inputs, seconds, base=run.base, adapter=made, overlaps=run.overlaps)
    shutil.rmtree(work)
    console.print(f"{stage}: trained in {seconds:.0f} s")


def train_sft(run: Run, settings: SftSettings, work: Path) -> Path:
    """Stage 3; returns the folder of the adapter."""
    import torch

    from pipeline import sft

    torch.manual_seed(run.recipe.seed)  # the adapter's first weights
    problems = load(ARITHMETIC, "train")[: settings.arithmetic] + load(LOGIC, "train")[: settings.logic]
    model, tokenizer = base.load(run.folder, trainable=True)
    rows = sft.tokenized(tokenizer, sft.traces(problems, settings, run.recipe.seed))
    model = sft.train(
        model, tokenizer, rows, settings, run.recipe.seed, work, sft.lora(settings), [training_bar("sft")]
    )
    model.save_pretrained(work / "final")
    return work / "final"


def train_rl(run: Run, stage: str, settings: RlSettings, work: Path) -> Path:
    """Stages 4 and 5; returns the folder of the best adapter on dev."""
    from pipeline import rl
    from pipeline.reward import REWARDS, correctness_and_mode

    def paid(problem: Problem, text: str, finish: str) -> float:
        return correctness_and_mode(problem, text, finish, settings.direct_bonus)

    # In stage 5 half of the samples are made to answer at once and half to think, so that neither way dies out and
    # every problem shows which of the two pays (AdaptThink, arXiv 2505.13417, section 3.3).
    task = rl.Task(paid, (DIRECT, f"{THINK}\n")) if stage == "adaptive" else rl.Task(REWARDS[settings.reward])
    after = {ARITHMETIC: run.recipe.sft.arithmetic, LOGIC: run.recipe.sft.logic}
    count = {ARITHMETIC: settings.arithmetic, LOGIC: settings.logic}
    pool = []
    for name, seen in after.items():
        train = load(name, "train")
        fresh_first = [p for p in train[seen:] + train[:seen] if p.level in settings.levels]
        pool += fresh_first[: count[name]]
    dev = [p for name in after for p in load(name, "dev")[: settings.dev]]
    model, tokenizer = base.load(run.folder, adapter_of(run, str(STANDS_ON[stage])), trainable=True)
    return rl.train(model, tokenizer, pool, dev, task, settings, run.recipe.seed, work, stage)


def variants(run: Run, stage: str) -> list[tuple[str, str, int]]:
    """(name, prompt, shots) of each row that a stage has in the table."""
    if stage in TRAINED:
        return [("zero-shot", "think", 0)]
    shots = settings_of(run, stage).shots
    return [("zero-shot" if n == 0 else f"{n}-shot", stage, n) for n in shots]


def answer(run: Run, stage: str) -> None:
    """Score the stage on every benchmark unless that was done with the same inputs."""
    stage_dir, adapter = run.stage(stage), adapter_of(run, stage)
    asked, inputs = variants(run, stage), scoring_inputs(run, stage)
    if runs.up_to_date(stage_dir, "scoring", inputs):
        console.print(f"{stage}: up to date")
        return
    start = time.monotonic()
    for benchmark in run.benchmarks:
        write_records(run.root / "problems" / f"{benchmark.name}.jsonl", benchmark.problems)
    model, tokenizer = base.load(run.folder, adapter)
    scored = []
    for variant, prompt, shots in asked:
        entries = []
        for benchmark in run.benchmarks:
            inside = Path(variant) if len(asked) > 1 else Path()
            completions_file = Path("completions") / inside / f"{benchmark.name}.jsonl"
            grades_file = Path("grades") / inside / f"{benchmark.name}.jsonl"
            began = time.monotonic()
            completions = complete(
                model,
                tokenizer,
                benchmark.problems,
                prompt,
                shots,
                max_tokens=run.recipe.eval.max_tokens,
                batch_size=run.recipe.eval.batch_size,
                label=f"{stage} {variant} {benchmark.name}",
            )
            seconds = round(time.monotonic() - began, 1)
            write_records(stage_dir / completions_file, completions)
            grades = grade_all(benchmark.problems, read_completions(stage_dir / completions_file))
            write_records(stage_dir / grades_file, grades)
            about = {
                "benchmark": benchmark.name,
                "benchmark_sha256": benchmark.sha256,
                "completions": str(completions_file),
                "grades": str(grades_file),
                "overlaps": len(run.overlaps[benchmark.name]) if stage in TRAINED else 0,
            }
            entries.append(about | score(benchmark.problems, completions, grades, seconds))
        scored.append({"variant": variant, "prompt": prompt, "shots": shots, "benchmarks": entries})
    if stage not in TRAINED:
        section = {"seed": run.recipe.seed, "profile": run.profile, stage: runs.settings(settings_of(run, stage))}
        (stage_dir / "recipe.yaml").write_text(yaml.safe_dump(section, sort_keys=False))
    write_json(stage_dir / "scores.json", {"stage": stage, "extraction": EXTRACTION_VERSION, "variants": scored})
    seconds = time.monotonic() - start
    runs.record(stage_dir, "scoring", inputs, seconds, base=run.base, source=base.source(run.folder))
    console.print(f"{stage}: scored in {seconds:.0f} s")


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
    temperature: float = 0.0,
    seed: int = 0,
    wording: int = 0,
    after: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    label: str,
) -> list[Completion]:
    """One completion of every problem under one prompt, greedy unless there is a ``temperature``; ``budget`` caps the
    tokens of a thought, ``wording`` chooses among the ways to put the instruction, and ``after`` (id -> first answer,
    feedback) makes it a second answer."""
    from pipeline.generate import count_tokens, generate, stop_ids, text_of

    kinds = {problem.kind: exemplars(problem, shots) for problem in problems}
    prompts = [
        prompt_ids(tokenizer, problem, prompt, kinds[problem.kind], wording, after.get(problem.id, ()))
        for problem in problems
    ]
    with bar(label, len(problems)) as advance:
        samples = generate(
            model,
            tokenizer,
            prompts,
            max_tokens=max_tokens,
            budget=budget,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
            progress=advance,
        )
    stops = stop_ids(model, tokenizer)
    completions = []
    for problem, ids, sample in zip(problems, prompts, samples, strict=True):
        thinking, other = count_tokens(tokenizer, sample.ids)
        text = text_of(tokenizer, sample.ids, stops)
        completions.append(Completion(problem.id, text, len(ids), thinking, other, sample.finish))
    return completions


def done(run_dir: Path) -> list[str]:
    """The stages that have been scored, in order."""
    return [stage for stage in STAGES if (run_dir / stage / "scores.json").is_file()]
