"""``SAMPLES=8``: pass@k and maj@k of the trained stages, beside their greedy accuracy.

Greedy accuracy rises where a stage solves what none before it could, and also where it only writes more often what it
could before. pass@k, the share of problems that at least one of k samples solves, rises in the first case alone (Yue et
al. 2025, arXiv 2504.13837, section 3). The samples stay in the run, and are not asked for again.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from data.problem import Grade
from eval.grade import grade_all
from eval.score import SAMPLING_TEMPERATURE, score_samples
from eval.table import format_markdown, group_benchmarks, make_rows
from pipeline.evaluate import evaluate, make_sample_seed
from pipeline.models.load import load_model
from pipeline.processes import on_main_process
from pipeline.run import Run
from pipeline.stages.stage import Stage

Record = dict[str, Any]


def sample_stages(run: Run, stages: Sequence[Stage], count: int) -> str:
    """Sample the trained ones of some stages, and write ``pass_at_k.json``.

    Args:
        run: Where these stages are up to date.
        stages: Those without an adapter are left out; one at least has one.
        count: Samples of each problem.

    Returns:
        A Markdown table with the rows of ``pass_at_k.json``: each stage on each benchmark.
    """
    scores = {each.name: each for each in run.dir.read_stage_scores(controls=True)}
    # A control that found nothing to learn has no row.
    trained = [stage for stage in stages if stage.train and stage.name in scores]

    # Other stages in the folder may have been scored on other problems.
    rows_of_trained = make_rows([scores[stage.name] for stage in trained])
    greedy = {(row["benchmark"], row["stage"]): row["accuracy"] for row in rows_of_trained}
    samples = {stage.name: sample_stage(run, stage, count) for stage in trained}

    rows = []
    for group, benchmarks in group_benchmarks(run.benchmarks).items():
        problems = [problem for benchmark in benchmarks for problem in benchmark.problems]
        for stage in trained:
            parts = [samples[stage.name][benchmark.name] for benchmark in benchmarks]
            # The grades of all benchmarks follow each other, sample by sample.
            pooled = [list(itertools.chain(*grades)) for grades in zip(*parts, strict=True)]
            row = {"benchmark": group, "stage": stage.name, "n": len(problems), "greedy": greedy[group, stage.name]}
            rows.append(row | score_samples(problems, pooled))

    about = {"samples": count, "temperature": SAMPLING_TEMPERATURE, "seed": run.recipe.seed}
    on_main_process(lambda: run.dir.write_pass_at_k({**about, "rows": rows}))
    return format_samples(rows, count)


def sample_stage(run: Run, stage: Stage, count: int) -> dict[str, list[list[Grade]]]:
    """Return for each benchmark the grades of its problems, once for each sample."""
    adapter = run.dir.stage(stage.name).adapter
    model, tokenizer = load_model(run.base_folder, adapter, load=run.recipe.base.load)
    max_new_tokens = run.recipe.eval.generation["max_new_tokens"]

    samples: dict[str, list[list[Grade]]] = {}
    for benchmark in run.benchmarks:
        for number in range(count):
            seed = make_sample_seed(run.recipe.seed, number)
            depends_on = (stage.prompt, SAMPLING_TEMPERATURE, max_new_tokens, seed)
            evaluation = evaluate(
                model,
                tokenizer,
                benchmark.problems,
                stage.prompt,
                max_new_tokens=max_new_tokens,
                batch_size=run.recipe.eval.batch_size,
                temperature=SAMPLING_TEMPERATURE,
                seed=seed,
                label=f"{stage.name} {benchmark.name}, sample {number + 1} of {count}",
                partial=run.dir.find_samples(adapter, benchmark.problems, *depends_on),
            )
            grades = grade_all(benchmark.problems, evaluation.completions)
            samples.setdefault(benchmark.name, []).append(grades)
    return samples


def format_samples(rows: Sequence[Record], count: int) -> str:
    """Return the rows as a Markdown table, in percent."""
    passes = {k: f"pass@{k}" for k in rows[0]["pass_at"]}
    headings = ("benchmark", "stage", "n", "greedy", *passes.values(), f"maj@{count}")

    lines = []
    for row in rows:
        shares = [row["greedy"], *(row["pass_at"][k]["accuracy"] for k in passes), row["maj"]["accuracy"]]
        percents = [f"{100 * share:.1f}" for share in shares]
        lines.append([row["benchmark"], row["stage"], str(row["n"]), *percents])
    return format_markdown(headings, lines)
