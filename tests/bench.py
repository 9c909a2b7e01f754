"""``make bench``: how fast this is, as ratios against the same libraries used plainly.

    python -m tests.bench [--base BASE]

Both sides run in turn, in one process, on the same tokens; a start is measured in processes of its own. A ratio above 1
is in our favour.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import ContinuousBatchingConfig, GenerationConfig, PrinterCallback, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from data.datasets import load
from data.problem import Completion, Problem
from eval.grade import grade
from pipeline.config import default_profile, load_recipe
from pipeline.generate import find_stop_ids, generate
from pipeline.models.load import load_model, resolve
from pipeline.prompts import build_messages, encode_prompt
from pipeline.settings import Recipe
from pipeline.stages import get_stage
from pipeline.stages.grpo import GrpoTraining
from pipeline.stages.sft import build_training_rows
from pipeline.stages.stage import TrainingContext
from pipeline.training import train_sft

ROOT = Path(__file__).resolve().parent.parent

# The shape of a rollout.
PROMPTS = 8
SAMPLES = 8
TOKENS = 64

# So many times as many samples where slots are compared with the loop.
MANY = 16

EVALUATED_PROBLEMS = 200
EVALUATED_TOKENS = 160
SFT_BATCHES = 8

# The first step warms up, the last is timed.
GRPO_STEPS = 2

# Rows at a time where one decodes with the libraries alone.
PLAIN_BATCH = {"cpu": 16, "cuda": 64}

SAMPLING = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": TOKENS}
GREEDY = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None, "max_new_tokens": EVALUATED_TOKENS}


@dataclass(frozen=True)
class Bench:
    """What is measured on: a base, its recipe, and an adapter whose training has not begun."""

    folder: Path
    recipe: Recipe
    adapter: Path

    def load(self, adapter: Path | None = None, trainable: bool = False) -> tuple[Any, Any]:
        """Return (model, tokenizer)."""
        return load_model(self.folder, adapter, trainable, self.recipe.base.load)


def time_call(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return (seconds, result) of one call, to the end of what it asked a GPU to do."""
    wait_for_gpu()
    start = time.perf_counter()
    result = call()
    wait_for_gpu()
    return time.perf_counter() - start, result


def wait_for_gpu() -> None:
    """Wait until a GPU, where there is one, has nothing left to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_rate(count_tokens: Callable[[], int]) -> float:
    """Return tokens a second of the second of two calls; the first warms up."""
    count_tokens()
    seconds, tokens = time_call(count_tokens)
    return tokens / seconds


def print_row(work: str, ours: float, theirs: float, unit: str, against: str) -> None:
    """Print a row of the table as soon as it is known; a bench takes minutes."""
    is_time = unit == "s"
    ratio = theirs / ours if is_time else ours / theirs
    digits = 2 if is_time else 1
    print(f"| {work} | {ours:.{digits}f} {unit} | {theirs:.{digits}f} {unit} | {ratio:.2f} | {against} |", flush=True)


def count_ours(
    model, tokenizer, prompts: list[list[int]], max_new_tokens: int, temperature: float, **options: Any
) -> int:
    """Decode with ours; returns how many tokens it gave."""
    sequences = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, temperature=temperature, **options)
    return sum(len(sequence.ids) for sequence in sequences)


@torch.no_grad()
def count_plain(model, tokenizer, prompts: list[list[int]], settings: dict[str, Any]) -> int:
    """Decode left-padded prompts with ``model.generate``; returns how many tokens stand before each row's end."""
    width = max(len(prompt) for prompt in prompts)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)

    whole = model.generate(input_ids=ids, attention_mask=mask, pad_token_id=pad, **settings)
    stops = find_stop_ids(model, tokenizer)
    return sum(count_to_end(row, stops) for row in whole[:, width:].tolist())


def count_to_end(row: list[int], stops: set[int]) -> int:
    """Return how many tokens a row has up to its end of turn."""
    for place, token in enumerate(row):
        if token in stops:
            return place + 1
    return len(row)


def count_plain_in_batches(model, tokenizer, prompts: list[list[int]]) -> int:
    """Decode greedily with ``model.generate``, batch after batch in the order of the file."""
    size = PLAIN_BATCH[model.device.type]
    batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    return sum(count_plain(model, tokenizer, batch, GREEDY) for batch in batches)


def count_continuous_batching(model, tokenizer, prompts: list[list[int]]) -> int:
    """Sample with transformers' continuous batching, its cache bounded to what the prompts need."""
    stops = sorted(find_stop_ids(model, tokenizer))
    settings = GenerationConfig(**SAMPLING, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id)
    longest = max(len(prompt) for prompt in prompts) + TOKENS
    pages = -(-longest // 32) + 1
    cache = ContinuousBatchingConfig(page_size=32, num_blocks=len(prompts) * pages, max_batch_tokens=1024)

    outputs = model.generate_batch(prompts, generation_config=settings, continuous_batching_config=cache)
    return sum(len(output.generated_tokens) for output in outputs.values())


def bench_decoding(bench: Bench) -> None:
    """Rollouts and an evaluation, against what one would write with transformers."""
    model, tokenizer = bench.load()
    problems = load_problems("dev", EVALUATED_PROBLEMS)
    prompts = [encode_prompt(tokenizer, problem, "think") for problem in problems]
    rollouts = [prompt for prompt in prompts[:PROMPTS] for _ in range(SAMPLES)]

    ours = measure_rate(lambda: count_ours(model, tokenizer, rollouts, TOKENS, 1.0))
    plain = measure_rate(lambda: count_plain(model, tokenizer, rollouts, SAMPLING))
    print_row(f"rollouts, {PROMPTS} x {SAMPLES}", ours, plain, "tokens/s", "`model.generate`, as TRL calls it")

    continuous = measure_rate(lambda: count_continuous_batching(model, tokenizer, rollouts))
    print_row("the same", ours, continuous, "tokens/s", "transformers' continuous batching")

    if model.device.type == "cuda":
        many = rollouts * MANY
        ours = measure_rate(lambda: count_ours(model, tokenizer, many, TOKENS, 1.0))
        loop = measure_rate(lambda: count_ours(model, tokenizer, many, TOKENS, 1.0, slots=False))
        print_row(f"rollouts, {len(many)} samples, in slots", ours, loop, "tokens/s", "our loop, 512 rows at a time")

    seconds, tokens = time_call(lambda: count_ours(model, tokenizer, prompts, EVALUATED_TOKENS, 0.0))
    plain_seconds, plain_tokens = time_call(lambda: count_plain_in_batches(model, tokenizer, prompts))
    against = "`model.generate`, batches in the order of the file"
    print_row(
        f"evaluation of {len(prompts)} problems", tokens / seconds, plain_tokens / plain_seconds, "tokens/s", against
    )


def load_problems(split: str, count: int) -> list[Problem]:
    """Return problems of both our sets."""
    problems = []
    for name in ("arithmetic_v1", "logic_v1"):
        problems += load(name, split).problems[: count // 2]
    return problems


def bench_sft(bench: Bench) -> None:
    """One pass over the same solutions: our training, and TRL's trainer as it comes."""
    ours = measure_sft(bench, train_with_ours)
    theirs = measure_sft(bench, train_with_stock)
    print_row("sft", ours, theirs, "tokens/s", "SFTTrainer's defaults, the same rows")


def measure_sft(bench: Bench, train: Callable) -> float:
    """Return tokens a second of a training."""
    torch.manual_seed(0)
    model, tokenizer = bench.load(trainable=True)
    settings = bench.recipe.stages["sft"]
    batch = settings.trainer["per_device_train_batch_size"]
    rows = build_training_rows(tokenizer, load_problems("train", SFT_BATCHES * batch), settings, 0)

    tokens = sum(len(row["input_ids"]) for row in rows)
    with tempfile.TemporaryDirectory() as work:
        seconds, _ = time_call(lambda: train(model, tokenizer, rows, settings, Path(work)))
    return tokens / seconds


def train_with_ours(model, tokenizer, rows, settings, work: Path) -> None:
    """Train as stage 3 does."""
    trainer = settings.trainer | {"num_train_epochs": 1, "save_strategy": "no"}
    train_sft(model, tokenizer, rows, trainer, work=work, seed=0, label="sft", lora=settings.lora)


def train_with_stock(model, tokenizer, rows, settings, work: Path) -> None:
    """Train with TRL's trainer and its defaults."""
    config = SFTConfig(
        output_dir=str(work),
        per_device_train_batch_size=settings.trainer["per_device_train_batch_size"],
        num_train_epochs=1,
        completion_only_loss=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=model.device.type == "cpu",
    )
    lora = LoraConfig(task_type="CAUSAL_LM", **settings.lora)
    dataset = Dataset.from_list(rows)
    trainer = SFTTrainer(model=model, args=config, train_dataset=dataset, processing_class=tokenizer, peft_config=lora)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


class Clock(TrainerCallback):
    """Measures the tokens a second of each optimizer step."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.rates: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        """Start."""
        wait_for_gpu()
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Stop."""
        wait_for_gpu()
        self.seconds = time.perf_counter() - self.start

    def on_log(self, args, state, control, logs, **kwargs):
        """Take the tokens of the step from the trainer's own log."""
        if "completions/mean_length" in logs:
            self.rates.append(logs["completions/mean_length"] * self.samples / self.seconds)


class TimedGrpoTraining(GrpoTraining):
    """Our GRPO training with a clock."""

    clock: Clock

    def build_trainer(self, config, groups):
        """Return the trainer, timed."""
        trainer = super().build_trainer(config, groups)
        trainer.add_callback(self.clock)
        return trainer


@dataclass(frozen=True)
class GrpoContext(TrainingContext):
    """What a stage's training is given, without a run's earlier stages."""

    adapter: Path = Path()

    @property
    def parent_adapter(self) -> Path:
        """The adapter that the training begins with."""
        return self.adapter

    def train_problems(self) -> list[Problem]:
        """Return problems to sample."""
        return load("arithmetic_v1", "dev").problems[: 2 * PROMPTS]

    def dev_problems(self) -> list[Problem]:
        """Return one problem, since scoring on dev is not what is measured."""
        return self.train_problems()[:1]


def bench_grpo(bench: Bench) -> None:
    """A step on the same batch: our training, and TRL's trainer as it comes."""
    prompts = PROMPTS // 2
    trainer = {
        "max_steps": GRPO_STEPS,
        "num_generations": SAMPLES,
        "per_device_train_batch_size": SAMPLES,
        "gradient_accumulation_steps": prompts,
        "max_completion_length": TOKENS,
        "temperature": 1.0,
        "logging_steps": 1,
    }
    with tempfile.TemporaryDirectory() as work:
        ours = measure_our_grpo(bench, trainer, Path(work) / "ours", prompts * SAMPLES)
        theirs = measure_stock_grpo(bench, trainer, Path(work) / "theirs", prompts * SAMPLES)

    print_row(
        f"a GRPO step of {prompts} x {SAMPLES}", ours, theirs, "tokens/s", "GRPOTrainer's defaults, the same batch"
    )


def measure_our_grpo(bench: Bench, trainer: dict[str, Any], work: Path, samples: int) -> float:
    """Return completion tokens a second of the last step of stage 4's GRPO."""
    settings = bench.recipe.stages["rl"]
    rare = {"eval_steps": GRPO_STEPS, "save_steps": GRPO_STEPS}
    grpo = settings.grpo.model_copy(
        update={"max_resample": 1, "trainer": settings.grpo.trainer | trainer | rare},
    )
    learnability = settings.learnability.model_copy(update={"samples": 0})
    settings = settings.model_copy(update={"algorithm": "grpo", "grpo": grpo, "learnability": learnability})

    work.mkdir()
    run: Any = argparse.Namespace(recipe=bench.recipe, base="bench", base_folder=bench.folder)
    training = TimedGrpoTraining(GrpoContext(run, get_stage("rl"), settings, 0, work, bench.adapter))
    training.clock = Clock(samples)
    training.run()
    return training.clock.rates[-1]


def measure_stock_grpo(bench: Bench, trainer: dict[str, Any], work: Path, samples: int) -> float:
    """Return completion tokens a second of the last step of TRL's trainer with its defaults."""
    model, tokenizer = bench.load(bench.adapter, trainable=True)
    problems = {problem.id: problem for problem in load("arithmetic_v1", "dev").problems[: 2 * PROMPTS]}

    def reward(prompts, completions, name, **columns) -> list[float | None]:
        rewards: list[float | None] = []
        for problem_id, completion in zip(name, completions, strict=True):
            text = completion[0]["content"]
            rewards.append(float(grade(problems[problem_id], Completion(problem_id, text, 0, 0, 0, "stop")).correct))
        return rewards

    rows = [{"prompt": build_messages(problem, "think"), "name": problem.id} for problem in problems.values()]
    config = GRPOConfig(
        output_dir=str(work),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=model.device.type == "cpu",
        bf16=model.dtype == torch.bfloat16,
        **trainer,
    )
    clock = Clock(samples)
    stock = GRPOTrainer(
        model=model,
        args=config,
        reward_funcs=reward,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    stock.remove_callback(PrinterCallback)
    stock.train()
    return clock.rates[-1]


def bench_starts(base: str) -> None:
    """What a command takes to start and end, against the imports of the libraries alone."""
    imports = time_python("-c", "import transformers, trl")
    help_seconds = time_python("-m", "pipeline", "--help")
    print_row("`--help`", help_seconds, imports, "s", "`import transformers, trl`")

    with tempfile.TemporaryDirectory() as runs:
        status = time_python("-m", "pipeline", "status", "--base", base, "--runs", runs)
    print_row("`status`", status, imports, "s", "the same")


def time_python(*command: str) -> float:
    """Return the seconds that a Python command takes."""

    def run() -> None:
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    return time_call(run)[0]


def make_adapter(folder: Path, recipe: Recipe, target: Path) -> None:
    """Write an adapter whose training has not begun."""
    torch.manual_seed(0)
    model, _ = load_model(folder, load=recipe.base.load)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **recipe.stages["sft"].lora)).save_pretrained(str(target))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Ratios against the same libraries used plainly.")
    parser.add_argument("--base", default="smollm2-135m")
    options = parser.parse_args()

    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    print(f"{options.base}, {device}, {torch.get_num_threads()} threads\n")
    print("| work | ours | theirs | ratio | against |\n|---|--:|--:|--:|---|")

    folder = resolve(options.base)
    recipe = load_recipe(default_profile(), base=options.base)
    with tempfile.TemporaryDirectory() as adapter:
        make_adapter(folder, recipe, Path(adapter))
        bench = Bench(folder, recipe, Path(adapter))
        bench_decoding(bench)
        bench_sft(bench)
        bench_grpo(bench)
    bench_starts(options.base)


if __name__ == "__main__":
    main()
