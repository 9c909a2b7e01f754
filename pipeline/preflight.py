"""Before a training: what samples of dev problems say of whether it can learn anything, and on which levels."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from data.records import Problem
from pipeline.progress import bar
from pipeline.recipe import RlSettings
from pipeline.reward import correctness
from pipeline.sampler import LEARNABLE
from pipeline.samples import Task, asked, completions, sample, teaches

FEW_MIXED = 0.1  # the share of mixed groups below which most of the samples are wasted


def preflight(
    model, tokenizer, dev: Mapping[str, Sequence[Problem]], task: Task, settings: RlSettings, seed: int
) -> dict[str, Any]:
    """What ``probe`` samples of each dev problem say of what there is to learn: pass@1, pass@k for these k, the share
    of groups whose samples do not all earn the same, the share of cut samples, (right, samples) by level, the levels
    worth training on, and whether training can help."""
    level_of = {p.id: level for level, problems in dev.items() for p in problems}
    each = [p for problems in dev.values() for p in problems for _ in range(settings.probe)]
    with bar("probing dev problems", len(each)) as advance:
        samples = sample(model, tokenizer, [asked(tokenizer, p) for p in each], task, settings, seed, advance)
    texts = completions(model, tokenizer, each, samples)
    earned = [task.reward(p, c) for p, c in zip(each, texts, strict=True)]
    right = [correctness(p, c) for p, c in zip(each, texts, strict=True)]
    groups = [range(i, i + settings.probe) for i in range(0, len(each), settings.probe)]
    rates = {level: (0.0, 0.0) for level in dev}
    for problem, hit in zip(each, right, strict=True):
        hits, tried = rates[level_of[problem.id]]
        rates[level_of[problem.id]] = (hits + hit, tried + 1)
    low, high = LEARNABLE
    found = {
        "problems": len(groups),
        "k": settings.probe,
        "pass_at_1": fmean(right),
        "pass_at_k": fmean(any(right[i] for i in group) for group in groups),
        "mixed": fmean(teaches([earned[i] for i in group], [right[i] for i in group], settings) for group in groups),
        "cut": fmean(s.finish == "length" for s in samples),
        "rates": rates,
        "levels": [level for level, (hits, tried) in rates.items() if tried and low <= hits / tried <= high],
    }
    return found | {"verdict": verdict(found)}


def verdict(found: Mapping[str, Any]) -> str:
    """What a pre-flight says of a training to come: that it can learn, can hardly learn or cannot learn, and why."""
    if found["mixed"] >= FEW_MIXED:
        levels = f", most on {', '.join(found['levels'])}" if found["levels"] else ""
        return f"can learn: {found['mixed']:.0%} of the groups are mixed{levels}"
    if found["cut"] > 0.5:
        why = "most samples are cut by the token limit; raise max_tokens or train sft on shorter traces"
    elif found["pass_at_k"] < 0.1:
        why = "nearly none is ever solved, so there is nothing to reinforce; train sft longer or take easier levels"
    elif found["pass_at_1"] > 0.9:
        why = "nearly all are solved already; take harder levels"
    else:
        why = "the samples of each problem are alike; raise the temperature"
    if found["mixed"]:
        return f"can hardly learn: only {found['mixed']:.0%} of the groups are mixed: {why}"
    return f"cannot learn: no group is mixed: {why}"
