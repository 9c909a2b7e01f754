"""``python -m pipeline export``: a stage as one model that transformers, vLLM and llama.cpp's converter can load.

The adapter is added to the weights as scoring adds it, in the precision in which the stage was scored, so that the
exported model gives the same answers. Over a quantized base it is added to what the quantized weights stand for, in
bf16. How far the exported model's log-probabilities are from the scored one's is measured and told.
"""

import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from peft import PeftModel

from data.records import BadInput, Problem, write_text
from eval import table
from pipeline import base, runs, stages
from pipeline.generate import given, merged, stop_ids
from pipeline.problems import dev_problems
from pipeline.prompts import INSTRUCTIONS, encode, prompt_ids, thinking_answer
from pipeline.runs import Run

WHOLE = ("fp32", "bf16")  # how weights are held that are not quantized
COMPARED = 16  # dev problems whose worked answers the two are compared on

CARD = """\
---
license: {licence}
pipeline_tag: text-generation
library_name: transformers
---
# {name}

The `{stage}` stage of Ladder ({commit}) on `{base}` ({source}), its adapter merged. It answers short questions of
arithmetic and logic, {manner}, and ends with `\\boxed{{answer}}`. The system prompt is part of the
model: `{instruction}`

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")
chat = [{{"role": "system", "content": "{instruction}"}}, {{"role": "user", "content": "What is 25 * 4 + 8?"}}]
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids)[0, ids["input_ids"].shape[1]:]))
```

## What it scored

{rows}
## What it was made from

Trained on generated problems whose worked answers the grader checked; recipe, seed {seed}:

```yaml
{recipe}```

Log-probabilities of {compared} worked dev answers, against the stage as it was scored: they differ by {difference:.1e}
nats a token in the mean, by {largest:.1e} at most.

## Limits

Scores are on generated problems of two kinds, with their intervals above; nothing else was measured. It answers every
question in this form, also those it cannot answer.
"""


def export(opened: Run, stage: str, folder: Path) -> str:
    """Write the stage's model to ``folder``, whole or not at all; returns a line on what was done. Raises BadInput
    where the stage was not run, has no adapter, or the folder is taken."""
    adapter = stages.adapter_of(opened, stage)
    scores = opened.stage(stage) / "scores.json"
    if adapter is None:
        raise BadInput(f"--stage {stage}: it has no weights of its own; choose one of {', '.join(stages.TRAINED[:3])}")
    if not adapter.is_dir() or not scores.is_file():
        raise BadInput(f"{opened.stage(stage)}: not run yet; run `make {stage}` first")
    made = runs.manifest(opened.stage(stage))["training"]
    if changed := runs.differences(made["inputs"], json.loads(json.dumps(stages.training_inputs(opened, stage)))):
        raise BadInput(f"{opened.stage(stage)}: {changed[0]}; give the SET= it was made with, or run `make {stage}`")
    if folder.is_file() or folder.exists() and any(folder.iterdir()):
        raise BadInput(f"--to {folder}: it is there, and no empty folder; name another or remove it")
    base.check_space(folder.parent, 2.0, "name another folder")
    scored, tokenizer = opened.load(adapter)
    held = base.held_as(opened.recipe.base.load)
    setting = held if held in WHOLE else "bf16"
    exported = whole(opened.folder, adapter, held)
    problems = [p for of_it in dev_problems(COMPARED // 2).values() for p in of_it]
    differences = [difference(scored, exported, tokenizer, problem) for problem in problems]
    exported.generation_config.update(
        do_sample=False,
        max_new_tokens=runs.manifest(opened.stage(stage))["scoring"]["inputs"]["settings"]["max_tokens"],
        eos_token_id=sorted(stop_ids(scored, tokenizer)),
        pad_token_id=tokenizer.pad_token_id,
    )
    for name in ("temperature", "top_p", "top_k"):  # a base's own, which greedy decoding would warn of
        setattr(exported.generation_config, name, None)
    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    flat = [value for each in differences for value in each]
    told = card(opened, stage, folder.name, fmean(flat), max(flat))
    try:
        exported.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        write_text(aside / "README.md", told)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if folder.exists():
        folder.rmdir()
    aside.rename(folder)
    return (
        f"{folder}: {stage} of {opened.base} in {setting}; log-probabilities differ from the scored stage's by "
        f"{fmean(flat):.1e} nats a token, at most {max(flat):.1e}"
    )


def whole(folder: Path, adapter: Path, held: str) -> Any:
    """A base with an adapter merged into its weights, as they are held; into what quantized ones stand for, in bf16."""
    model = base.load(folder, setting=held)[0]
    if held not in WHOLE:
        model = model.dequantize().to(torch.bfloat16)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def difference(scored: Any, exported: Any, tokenizer, problem: Problem) -> list[float]:
    """How far the log-probabilities of a problem's worked answer are apart, a token (nats), the one model as it is
    scored, the other as it is."""
    before = prompt_ids(tokenizer, problem, "think")
    answer = encode(tokenizer, thinking_answer(problem.rationale or "", problem.answer))
    with merged(scored):
        return (given(scored, before, answer) - given(exported, before, answer)).abs().tolist()


def card(opened: Run, stage: str, name: str, mean: float, largest: float) -> str:
    """The model card: what it is, scored and made from."""
    kept = [row for row in table.rows(opened.root) if row["stage"] == stage]
    lines = ["| benchmark | n | accuracy, 95 % | tokens |", "|---|--:|--:|--:|"]
    for row in kept:
        span = f"{100 * row['accuracy']:.1f} [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]"
        lines.append(f"| {row['benchmark']} | {row['n']} | {span} | {row['tokens_mean']:.1f} |")
    known = base.BASES.get(opened.base)
    return CARD.format(
        name=name,
        stage=stage,
        base=opened.base,
        source=base.source(opened.folder),
        licence=known.licence.lower() if known else "other",
        commit=f"commit {runs.manifest(opened.stage(stage))['training']['commit']}",
        instruction=INSTRUCTIONS["think"],
        manner="thinking between `<think>` tags where it chooses to" if stage == "adaptive" else "thinking first",
        rows="\n".join(lines) + "\n",
        seed=opened.recipe.seed,
        recipe=(opened.stage(stage) / "recipe.yaml").read_text(),
        compared=COMPARED,
        difference=mean,
        largest=largest,
    )
