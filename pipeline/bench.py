"""``make bench``: how fast this is, as ratios against what one would write with the same libraries.

Both sides run in turn in one run, on the same tokens: in this process, or where memory or a start is measured in one of
their own; on a card both without cuDNN's attention, which base.load switches off. The unit is given, and what the
machine can do at most (a matrix product of the model's own shape). A ratio above 1 is in our favour.
"""

import dataclasses
import importlib.util
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch

from data.records import Completion, Problem
from pipeline import base, generate, sft, stages
from pipeline.problems import dev_problems, sft_problems
from pipeline.progress import say
from pipeline.prompts import messages, prompt_ids
from pipeline.recipe import RlSettings
from pipeline.runs import Run, processor

PROMPTS, SAMPLES, TOKENS = 8, 8, 64  # the shape of a rollout
EVALUATED = 200  # problems of mixed length
TRACES = 8  # batches of them
PLAIN = {"cpu": 16, "cuda": 64}  # rows at once where one decodes with the libraries alone
TRAINERS = "import transformers, trl; trl.SFTTrainer; trl.GRPOTrainer"  # the bare import loads next to nothing
READY = "import pipeline.stages, pipeline.rl, pipeline.sft, pipeline.generate, trl; trl.SFTTrainer"
STEPS = 2  # of GRPO, on PROMPTS / 2 x SAMPLES completions each, the first of which warms up


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result) of one call, to the end of what it asked a card to do."""
    settled()
    begin = time.perf_counter()
    result = call()
    settled()
    return time.perf_counter() - begin, result


def settled() -> None:
    """Wait until a card, where there is one, has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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
    config, place = model.config, f"{processor()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        moved = copied()
        place = f"{torch.cuda.get_device_name()} (copies move {moved:.0f} GB/s); {place}"
    head = [
        f"{run.base}, {base.held_as(run.recipe.base.load)}, {place}; matrix products of {rows_of_a_product()} x "
        f"{config.hidden_size} x {config.vocab_size}: {gemm(model):.0f} GFLOP/s",
        "",
        "| work | ours | theirs | ratio | against |",
        "|---|--:|--:|--:|---|",
    ]
    lines: list[str] = []

    def line(text: str) -> None:
        say(text)  # as it comes, for a bench takes minutes
        lines.append(text)

    def row(work: str, found: tuple[float, float], unit: str, against: str) -> None:
        line(f"| {work} | {found[0]:.1f} {unit} | {found[1]:.1f} | {found[0] / found[1]:.2f} | {against} |")

    say(head[0])
    few = PLAIN[model.device.type]
    problems = [p for of_it in dev_problems(EVALUATED // 2).values() for p in of_it]
    asked = [prompt_ids(tokenizer, p, "think") for p in problems]
    shared = [prompt for prompt in asked[:PROMPTS] for _ in range(SAMPLES)]
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": TOKENS}
    if torch.cuda.is_available():  # a card loads its kernels when they are first asked for
        generate.generate(model, tokenizer, shared, max_tokens=TOKENS, temperature=1.0)
        with_generate(model, tokenizer, shared, **sampling)
        with_continuous_batching(model, tokenizer, shared)
    row(
        "rollouts, 8 prompts x 8 samples",
        turns(
            lambda: made(generate.generate(model, tokenizer, shared, max_tokens=TOKENS, temperature=1.0)),
            lambda: with_generate(model, tokenizer, shared, **sampling),
        ),
        "tokens/s",
        "`model.generate`, as TRL calls it",
    )
    row(
        "the same",
        turns(
            lambda: made(generate.generate(model, tokenizer, shared, max_tokens=TOKENS, temperature=1.0)),
            lambda: with_continuous_batching(model, tokenizer, shared),
            1,
        ),
        "tokens/s",
        "transformers' continuous batching",
    )
    if torch.cuda.is_available():
        seconds, samples = timed(
            lambda: generate.generate(model, tokenizer, shared, max_tokens=TOKENS, temperature=1.0)
        )
        steps = max(len(sample.ids) for sample in samples)
        weights = sum(p.nbytes for p in model.parameters())
        ours, least = seconds / steps, weights / moved / 1e9
        line(
            f"| a step of our rollouts | {ours * 1e3:.1f} ms | {least * 1e3:.2f} | {least / ours:.3f} | reading the "
            "weights as fast as the card copies; 1 is all of it |"
        )
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "max_new_tokens": 160}
    row(
        f"evaluation of {len(asked)} problems, greedy",
        turns(
            lambda: made(generate.generate(model, tokenizer, asked, max_tokens=160)),
            lambda: sum(
                with_generate(model, tokenizer, asked[i : i + few], **greedy) for i in range(0, len(asked), few)
            ),
            1,
        ),
        "tokens/s",
        f"`model.generate`, batches of {few} in the order of the file",
    )
    if importlib.util.find_spec("lm_eval"):
        row(
            "the same",
            with_harness(model, tokenizer, asked, few),
            "tokens/s",
            f"lm-evaluation-harness, HF backend, batches of {few}",
        )
    else:
        line("| the same | | | | lm-evaluation-harness: not installed (`pip install lm-eval`) |")
    if torch.cuda.is_available():
        sft_rate(run, ours=True)
        sft_rate(run, ours=False)
    row(
        "sft", (sft_rate(run, ours=True), sft_rate(run, ours=False)), "tokens/s", "SFTTrainer's defaults, the same rows"
    )
    started_from = adapter if adapter and adapter.is_dir() else None
    (ours, our_peak), (theirs, their_peak) = (apart(grpo, run, started_from, mine) for mine in (True, False))
    row(
        f"a GRPO step of {PROMPTS // 2} x {SAMPLES}",
        (ours, theirs),
        "tokens/s",
        "GRPOTrainer's defaults, the same batch",
    )
    row("peak memory of it", (our_peak, their_peak), "GiB", "the same; below 1 is in our favour")
    worst = differences(model, tokenizer)
    line(f"| a rollout's log-probabilities | {worst:.1e} nats | | | the largest difference from one whole pass |")
    told = profile(run)
    help_seconds = started("-m", "pipeline", "--help")
    bare, torch_alone, trainers, ready = (
        started("-c", code) for code in ("import transformers, trl", "import torch", TRAINERS, READY)
    )
    status = started("-m", "pipeline", "status", "--base", run.base, "--runs", str(run.root.parent))
    for what, seconds, theirs, against in (
        ("`--help`", help_seconds, bare, "`import transformers, trl`"),
        ("`status`, to its end", status, bare, "the same"),
        ("`import torch`, for comparison", torch_alone, bare, "the same"),
        ("all that training imports", ready, trainers, "`trl.SFTTrainer`, `trl.GRPOTrainer` imported"),
    ):
        ratio = f"{seconds / theirs:.2f} | {against}; below 1 is in our favour |"
        line(f"| {what} | {seconds:.2f} s | {theirs:.2f} | {ratio}")
    return "\n".join([*head, *lines, "", *told]) + "\n"


def profile(run: Run) -> list[str]:
    """Where the time of an sft goes, as lines of Markdown: what it multiplies a second against the largest product's
    rate, and the operations that take most, on the card where there is one (there its start is counted, too)."""
    from torch.profiler import ProfilerActivity, profile

    model, tokenizer = run.load(trainable=True)
    settings = dataclasses.replace(run.recipe.sft, warmup_steps=0, epochs=1)
    rows = sft.tokenized(tokenizer, sft.traces(sft_problems(settings)[: settings.batch_size * 2], settings, 0))
    on_card = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with tempfile.TemporaryDirectory() as work, profile(activities=activities, with_flops=True) as found:
        seconds, _ = timed(lambda: sft.train(model, tokenizer, rows, settings, 0, Path(work), sft.lora(settings)))
    took = "self_device_time_total" if on_card else "self_cpu_time_total"
    events = [e for e in found.key_averages() if e.key.startswith("aten::") or not on_card]  # not its kernels, too
    events.sort(key=lambda event: -getattr(event, took))
    busy = sum(getattr(event, took) for event in events)
    whole = seconds * 1e6 if on_card else busy
    flops, products = (
        sum(getattr(event, name) for event in events if event.key in ("aten::mm", "aten::addmm", "aten::bmm"))
        for name in ("flops", took)
    )
    card = f"the card is at work in {busy / whole:.0%} of it, " if on_card else ""
    told = [
        f"sft, {len(rows)} traces: {flops / whole / 1e3:.0f} GFLOP/s over all of its time; {card}its matrix products "
        f"take {products / whole:.0%} of it, at {flops / products / 1e3:.0f} GFLOP/s; the largest alone: "
        f"{gemm(model):.0f}.",
        "",
        "| operation | share | calls |",
        "|---|--:|--:|",
    ]
    return told + [f"| `{e.key}` | {getattr(e, took) / whole:.1%} | {e.count} |" for e in events[:10]]


def rows_of_a_product() -> int:
    """Of the product that ``gemm`` times: what fills the machine."""
    return 16384 if torch.cuda.is_available() else 512


def gemm(model) -> float:
    """GFLOP/s of the largest product: rows on the head."""
    weight = model.get_output_embeddings().weight
    rows = torch.randn(rows_of_a_product(), weight.shape[1]).to(weight)
    seconds = min(timed(lambda: rows @ weight.T)[0] for _ in range(5))
    return 2 * rows.shape[0] * weight.numel() / seconds / 1e9


def copied() -> float:
    """GB/s that a copy on the card moves, what is read and what is written both counted."""
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(timed(lambda: target.copy_(source))[0] for _ in range(5)) / 1e9


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


def with_continuous_batching(model, tokenizer, prompts: list[list[int]]) -> int:
    """Tokens that ``model.generate_batch`` samples, its cache bounded to what the prompts need."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    settings = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=TOKENS,
        eos_token_id=sorted(generate.stop_ids(model, tokenizer)),
        pad_token_id=tokenizer.pad_token_id,
    )
    pages = -(-(max(map(len, prompts)) + TOKENS) // 32) + 1
    cache = ContinuousBatchingConfig(page_size=32, num_blocks=len(prompts) * pages, max_batch_tokens=1024)
    found = model.generate_batch(prompts, generation_config=settings, continuous_batching_config=cache)
    return sum(len(output.generated_tokens) for output in found.values())


def with_harness(model, tokenizer, prompts: list[list[int]], few: int) -> tuple[float, float]:
    """Useful tokens a second that we and lm-evaluation-harness, ``few`` rows at once, make of the same prompts,
    greedily, to the same cap."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    harness = HFLM(pretrained=plain, tokenizer=tokenizer, batch_size=few, add_bos_token=False)
    end = tokenizer.decode(sorted(generate.stop_ids(plain, tokenizer))[:1])
    asked = [
        Instance("generate_until", {}, (tokenizer.decode(prompt), {"until": [end], "max_gen_toks": 160}), i)
        for i, prompt in enumerate(prompts)
    ]
    with generate.merged(model):
        theirs, texts = timed(lambda: harness.generate_until(asked, disable_tqdm=True))
        ours, samples = timed(lambda: generate.generate(plain, tokenizer, prompts, max_tokens=160))
    same = [
        tokenizer.decode(sample.ids, skip_special_tokens=True).strip() == text.strip()
        for sample, text in zip(samples, texts, strict=True)
    ]
    print(f"{sum(same)} of {len(same)} completions are the harness's, character for character", file=sys.stderr)
    return made(samples) / ours, made(samples) / theirs


def apart(call: Callable[..., Any], *arguments) -> Any:
    """What ``call`` gives in a process of its own, for memory is told of a whole process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(call, *arguments).result()


def grpo(run: Run, adapter: Path | None, ours: bool) -> tuple[float, float]:
    """(completion tokens a second of the last of STEPS steps, peak memory in GiB) of GRPO on the same problems: our
    rollout, head and batches, or TRL's trainer as it comes."""
    from pipeline import rl
    from pipeline.reward import correctness
    from pipeline.samples import Task

    model, tokenizer = run.load(adapter, trainable=True)
    if adapter is None:
        from peft import get_peft_model

        model = get_peft_model(model, sft.lora(run.recipe.sft))
    problems = dev_problems(PROMPTS * 2)["arithmetic_v1"]
    settings = dataclasses.replace(
        run.recipe.rl,
        steps=STEPS,
        prompts=PROMPTS // 2,
        samples=SAMPLES,
        max_tokens=TOKENS,
        temperature=1.0,
        probe=0,
        tries=1,
        eval_every=STEPS,
        micro_batch=8,
    )
    with tempfile.TemporaryDirectory() as work:
        if ours:
            pools = {"": problems}
            rl.train(model, tokenizer, pools, {"": problems[:1]}, Task(correctness), settings, 0, Path(work), "rl")
            step = [json.loads(line) for line in (Path(work) / "train.jsonl").read_text().splitlines()][-1]
            tokens, seconds = step["length"] * step["samples"], step["seconds"]
        else:
            tokens, seconds = plain_grpo(model, tokenizer, problems, settings, work)
    return tokens / seconds, peak_memory()


def peak_memory() -> float:
    """The most memory this process has held so far, on the card where there is one, GiB (what getrusage tells after a
    fork is the parent's, too)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def plain_grpo(model, tokenizer, problems: list[Problem], settings: RlSettings, work: str) -> tuple[float, float]:
    """(completion tokens, seconds) of the last step of TRL's GRPOTrainer with its defaults."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from pipeline.reward import correctness

    class Clock(TrainerCallback):
        """Seconds and tokens of each step."""

        steps: list[tuple[float, float]] = []

        def on_step_begin(self, args, state, control, **kwargs):
            self.began = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            self.took = time.perf_counter() - self.began

        def on_log(self, args, state, control, logs, **kwargs):
            if "completions/mean_length" in logs:
                self.steps.append((logs["completions/mean_length"], self.took))

    def reward(prompts, completions, name, **columns) -> list[float | None]:
        texts = [completion[0]["content"] for completion in completions]
        return [correctness(of[n], Completion(n, t, 0, 0, 0, "stop")) for n, t in zip(name, texts, strict=True)]

    of = {problem.id: problem for problem in problems}
    clock = Clock()
    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(
            output_dir=work,
            max_steps=settings.steps,
            per_device_train_batch_size=settings.micro_batch,
            gradient_accumulation_steps=settings.prompts * settings.samples // settings.micro_batch,
            max_completion_length=settings.max_tokens,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=model.device.type == "cpu",
            bf16=model.dtype == torch.bfloat16,
        ),
        reward_funcs=reward,
        train_dataset=Dataset.from_list([{"prompt": messages(p, "think"), "name": p.id} for p in problems]),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.train()
    length, seconds = clock.steps[-1]
    return length * settings.prompts * settings.samples, seconds


def sft_rate(run: Run, ours: bool) -> float:
    """Tokens a second of one pass over the same traces: our batches and head, or TRL's trainer as it comes."""
    torch.manual_seed(0)
    model, tokenizer = run.load(trainable=True)
    settings = dataclasses.replace(run.recipe.sft, epochs=1)
    problems = sft_problems(settings)[: TRACES * settings.batch_size]
    rows = sft.tokenized(tokenizer, sft.traces(problems, settings, 0))
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
    """Seconds that a command of Python takes from its start to its end."""
    return timed(lambda: subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL))[0]


def differences(model, tokenizer) -> float:
    """The largest difference (nats) of a rollout's log-probabilities from the model's own, in one pass over it."""
    problems = dev_problems(4)["arithmetic_v1"]
    prompts = [prompt_ids(tokenizer, p, "think") for p in problems for _ in range(4)]
    samples = generate.generate(model, tokenizer, prompts, max_tokens=TOKENS, temperature=1.0)
    with generate.merged(model):
        return max(
            float((generate.given(model, prompt, sample.ids) - torch.tensor(sample.logprobs)).abs().max())
            for prompt, sample in zip(prompts, samples, strict=True)
        )
