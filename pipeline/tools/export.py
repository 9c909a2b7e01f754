"""``make export``: a stage as one model that transformers, vLLM and llama.cpp's converter can load.

The adapter is added to the weights as in scoring, in the precision of the scoring, so the exported model gives the same
answers. With a quantized base it is added to what the quantized weights stand for, in bf16. How far the exported
model's log-probabilities are from the scored one's is measured, and stands in the model card.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig

from data.files import UserError, make_folder, write_text
from data.problem import Problem
from eval.table import HEADINGS, format_markdown, format_row, make_rows
from pipeline.forward import merge_adapter, token_logprobs
from pipeline.generate import find_stop_ids
from pipeline.models.download import KNOWN_BASES
from pipeline.models.load import load_model, resolve_precision
from pipeline.prompts import INSTRUCTIONS, encode_prompt, encode_text, format_thinking_answer
from pipeline.run import Run
from pipeline.stage_dir import StageDir
from pipeline.stages import STAGES, get_stage
from pipeline.stages.problems import select_dev_problems
from pipeline.stages.run import training_inputs

UNQUANTIZED = ("fp32", "bf16")

# Dev problems of each data set whose solutions both models are compared on.
COMPARED = 8

CARD = """\
---
license: {licence}
pipeline_tag: text-generation
library_name: transformers
---
# {name}

The `{stage}` stage of Ladder (commit {commit}) on `{base}` ({source}), its adapter merged. It answers short questions,
thinking between `<think>` tags, and ends with `\\boxed{{answer}}`. It was trained with this system message, and must
be given it, as below: `{instruction}`

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")
chat = [{{"role": "system", "content": "{instruction}"}}, {{"role": "user", "content": "What is 25 * 4 + 8?"}}]
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids)[0, ids["input_ids"].shape[1]:]))
```

## Scores

{scores}
## Training

Recipe and seed:

```yaml
{recipe}```

Log-probabilities of {compared} solutions of dev problems, against the stage as it was scored: they differ by {mean:.1e}
nats a token in the mean, by {largest:.1e} at most.

## Limits

The scores are on the benchmarks above; nothing else was measured. It answers every question in this form, also those
that it cannot answer.
"""


def export(run: Run, name: str, folder: Path) -> str:
    """Write a stage's model to a folder, whole or not at all; return a line on it.

    Raises:
        UserError: where the stage has no adapter or is not up to date, or the folder is not empty.
    """
    stage_dir = check_stage(run, name)
    is_link_or_file = folder.is_symlink() or (folder.exists() and not folder.is_dir())
    if is_link_or_file or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"--to {folder}: it exists and is no empty folder; name another or remove it")
    make_folder(folder.parent)

    scored, tokenizer = load_model(run.base_folder, stage_dir.adapter, load=run.recipe.base.load)
    exported = merge_into_base(run, stage_dir.adapter)
    max_new_tokens = stage_dir.read_part("scoring")["inputs"]["generation"]["max_new_tokens"]
    set_greedy(exported, tokenizer, sorted(find_stop_ids(scored, tokenizer)), max_new_tokens)

    problems = select_dev_problems(run.recipe.stages["sft"].problems, COMPARED)
    differences = torch.cat([compare_logprobs(scored, exported, tokenizer, problem) for problem in problems])
    mean, largest = differences.mean().item(), differences.max().item()

    # A kill may have left it.
    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    exported.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    card = format_card(
        run,
        stage_dir,
        name=folder.name,
        compared=len(problems),
        mean=mean,
        largest=largest,
    )
    write_text(aside / "README.md", card)
    # A folder is replaced where it is empty.
    aside.rename(folder)
    return (
        f"{folder}: {name} of {run.base} in {str(exported.dtype).removeprefix('torch.')}; log-probabilities differ "
        f"from the scored stage's by {mean:.1e} nats a token, at most {largest:.1e}"
    )


def check_stage(run: Run, name: str) -> StageDir:
    """Return the folder of a stage whose adapter is up to date and scored."""
    stage = get_stage(name)
    if stage.train is None:
        trained = ", ".join(stage.name for stage in STAGES if stage.train)
        raise UserError(f"--stage {name}: it has no weights of its own; choose one of {trained}")

    stage_dir = run.dir.stage(name)
    if not stage_dir.read_part("scoring"):
        raise UserError(f"{stage_dir.folder}: not run yet; run `make {name}` first")

    for change in stage_dir.find_changes("training", training_inputs(run, stage)):
        raise UserError(f"{stage_dir.folder}: {change}; give the SET= that it was trained with, or run `make {name}`")
    stage_dir.check_adapter(run.fingerprint)
    return stage_dir


def merge_into_base(run: Run, adapter: Path) -> Any:
    """Return the base with an adapter added to its weights; quantized ones are taken for what they stand for."""
    precision = resolve_precision(run.recipe.base.load)
    model, _ = load_model(run.base_folder, load=precision)
    if precision not in UNQUANTIZED:
        model = model.dequantize().to(torch.bfloat16)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def set_greedy(model: Any, tokenizer: Any, stops: list[int], max_new_tokens: int) -> None:
    """Make a model decode as it was scored, wherever it is loaded."""
    # Nothing of the base's own: a penalty on repeated tokens, such as Qwen2.5 has, would change greedy answers, too.
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        bos_token_id=model.generation_config.bos_token_id,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
    )


def compare_logprobs(scored: Any, exported: Any, tokenizer: Any, problem: Problem) -> torch.Tensor:
    """Return how far apart both models' log-probabilities of a solution are, a token (nats)."""
    prompt = encode_prompt(tokenizer, problem, "think")
    answer = encode_text(tokenizer, format_thinking_answer(problem.rationale or "", problem.answer))

    with merge_adapter(scored):
        expected = token_logprobs(scored, prompt, answer)
    return (expected - token_logprobs(exported, prompt, answer)).abs()


def format_card(run: Run, stage_dir: StageDir, **measured: Any) -> str:
    """Return the model card; ``measured`` are name, compared, mean and largest of the template."""
    # As the run's own table shows them.
    rows = [row for row in make_rows(run.dir.read_stage_scores()) if row["stage"] == stage_dir.name]
    scores = format_markdown(HEADINGS, map(format_row, rows))

    known = KNOWN_BASES.get(run.base)
    source = run.base_folder / "source.txt"
    return CARD.format(
        stage=stage_dir.name,
        base=run.base,
        source=source.read_text().strip() if source.is_file() else run.base_folder.name,
        licence=known.licence.lower() if known else "other",
        commit=stage_dir.read_part("training")["commit"],
        instruction=INSTRUCTIONS["think"],
        scores=scores,
        recipe=(stage_dir.folder / "recipe.yaml").read_text(encoding="utf-8"),
        **measured,
    )
