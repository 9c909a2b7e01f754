"""Stages 4 and 5: reinforcement learning with TRL's GRPOTrainer (GRPO: arXiv 2402.03300, section 4.1).

The reward is the grader. Two things differ from a plain GRPO run. Problems are probed first, and only those whose
samples are neither all right nor all wrong are trained on: the others carry no gradient (DAPO, arXiv 2503.14476,
section 3.2). And the adapter is scored on the dev split every few steps and the best one is kept, the starting one
included: the last step is not the best step.
"""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from data.records import Problem, write_json, write_text
from pipeline.generate import Sample, generate, stop_ids, text_of
from pipeline.lm_head import label_only_head
from pipeline.progress import bar, last_checkpoint, training_bar
from pipeline.prompts import encode, messages, render
from pipeline.recipe import RlSettings

Reward = Callable[[Problem, str, str], float]


@dataclass(frozen=True)
class Task:
    """What one RL stage is: the reward, and the prefixes its samples take in turn (empty: the model's own choice)."""

    reward: Reward
    prefixes: tuple[str, ...] = ("",)


class Trainer(GRPOTrainer):
    """TRL's trainer, without the work that changes nothing: rows whose advantage is zero have no gradient under the
    ``dapo`` loss without a KL term, and columns that hold only padding have none either."""

    def _compute_loss(self, model, inputs):
        rows = inputs["advantages"] != 0
        if not rows.any():
            rows[0] = True
        count = rows.numel()
        inputs = {
            key: value[rows] if isinstance(value, torch.Tensor) and value.dim() and len(value) == count else value
            for key, value in inputs.items()
        }
        prompt, completion = inputs["prompt_mask"].any(0), inputs["completion_mask"].any(0)
        for key in inputs:
            if key.startswith("prompt_"):
                inputs[key] = inputs[key][:, prompt]
            elif key.startswith(("completion_", "tool_mask", "sampling_per")) and inputs[key].dim() == 2:
                inputs[key] = inputs[key][:, completion]
        return super()._compute_loss(model, inputs)


def sample(model, tokenizer, problems: Sequence[Problem], task: Task, settings: RlSettings, copies: int, seed: int):
    """``copies`` samples of each problem, as (sample, reward) pairs in a list a problem."""
    prompts = [encode(tokenizer, render(tokenizer, messages(p, "think"))) for p in problems for _ in range(copies)]
    prefixes = [encode(tokenizer, task.prefixes[i % len(task.prefixes)]) for i in range(len(prompts))]
    with bar("probing the train problems", len(prompts)) as advance:
        samples = generate(
            model,
            tokenizer,
            prompts,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=seed,
            prefixes=prefixes,
            batch_size=64,
            progress=advance,
        )
    stops = stop_ids(model, tokenizer)
    scored = [
        (s, task.reward(problems[i // copies], text_of(tokenizer, s.ids, stops), s.finish))
        for i, s in enumerate(samples)
    ]
    return [scored[i : i + copies] for i in range(0, len(scored), copies)]


def mixed(model, tokenizer, problems: Sequence[Problem], task: Task, settings: RlSettings, seed: int) -> list[Problem]:
    """The problems whose samples do not all earn the same reward; all of them where nothing is to be probed."""
    if settings.probe == 0:
        return list(problems)
    groups = sample(model, tokenizer, problems, task, settings, settings.probe, seed)
    return [p for p, group in zip(problems, groups, strict=True) if len({reward for _, reward in group}) > 1]


def dev_scores(model, tokenizer, dev: Sequence[Problem], task: Task, settings: RlSettings) -> dict[str, float]:
    """Mean reward, and mean tokens a completion, of greedy decoding on the dev problems."""
    prompts = [encode(tokenizer, render(tokenizer, messages(p, "think"))) for p in dev]
    with bar("scoring on dev", len(dev)) as advance:
        samples = generate(model, tokenizer, prompts, max_tokens=settings.max_tokens, batch_size=64, progress=advance)
    stops = stop_ids(model, tokenizer)
    texts = [text_of(tokenizer, s.ids, stops) for s in samples]
    rewards = [task.reward(p, text, s.finish) for p, text, s in zip(dev, texts, samples, strict=True)]
    return {"reward": sum(rewards) / len(dev), "tokens": sum(len(s.ids) for s in samples) / len(dev)}


class KeepBest(TrainerCallback):
    """Scores the adapter on dev every ``eval_every`` steps, writes the curve, and keeps the best adapter."""

    def __init__(self, score: Callable[[], dict[str, float]], every: int, work: Path) -> None:
        self.score, self.every, self.work = score, every, work
        self.curve: list[dict[str, float]] = []
        path = work / "curve.json"
        if path.is_file():
            self.curve = json.loads(path.read_text())

    def note(self, model, step: int) -> None:
        scores = {"step": step} | self.score()
        if all(scores["reward"] > earlier["reward"] for earlier in self.curve):
            aside = self.work / "best.new"
            model.save_pretrained(aside, selected_adapters=["default"])
            shutil.rmtree(self.work / "best", ignore_errors=True)
            aside.rename(self.work / "best")
        self.curve.append(scores)
        write_json(self.work / "curve.json", self.curve)

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.curve = [point for point in self.curve if point["step"] <= state.global_step]
        log = self.work / "train.jsonl"
        steps = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
        kept = [step for step in steps if step["step"] <= state.global_step]
        write_text(log, "".join(json.dumps(step) + "\n" for step in kept))
        if not self.curve:
            self.note(model, 0)

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step % self.every == 0:
            self.note(model, state.global_step)

    def on_log(self, args, state, control, logs, **kwargs):
        if "reward" in logs:
            with open(self.work / "train.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step} | logs) + "\n")


def train(
    model,
    tokenizer,
    pool: Sequence[Problem],
    dev: Sequence[Problem],
    task: Task,
    settings: RlSettings,
    seed: int,
    work: Path,
    label: str,
) -> Path:
    """Train the adapter on ``model``, from the last checkpoint in ``work`` where there is one; returns the folder of
    the best adapter. ``pool`` are train problems, of which the mixed ones are used."""
    gpu = torch.cuda.is_available()
    chosen = work / "problems.json"
    if chosen.is_file():
        kept = set(json.loads(chosen.read_text()))
        problems = [p for p in pool if p.id in kept]
    else:
        problems = mixed(model, tokenizer, pool, task, settings, seed)
        write_json(chosen, [p.id for p in problems])
    if len(problems) < settings.prompts:
        raise RuntimeError(
            f"{label}: only {len(problems)} of {len(pool)} train problems give mixed rewards, {settings.prompts} are "
            f"needed a step: the model solves nearly all or nearly none; raise {label}.arithmetic or train sft longer"
        )
    random.Random(seed).shuffle(problems)
    stops = stop_ids(model, tokenizer)

    def rollout(prompts: list[str], trainer) -> dict[str, Any]:
        samples: list[Sample] = generate(
            trainer.accelerator.unwrap_model(trainer.model),
            tokenizer,
            [encode(tokenizer, p) for p in prompts],
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=1_000_003 * seed + trainer.state.global_step,
            prefixes=[encode(tokenizer, task.prefixes[i % len(task.prefixes)]) for i in range(len(prompts))],
            batch_size=64,
        )
        return {
            "prompt_ids": [encode(tokenizer, p) for p in prompts],
            "completion_ids": [s.ids for s in samples],
            "logprobs": None,
            "finish": [s.finish for s in samples],
        }

    def reward(prompts, completions, completion_ids, index, finish, **columns) -> list[float | None]:
        texts = [text_of(tokenizer, ids, stops) for ids in completion_ids]
        return [task.reward(problems[i], t, f) for i, t, f in zip(index, texts, finish, strict=True)]

    config = GRPOConfig(
        output_dir=str(work),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=settings.prompts * settings.samples // settings.micro_batch,
        num_generations=settings.samples,
        max_completion_length=settings.max_tokens,
        temperature=settings.temperature,
        loss_type="dapo",
        scale_rewards="none",  # Dr. GRPO (arXiv 2503.20783, section 3.2): dividing by the deviation favours extremes
        beta=0.0,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        save_strategy="steps",
        save_steps=settings.eval_every,
        save_total_limit=1,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not gpu,
        bf16=gpu,
        seed=seed,
    )
    rows = [{"prompt": render(tokenizer, messages(p, "think")), "index": i} for i, p in enumerate(problems)]
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    keeper = KeepBest(lambda: dev_scores(model, tokenizer, dev, task, settings), settings.eval_every, work)
    trainer = Trainer(
        model=model,
        args=config,
        reward_funcs=reward,
        rollout_func=rollout,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[keeper, training_bar(label)],
    )
    trainer.remove_callback(PrinterCallback)
    label_only_head(model.get_base_model(), temperature=settings.temperature)
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    if all(torch.equal(before[name], p) for name, p in model.named_parameters() if name in before):
        raise RuntimeError(f"{label}: {settings.steps} steps left every weight as it was; the adapter did not train")
    return work / "best"
