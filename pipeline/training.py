"""What every training shares: the configuration, scoring on dev, logs and checkpoints.

All of it goes through public hooks of transformers and TRL. A trainer's own state is the only log: ``curve.json`` and
``train.jsonl`` are written from ``state.log_history``, which each checkpoint carries, so a resumed training ends with
the same files as an unbroken one.
"""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from transformers import PrinterCallback, Trainer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from data.files import UserError, write_json, write_jsonl, write_text
from data.problem import Problem
from eval.grade import grade_all
from pipeline import processes
from pipeline.alarms import measure_weights
from pipeline.evaluate import evaluate
from pipeline.fast_training import speed_up_training
from pipeline.forward import router_arguments
from pipeline.memory import fit_batch
from pipeline.progress import ProgressBar, log, say
from pipeline.prompts import encode_prompt, encode_text
from pipeline.stage_dir import MANIFEST, find_damaged, seal

# TRL prepares rows with a bar for each column.
disable_progress_bars()

Row = dict[str, list[Any]]
DevScorer = Callable[[Any], dict[str, float]]

# What the log says of a step; train.jsonl has the rest.
SHOWN_METRICS = ("loss", "reward", "entropy", "mean_token_accuracy", "grad_norm", "eval_")


def build_row(tokenizer, problem: Problem, text: str, prompt: str, untrained: int = 0) -> Row:
    """Return the tokens of a prompt and a completion with its end of turn, as TRL takes them.

    Args:
        tokenizer: Of the model.
        problem: What is asked.
        text: The completion.
        prompt: The name of the prompt.
        untrained: The first tokens of the completion that are left out of the loss.

    Returns:
        ``input_ids``, and ``completion_mask`` with a 1 where there is a loss.
    """
    prompt_ids = encode_prompt(tokenizer, problem, prompt)
    completion_ids = [*encode_text(tokenizer, text), tokenizer.eos_token_id]
    ignored = len(prompt_ids) + untrained
    return {
        "input_ids": prompt_ids + completion_ids,
        "completion_mask": [0] * ignored + [1] * (len(completion_ids) - untrained),
    }


def build_common_settings(
    model,
    work: Path,
    seed: int,
    report_to: str,
    run_name: str,
) -> dict[str, Any]:
    """Return the arguments that the pipeline sets for any trainer of TRL: those that follow from model and machine."""
    return {
        "output_dir": str(work),
        "seed": seed,
        "report_to": report_to,
        "project": "ladder",
        "run_name": run_name,
        "use_cpu": model.device.type == "cpu",
        "bf16": model.dtype == torch.bfloat16,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        # The checkpoint before goes when the next one is there, which is sealed after that.
        "save_total_limit": 2,
        # A mixture has experts that no token of a batch chose.
        "ddp_find_unused_parameters": bool(router_arguments(model)),
    }


def build_sft_config(
    trainer: Mapping[str, Any], model, work: Path, seed: int, report_to: str, run_name: str = "", label: str = "sft"
) -> SFTConfig:
    """Return a recipe's ``trainer`` block as TRL's configuration, over what the pipeline sets itself."""
    settings = build_common_settings(model, work, seed, report_to, run_name)
    settings |= {
        # Nothing is ever truncated.
        "max_length": None,
        "completion_only_loss": True,
        # The rows come in the order in which they are trained on.
        "train_sampling_strategy": "sequential",
    }
    return build_config(SFTConfig, settings | dict(trainer), f"{label}: trainer")


def build_config(library: Any, settings: Mapping[str, Any], key: str) -> Any:
    """Return a configuration of TRL; UserError where settings do not go together."""
    try:
        return library(**settings)
    except ValueError as error:
        # Some of its messages have several lines.
        reason = " ".join(str(error).split())
        raise UserError(f"{key}: {reason}; change the recipe") from None


def build_dev_scorer(
    tokenizer,
    problems: Sequence[Problem],
    generation: Mapping[str, Any],
    batch_size: int,
):
    """Return the function that scores greedy answers to dev problems: accuracy, mean tokens, number of problems."""

    def score_dev(model) -> dict[str, float]:
        answers = evaluate(
            model,
            tokenizer,
            problems,
            "think",
            max_new_tokens=generation["max_new_tokens"],
            batch_size=batch_size,
            label="scoring on dev",
        )
        grades = grade_all(problems, answers.completions)
        return {
            "accuracy": fmean(grade.correct for grade in grades),
            "tokens": fmean(c.tokens for c in answers.completions),
            "n": len(problems),
        }

    return score_dev


class DevScoring(Trainer):
    """Mixin of a trainer: its public ``evaluate`` scores answers to dev problems, not the loss on a data set.

    So ``eval_steps``, ``load_best_model_at_end`` and ``metric_for_best_model`` (such as ``eval_accuracy``) work as in
    transformers.
    """

    model: Any
    score_dev: DevScorer

    def evaluate(
        self,
        eval_dataset=None,
        ignore_keys=None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score the model and log what comes out."""
        # TRL logs a model that is not in training as an evaluation, without the metrics of the step.
        self.model.eval()
        scores = self.score_dev(self.model)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}

        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class DevScoredSftTrainer(DevScoring, SFTTrainer):
    """TRL's SFT trainer with scores on dev."""


class WriteFiles(TrainerCallback):
    """Writes ``curve.json`` (points on dev) and ``train.jsonl`` (steps), and seals each checkpoint once it is whole."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def on_log(self, args, state, control, **kwargs):
        """Write both files whole; they are small."""
        if state.is_world_process_zero:
            write_json(self.work / "curve.json", read_curve(state.log_history))
            write_jsonl(self.work / "train.jsonl", read_steps(state.log_history))

    # What came after the checkpoint that a training goes on from is forgotten.
    on_train_begin = on_log

    def on_save(self, args, state, control, **kwargs):
        """Seal the checkpoint that was just written."""
        if not state.is_world_process_zero:
            return

        checkpoint = self.work / f"checkpoint-{state.global_step}"
        # Other processes may still be writing their random states.
        states = set(checkpoint.rglob("rng_state_*"))
        files = [path for path in checkpoint.rglob("*") if path.is_file() and path not in states]
        seal(checkpoint, files, {"step": state.global_step})


def read_steps(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the steps of a trainer's log, without TRL's count of tokens, which begins again after a checkpoint."""
    steps = []
    for entry in history:
        if "loss" in entry:
            step = {name: entry[name] for name in sorted(entry)}
            step.pop("num_tokens", None)
            steps.append(step)
    return steps


def read_curve(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the points on dev of a trainer's log: the step, and what was scored."""
    points = []
    for entry in history:
        scores = {}
        # A checkpoint sorts the names too.
        for name in sorted(entry):
            if name.startswith("eval_"):
                scores[name.removeprefix("eval_")] = entry[name]
        if scores:
            points.append({"step": entry["step"], **scores})
    return points


class ShowProgress(TrainerCallback):
    """A bar over the optimizer steps, and a line in the log for what the trainer logs."""

    def __init__(self, label: str) -> None:
        self.label = label

    def on_train_begin(self, args, state, control, **kwargs):
        """Show the bar."""
        self.bar = ProgressBar(self.label, state.max_steps, "steps", state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        """Move the bar."""
        self.bar.advance(1, 1)

    def on_log(self, args, state, control, logs, **kwargs):
        """Log the metrics that say most."""
        shown = []
        for name, value in logs.items():
            if name.startswith(SHOWN_METRICS):
                shown.append(f"{name} {value:.4g}")
        if shown:
            log.info(f"{self.label}: step {state.global_step} of {state.max_steps}: {', '.join(shown)}")

    def on_train_end(self, args, state, control, **kwargs):
        """Take the bar off the screen."""
        self.bar.stop()


def find_last_checkpoint(work: Path) -> str | None:
    """Return the last checkpoint that is as it was written, None where there is none; remove those after it."""
    checkpoints = sorted(work.glob("checkpoint-*"), key=get_step, reverse=True)
    for checkpoint in checkpoints:
        damaged = find_damaged(checkpoint)
        if not damaged:
            say(f"going on from step {get_step(checkpoint)}")
            return str(checkpoint)

        # One without a manifest was being written when its process ended.
        if (checkpoint / MANIFEST).is_file():
            say(f"{damaged[0]} is not what was written; going back to before it")
        shutil.rmtree(checkpoint)
    return None


def get_step(checkpoint: Path) -> int:
    """Return the number in a checkpoint's name."""
    return int(checkpoint.name.rpartition("-")[2])


def build_callbacks(work: Path, label: str) -> list[TrainerCallback]:
    """Return what hangs on every trainer."""
    return [WriteFiles(work), ShowProgress(label)]


def count_batch_rows(trainer: Mapping[str, Any]) -> int:
    """Return the rows of an optimizer step, which all processes share."""
    return trainer["per_device_train_batch_size"] * trainer.get("gradient_accumulation_steps", 1)


def split_batch(trainer: Mapping[str, Any], label: str) -> dict[str, int]:
    """Return the batch arguments of one process.

    Raises:
        UserError: Where the processes cannot share the batch equally.
    """
    batch = count_batch_rows(trainer)
    count = processes.get_state().num_processes
    if batch % count:
        raise UserError(f"{label}: {count} processes cannot share a batch of {batch} rows; take a multiple of {count}")

    share = batch // count
    # It divides both, so the batch stays whole and no more rows go through at once than the recipe says.
    rows = math.gcd(share, trainer["per_device_train_batch_size"])
    return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": share // rows}


def train_sft(
    model,
    tokenizer,
    rows: Sequence[Row],
    trainer: Mapping[str, Any],
    *,
    work: Path,
    label: str,
    lora: Mapping[str, Any] | None = None,
    score_dev: DevScorer | None = None,
    **options: Any,
) -> Any:
    """Train on tokenized rows, in their order, from the last checkpoint in ``work`` where there is one.

    Args:
        model: A causal language model, or one with a trainable adapter.
        tokenizer: Its tokenizer.
        rows: ``input_ids`` and ``completion_mask`` of each, as :func:`build_row` gives them.
        trainer: Keys of SFTConfig. The batch that they name is that of all processes together.
        work: Where checkpoints, ``curve.json``, ``train.jsonl`` and ``alarm.txt`` go.
        label: What progress is shown under.
        lora: Keys of LoraConfig, for a new adapter.
        score_dev: Scores a model on dev; None leaves dev out, whatever the recipe says.
        options: Those of :func:`build_sft_trainer`; ``seed`` must be there.

    Returns:
        The trained model, with its adapter where it has one.
    """
    checkpoint = processes.on_main_process(lambda: find_last_checkpoint(work))
    settings = dict(trainer)
    if checkpoint:
        # Its log has the first point already.
        settings["eval_on_start"] = False
    if not score_dev:
        settings |= {"eval_strategy": "no", "eval_on_start": False, "load_best_model_at_end": False}

    dataset = Dataset.from_list(_fill_last_batch(rows, count_batch_rows(trainer), tokenizer))

    def build(model, lora, batch):
        return build_sft_trainer(tokenizer, dataset, model, settings | batch, lora, work=work, label=label, **options)

    batch = split_batch(trainer, label)
    built = build(model, lora, batch)

    longest = max(len(row["input_ids"]) for row in rows)
    fitting = fit_batch(built.model, batch, longest, label)
    if fitting != batch:
        # The adapter is there by now.
        built = build(built.model, None, fitting)

    before = measure_weights(built.model)
    if score_dev:
        built.score_dev = score_dev
    built.train(resume_from_checkpoint=checkpoint)

    # A frozen adapter trains nothing, and its losses look normal.
    if measure_weights(built.model) == before:
        alarm = f"no weight has moved in {built.state.global_step} steps\n"
        processes.on_main_process(lambda: write_text(work / "alarm.txt", alarm))
    return built.model


def build_sft_trainer(
    tokenizer,
    dataset: Dataset,
    model,
    trainer: Mapping[str, Any],
    lora: Mapping[str, Any] | None,
    *,
    work: Path,
    label: str,
    seed: int,
    fast=True,
    report_to="none",
    run_name="",
    trainer_class=DevScoredSftTrainer,
    data_collator=None,
) -> DevScoredSftTrainer:
    """Return TRL's trainer with all that hangs on it.

    Args:
        tokenizer: Of the model.
        dataset: The tokenized rows.
        model: What is trained.
        trainer: Keys of SFTConfig.
        lora: Keys of LoraConfig, for a new adapter.
        work: Where it writes.
        label: What progress is shown under.
        seed: Of the adapter's first weights.
        fast: Whether to use fast_training.py.
        report_to: The tracker.
        run_name: What the tracker calls the training.
        trainer_class: For another loss.
        data_collator: For other columns.
    """
    built = trainer_class(
        model=model,
        args=build_sft_config(trainer, model, work, seed, report_to, run_name, label),
        train_dataset=dataset,
        # transformers wants one where there are evaluations; ours reads no row of it.
        eval_dataset=dataset.select([0]),
        processing_class=tokenizer,
        peft_config=None if lora is None else LoraConfig(task_type="CAUSAL_LM", **lora),
        callbacks=build_callbacks(work, label),
        data_collator=data_collator,
    )
    built.remove_callback(PrinterCallback)
    if fast:
        speed_up_training(built.model)
    return built


def _fill_last_batch(rows: Sequence[Row], batch: int, tokenizer) -> list[Row]:
    """The rows; where processes share them, with empty ones at the end, for accelerate would repeat the first."""
    if processes.get_state().num_processes == 1:
        return list(rows)

    # No column of it has a loss.
    empty: Row = {name: [0, 0] for name in rows[0]}
    empty["input_ids"] = [tokenizer.eos_token_id] * 2
    missing = -len(rows) % batch
    return [*rows, *[empty] * missing]
