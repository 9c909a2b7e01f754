"""``make plan``: how long each stage will take here, by arithmetic over the recipe and a short measurement.

What takes time is counted in tokens, decoded or trained on. The rates are those of the base itself at the recipe's
batch sizes, measured once for a machine, its libraries, a base and a recipe's batches, and kept in the cache.
"""

import itertools
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from data.dataset_spec import DatasetSpec
from data.datasets import load_train
from data.files import UserError, read_json, sha256_json, write_json
from pipeline import processes
from pipeline.models.download import get_cache_folder
from pipeline.models.load import load_model, load_tokenizer, resolve_precision
from pipeline.progress import format_duration
from pipeline.run import Run
from pipeline.stages import STAGES
from pipeline.stages.adaptive import LOOKS
from pipeline.stages.problems import select_problems
from pipeline.stages.run import UP_TO_DATE, list_due_trainings, list_rows, stage_status
from pipeline.stages.sft import build_training_rows
from pipeline.stages.stage import Stage
from pipeline.traces.sources import choose_solutions

# Mean tokens of an answer where a run has none of its own yet: smollm2-135m on the test problems of docs/results.md.
ANSWER_TOKENS = {
    "plain zero-shot": 119,
    "plain 4-shot": 8,
    "cot zero-shot": 132,
    "cot 4-shot": 63,
}
THINKING_TOKENS = 62
DIRECT_TOKENS = 14

# Of the samples that may be asked: a problem that is solved is not asked again. On nano it was 0.67 to 0.9.
ASKED_SHARE = 0.8
# Of the problems of a round, assumed: every later round of expert iteration asks these again. On nano it was more.
UNSOLVED_SHARE = 0.3
# Rows of a problem in stage 5 with content: both answers where both are right, the better one else, often none.
CHOICE_ROWS = 1.2

# Of the time of a step that trains all layers: 226 steps took 131 s; in all layers 0.68 a second (smollm2-135m).
LAST_LAYERS_COST = 0.4

SAMPLE = 200  # problems whose rows stand for all of sft's
DECODED_TOKENS = 16  # of each row of the measured batch
READ_PROMPTS = 32  # prompts that are read, whose time is that of as many more
TRAIN_STEPS = 3  # the first of them warms up and is not counted

# Tokens/s decoded in 512 slots that are filled again as answers end (84,000 while all are busy), and trained on.
H200 = {
    "decoded": 23_000,
    "trained": 114_000,
    "source": "not measured here: an H200, smollm2-135m, bf16",
}

# Tokens that are decoded, and tokens that are trained on.
Work = tuple[float, float]


class Plan:
    """What the stages of a run have to do."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.answer_tokens = {**ANSWER_TOKENS, **read_answer_tokens(run)}

        sft = run.recipe.stages["sft"]
        seed = run.recipe.seed
        count = count_problems(sft.problems)

        # The same share of each data set, since their rows differ in length.
        share = min(1.0, SAMPLE / count)
        samples = []
        for spec in sft.problems:
            take = math.ceil(share * count_problems([spec]))
            samples.append(replace(spec, take=take))

        sampled = select_problems(samples)
        problems = choose_solutions(sampled, sft.solutions, seed)
        tokenizer = load_tokenizer(run.base_folder)
        self.rows = build_training_rows(tokenizer, problems, sft, seed)
        self.row_tokens = fmean(len(row["input_ids"]) for row in self.rows)
        self.prompt_tokens = fmean(row["completion_mask"].count(0) for row in self.rows)

        # A problem may have several rows.
        rows_of_sample = len(self.rows)
        self.sft_rows = count * rows_of_sample / len(problems)

    def count_stage(self, stage: Stage, is_trained: bool = True) -> Work:
        """Return the work of a stage: training, where it is to be trained, and scoring on every benchmark."""
        parts: list[Work] = []
        if is_trained:
            # A prompted stage has no training, and of a stage of the user's own nothing is known.
            list_parts = getattr(self, f"list_{stage.name}", list)
            parts += list_parts()

        for row in list_rows(self.run, stage):
            tokens = self.get_tokens(f"{stage.name} {row.variant}")
            answers = len(row.benchmark.problems)
            parts.append((answers * tokens, 0.0))

        decoded = sum(part[0] for part in parts)
        trained = sum(part[1] for part in parts)
        return decoded, trained

    def get_tokens(self, row: str) -> float:
        """Return the mean tokens of an answer under a "STAGE VARIANT"."""
        return self.answer_tokens.get(row, THINKING_TOKENS)

    def list_sft(self) -> list[Work]:
        """Return the parts of stage 3's training."""
        settings = self.run.recipe.stages["sft"]
        return [self.count_training(settings, settings.trainer, self.sft_rows)]

    def list_rl(self) -> list[Work]:
        """Return the parts of stage 4's training."""
        settings = self.run.recipe.stages["rl"]
        parts: list[Work] = []
        if settings.algorithm != "grpo":
            parts += self.list_expert_iteration(settings)
        if settings.algorithm != "expert_iteration":
            parts += self.list_grpo(settings)
        return parts

    def list_grpo(self, settings: Any) -> list[Work]:
        """Return the parts of a GRPO training: training and sampling."""
        # Its recipe says max_steps, so no rows are counted.
        training = self.count_training(settings, settings.grpo.trainer, 0)
        _, trained = training
        samples = trained / self.row_tokens
        # Where half of the groups differ in reward, twice as many are sampled.
        resampled = samples * min(settings.grpo.max_resample, 2)
        sampling = (resampled * self.get_tokens("sft zero-shot"), 0.0)
        return [training, sampling]

    def list_expert_iteration(self, settings: Any) -> list[Work]:
        """Return the parts of all rounds: sampling, training and dev."""
        tokens = self.get_tokens("sft zero-shot")
        iteration = settings.expert_iteration
        problems = count_problems(settings.problems)

        # A problem is new in one round, and half of the other rounds follow it in the mean.
        asked_again = UNSOLVED_SHARE * (iteration.rounds - 1) / 2
        asked = problems * (ASKED_SHARE + asked_again)
        sampling = (asked * iteration.samples * tokens, 0.0)

        # The parent is scored on dev too.
        dev = self.count_dev(settings)
        parts = [sampling, dev]
        for number in range(1, iteration.rounds + 1):
            # About one solution of each problem that was asked by then.
            solutions = problems * number / iteration.rounds
            rows = iteration.replay * self.sft_rows + solutions
            # The trainings score no dev of their own.
            _, trained = self.count_training(settings, iteration.trainer, rows)
            parts += [(0.0, trained), dev]
        return parts

    def list_adaptive(self) -> list[Work]:
        """Return the parts of stage 5's training: answers both ways, the training, and answers at shares of it."""
        settings = self.run.recipe.stages["adaptive"]
        problems = count_problems(settings.problems)
        tokens = self.get_tokens("rl zero-shot")
        # Under the parent dev is asked twice: with a thought, and as it chooses.
        on_dev = (2 + LOOKS) * count_dev_problems(settings) * tokens
        answering = (problems * (tokens + DIRECT_TOKENS) + on_dev, 0.0)

        # Without content a problem is one row, a prompt and its choice; beside content it is padded.
        rows = problems * CHOICE_ROWS if settings.content_weight else problems
        has_content = settings.content_weight or settings.keep_share
        row_tokens = self.row_tokens if has_content else self.prompt_tokens
        if settings.last_layers:
            row_tokens *= LAST_LAYERS_COST

        # The training scores no dev of its own.
        _, trained = self.count_training(settings, settings.trainer, rows, row_tokens)
        return [answering, (0.0, trained)]

    def count_dev(self, settings: Any) -> Work:
        """Return the work of scoring on a stage's dev problems once."""
        return count_dev_problems(settings) * self.get_tokens("sft zero-shot"), 0.0

    def count_training(
        self,
        settings: Any,
        trainer: Mapping[str, Any],
        rows: float,
        row_tokens: float | None = None,
    ) -> Work:
        """Return the work of training on so many rows, with the points on dev; they are like sft's, or so long."""
        accumulated = trainer.get("gradient_accumulation_steps", 1)
        batch = trainer["per_device_train_batch_size"] * accumulated
        epochs = trainer.get("num_train_epochs", 1)

        steps = trainer.get("max_steps", 0)
        # TRL takes the epochs where max_steps is -1.
        if steps <= 0:
            steps = math.ceil(rows * epochs / batch)

        points = steps // trainer.get("eval_steps", math.inf)
        points += int(trainer.get("eval_on_start", False))
        decoded, _ = self.count_dev(settings)
        return points * decoded, steps * batch * (row_tokens or self.row_tokens)


def count_problems(specs: Sequence[DatasetSpec]) -> int:
    """Return how many problems are taken of data sets."""
    count = 0
    for spec in specs:
        # Without a number all are taken.
        count += spec.take or len(load_train(spec))
    return count


def count_dev_problems(settings: Any) -> int:
    """Return how many dev problems a stage has: so many of each data set, however often it is named."""
    sets = {spec.set for spec in settings.problems}
    return settings.dev * len(sets)


def read_answer_tokens(run: Run) -> dict[str, float]:
    """Return the mean tokens of an answer by "STAGE VARIANT", of the stages that have been scored."""
    try:
        scored = run.dir.read_stage_scores()
    except UserError:
        # Damaged scores are made again.
        return {}

    tokens = {}
    for stage in scored:
        for variant in stage.scores["variants"]:
            means = [entry["tokens_mean"] for entry in variant["benchmarks"]]
            tokens[f"{stage.name} {variant['variant']}"] = fmean(means)
    return tokens


def find_rates(run: Run, rows: Sequence[Any]) -> dict[str, Any]:
    """Return the tokens a second of this machine, from the cache or measured; an H200's under ``gpu`` without one."""
    if run.profile == "gpu" and not processes.count_gpus():
        return H200

    import torch

    from pipeline.provenance import describe_machine

    sft = run.recipe.stages["sft"]
    base = run.recipe.base

    # All that a rate depends on. Where one differs, it is measured again.
    machine = describe_machine()
    key = [
        machine["hardware"],
        machine["versions"],
        torch.get_num_threads(),
        run.fingerprint,
        resolve_precision(base.load),
        base.fast_training,
        run.recipe.eval.batch_size,
        sft.trainer["per_device_train_batch_size"],
        sft.lora,
    ]

    file = get_cache_folder() / "rates" / f"{sha256_json(key)[:16]}.json"
    if not file.is_file():
        rates = {
            "decoded": measure_decoding(run),
            "trained": measure_training(run, rows),
            "source": "measured here",
        }
        write_json(file, rates)
    return read_json(file)


def measure_decoding(run: Run) -> float:
    """Return the tokens a second of answers of usual length, by the base in a batch of the recipe's size."""
    from pipeline.generate import generate
    from pipeline.prompts import encode_prompt

    model, tokenizer = load_model(run.base_folder, load=run.recipe.base.load)
    size = run.recipe.eval.batch_size
    problems = run.benchmarks[0].problems[:READ_PROMPTS]
    prompts = [encode_prompt(tokenizer, problem, "think") for problem in problems]

    def decode(prompts, tokens) -> tuple[float, int]:
        start = time.monotonic()
        sequences = generate(model, tokenizer, prompts, max_new_tokens=tokens, batch_size=size)
        seconds = time.monotonic() - start
        return seconds, sum(len(sequence.ids) for sequence in sequences)

    # The first call warms up.
    decode(prompts[:2], 2)
    read_seconds, _ = decode(prompts, 1)
    # One prompt in all rows is read once, so what is left is the decoding.
    seconds, tokens = decode(prompts[:1] * size, DECODED_TOKENS)

    reading = read_seconds / len(prompts)
    decoding = THINKING_TOKENS * seconds / tokens
    return THINKING_TOKENS / (reading + decoding)


def measure_training(run: Run, rows: Sequence[Any]) -> float:
    """Return the tokens a second that a new adapter is trained on, in steps of the recipe's batch."""
    from pipeline.training import count_batch_rows, train_sft

    sft = run.recipe.stages["sft"]
    base = run.recipe.base
    trainer = {
        **sft.trainer,
        "max_steps": TRAIN_STEPS,
        "save_strategy": "no",
        "load_best_model_at_end": False,
        # Dev is "scored" before the first step and after each: there the clock is read.
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_on_start": True,
        "eval_delay": 0,
    }
    times: list[float] = []

    def read_clock(model) -> dict[str, float]:
        times.append(time.monotonic())
        return {"accuracy": 0.0}

    size = count_batch_rows(trainer)
    count = TRAIN_STEPS * size
    # Where there are too few for all steps, they are taken several times.
    repeated = itertools.cycle(rows)
    enough = itertools.islice(repeated, max(count, len(rows)))

    # Rows of middle length: few batches, dealt at random, may hold the longest or the shortest alone.
    ordered = sorted(enough, key=lambda row: len(row["input_ids"]))
    start = (len(ordered) - count) // 2
    middle = ordered[start : start + count]

    model, tokenizer = load_model(run.base_folder, trainable=True, load=base.load)
    with tempfile.TemporaryDirectory() as work:
        train_sft(
            model,
            tokenizer,
            middle,
            trainer,
            work=Path(work),
            label="plan",
            score_dev=read_clock,
            lora=sft.lora,
            seed=run.recipe.seed,
            fast=base.fast_training,
        )

    # Without the first step, which warms up.
    tokens = sum(len(row["input_ids"]) for row in middle[size:])
    seconds = times[TRAIN_STEPS] - times[1]
    return tokens / seconds


def make_plan(run: Run) -> list[str]:
    """Return the sum of the plan and a line for each stage; nothing is measured where there is nothing to do."""
    states = stage_status(run)
    due = [stage for stage in STAGES if states[stage.name] != UP_TO_DATE]
    if not due:
        return ["plan: all stages are up to date"]

    plan = Plan(run)
    rates = find_rates(run, plan.rows)
    trainings = list_due_trainings(run)
    total = 0.0
    lines = []
    unknown = []
    for stage in due:
        is_trained = stage.name in trainings
        decoded, trained = plan.count_stage(stage, is_trained)
        seconds = decoded / rates["decoded"] + trained / rates["trained"]
        total += seconds
        duration = format_duration(seconds)
        lines.append(f"{stage.name:8}  {duration:>7}: {decoded:,.0f} tokens decoded, {trained:,.0f} trained on")
        # Its training was not counted.
        if is_trained and not hasattr(plan, f"list_{stage.name}"):
            unknown.append(stage.name)

    speed = f"{rates['decoded']:,.0f} tokens/s decoded, {rates['trained']:,.0f} trained on; {rates['source']}"
    beside = f", beside the training of {', '.join(unknown)}" if unknown else ""
    return [f"plan: about {format_duration(total)} in all{beside} ({speed})", *lines]
