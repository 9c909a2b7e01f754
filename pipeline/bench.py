"""``make bench``: how fast this is, as ratios against what one would write with the same libraries.

Both sides run in this one process, on the same tokens, in turn; the unit is given, and what the machine can do at most
(a matrix product of the model's own shape). A ratio above 1 is in our favour.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from pipeline import base, generate, sft, stages
from pipeline.prompts import prompt_ids
from pipeline.runs import Run, processor

PROMPTS, SAMPLES, TOKENS = 8, 8, 64  # the shape of a rollout
EVALUATED = 64  # problems of mixed length
TRACES = 64


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result) of one call."""
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result


def turns(ours: Callable[[], int], theirs: Callable[[], int], repeats: int = 2) -> tuple[float, float]:
    """Useful tokens a second of both, in turn, the median of ``repeats``; each returns how many tokens it made."""
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, found in zip((ours, theirs), rates, strict=True):
            seconds, tokens = timed(call)
            found.append(tokens / seconds)
    return median(rates[0]), median(rates[1])


def bench(run: Run) -> str:
    """The table, in Markdown, for the base of a run and its sft adapter where there is one."""
    adapter = stages.adapter_of(run, "sft")
    model, tokenizer = run.load(adapter if adapter and adapter.is_dir() else None)
    lines = [
        f"{run.base}, {base.held_as(run.recipe.base.load)}, {processor()}, {torch.get_num_threads()} threads; matrix "
        f"products of 128 x {model.config.hidden_size} x {model.config.vocab_size}: {gemm(model):.0f} GFLOP/s",
        "",
        "| work | ours | theirs | ratio | against |",
        "|---|--:|--:|--:|---|",
    ]

    def row(work: str, found: tuple[float, float], unit: str, against: str) -> None:
        lines.append(f"| {work} | {found[0]:.1f} {unit} | {found[1]:.1f} | {found[0] / found[1]:.2f} | {against} |")

    problems = [p for of_it in stages.dev_problems(EVALUATED // 2).values() for p in of_it]
    asked = [prompt_ids(tokenizer, p, "think") for p in problems]
    shared = [prompt for prompt in asked[:PROMPTS] for _ in range(SAMPLES)]
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": TOKENS}
    row(
        "rollouts, 8 prompts x 8 samples",
        turns(
            lambda: made(generate.generate(model, tokenizer, shared, max_tokens=TOKENS, temperature=1.0)),
            lambda: with_generate(model, tokenizer, shared, **sampling),
        ),
        "tokens/s",
        "`model.generate`, as TRL calls it",
    )
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "max_new_tokens": 160}
    row(
        f"evaluation of {len(asked)} problems, greedy",
        turns(
            lambda: made(generate.generate(model, tokenizer, asked, max_tokens=160)),
            lambda: sum(with_generate(model, tokenizer, asked[i : i + 16], **greedy) for i in range(0, len(asked), 16)),
            1,
        ),
        "tokens/s",
        "`model.generate`, batches of 16 in the order of the file",
    )
    row(
        "sft", (sft_rate(run, ours=True), sft_rate(run, ours=False)), "tokens/s", "SFTTrainer's defaults, the same rows"
    )
    worst = differences(model, tokenizer)
    lines.append(
        f"| a rollout's log-probabilities | {worst:.1e} nats | | | the largest difference from one whole pass |"
    )
    help_seconds = started("pipeline", "--help")
    imports = timed(lambda: subprocess.run([sys.executable, "-c", "import transformers, trl"], check=True))[0]
    lines.append(f"| `--help` | {help_seconds:.2f} s | {imports:.2f} s | | `import transformers, trl` |")
    return "\n".join(lines) + "\n"


def gemm(model) -> float:
    """GFLOP/s of the product that a decode step of 128 rows ends with."""
    weight = model.get_output_embeddings().weight
    rows = torch.randn(128, weight.shape[1]).to(weight)
    seconds = min(timed(lambda: rows @ weight.T)[0] for _ in range(5))
    return 2 * rows.shape[0] * weight.numel() / seconds / 1e9


def made(samples: list[generate.Sample]) -> int:
    """How many tokens some samples are."""
    return sum(len(sample.ids) for sample in samples)


@torch.no_grad()
def with_generate(model, tokenizer, prompts: list[list[int]], **settings) -> int:
    """Tokens up to each row's end that ``model.generate`` makes of left-padded prompts."""
    width = max(map(len, prompts))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    out = model.generate(input_ids=ids, attention_mask=mask, pad_token_id=tokenizer.pad_token_id, **settings)
    stops = generate.stop_ids(model, tokenizer)
    return sum(
        next((i + 1 for i, token in enumerate(row) if token in stops), len(row)) for row in out[:, width:].tolist()
    )


def sft_rate(run: Run, ours: bool) -> float:
    """Tokens a second of one pass over the same traces: our batches and head, or TRL's trainer as it comes."""
    torch.manual_seed(0)
    model, tokenizer = run.load(trainable=True)
    settings = run.recipe.sft
    rows = sft.tokenized(tokenizer, sft.traces(stages.sft_problems(settings)[:TRACES], settings, 0))
    tokens = sum(len(row["input_ids"]) for row in rows)
    with tempfile.TemporaryDirectory() as work:
        if ours:
            return (
                tokens
                / timed(lambda: sft.train(model, tokenizer, rows, settings, 0, Path(work), sft.lora(settings)))[0]
            )
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        config = SFTConfig(
            output_dir=work,
            per_device_train_batch_size=settings.batch_size,
            num_train_epochs=settings.epochs,
            completion_only_loss=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            use_cpu=model.device.type == "cpu",
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=sft.lora(settings),
        )
        return tokens / timed(trainer.train)[0]


def started(*command: str) -> float:
    """Seconds that a command of ours takes to start and end."""
    return timed(lambda: subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL))[0]


def differences(model, tokenizer) -> float:
    """The largest difference (nats) of a rollout's log-probabilities from the model's own, in one pass over it."""
    problems = stages.dev_problems(4)["arithmetic_v1"]
    prompts = [prompt_ids(tokenizer, p, "think") for p in problems for _ in range(4)]
    samples = generate.generate(model, tokenizer, prompts, max_tokens=TOKENS, temperature=1.0)
    with generate.merged(model):
        return max(
            float((generate.given(model, prompt, sample.ids) - torch.tensor(sample.logprobs)).abs().max())
            for prompt, sample in zip(prompts, samples, strict=True)
        )
