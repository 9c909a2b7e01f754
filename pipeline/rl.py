"""Stages 4 and 5: reinforcement learning with TRL's GRPOTrainer (GRPO: arXiv 2402.03300, section 4.1).

The reward is the grader. Two things differ from a plain GRPO run. Problems are probed first, and only those whose
samples are neither all right nor all wrong are trained on: the others carry no gradient (DAPO, arXiv 2503.14476,
section 3.2). And the adapter is scored on the dev split every few steps and the best one is kept, the starting one
included: the last step is not the best step.

Stage 5 trains the choice between thinking and answering at once, and nothing else: its samples are made to begin in
one way or the other, by turns, and only the token in which these differ is in the loss, weighted by what the model
gives it over what the turns give it (AdaptThink, arXiv 2505.13417, section 3.3). Averaged with the dozens of tokens
that follow, the choice was lost: thinking stayed at 100 % (measured, 15 steps).
"""

import json
import math
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from data.records import Problem, write_json, write_text
from pipeline.generate import Sample, common_prefix, generate, stop_ids, text_of
from pipeline.lm_head import label_only_head
from pipeline.progress import bar, console, last_checkpoint, training_bar
from pipeline.prompts import encode, messages, render
from pipeline.recipe import RlSettings
from pipeline.reward import NoSignal, correctness

Reward = Callable[[Problem, str, str], float]


@dataclass(frozen=True)
class Task:
    """What one RL stage is: the reward, and the prefixes its samples take in turn, the choice among which is then all
    that is trained. Without prefixes the samples are the model's own from the first token, and all is trained."""

    reward: Reward
    prefixes: tuple[str, ...] = ()

    def better(self, point: dict[str, float], kept: dict[str, float], start: dict[str, float], loss: float) -> bool:
        """Whether a point of the dev curve is to be kept instead of ``kept``: where content is trained, for more
        accuracy; where the choice is, for fewer tokens at no more than ``loss`` of the starting accuracy (the
        constrained objective of AdaptThink, arXiv 2505.13417, section 3.2)."""
        if not self.prefixes:
            return point["accuracy"] > kept["accuracy"]
        return point["accuracy"] >= start["accuracy"] - loss and point["tokens"] < kept["tokens"]


class Trainer(GRPOTrainer):
    """TRL's trainer, without the work that changes nothing: rows whose advantage is zero have no gradient under the
    ``dapo`` loss without a KL term, nor have columns of padding, or those after the last trained token; and a prompt
    that rows share is computed once, its keys and values (and their gradient) serving them all. Where rollouts say how
    likely their tokens were, the loss is relative to that."""

    def _compute_loss(self, model, inputs):
        rows = inputs["advantages"] != 0
        if not rows.any():
            rows[0] = True
        count = rows.numel()
        inputs = {
            key: value[rows] if isinstance(value, torch.Tensor) and value.dim() and len(value) == count else value
            for key, value in inputs.items()
        }
        prompt, trained = inputs["prompt_mask"].any(0), inputs["completion_mask"] * inputs.get("tool_mask", 1)
        width = int(trained.any(0).nonzero().max()) + 1
        for key in inputs:
            if key.startswith("prompt_"):
                inputs[key] = inputs[key][:, prompt]
            elif key.startswith(("completion_", "tool_mask", "sampling_per")) and inputs[key].dim() == 2:
                inputs[key] = inputs[key][:, :width]
        # Without old log-probabilities TRL takes samples for the policy's own.
        return super()._compute_loss(model, inputs | {"old_per_token_logps": inputs.get("sampling_per_token_logps")})

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, **kwargs):
        own = logits_to_keep + 1  # the last token of the prompt gives the first of the completion
        known = input_ids.masked_fill(attention_mask == 0, -1)
        prompts, prompt_of = known[:, :-own].unique(dim=0, return_inverse=True)
        held, positions = prompts >= 0, (attention_mask.cumsum(-1) - 1).clamp(min=0)
        labels = known[:, -own:].where(known[:, -own:] >= 0, -100)
        labels[:, 0] = -100
        with self.accelerator.autocast():
            shared = model(
                input_ids=prompts.clamp(min=0),
                attention_mask=held.long(),
                position_ids=(held.cumsum(-1) - 1).clamp(min=0),
                use_cache=True,
                logits_to_keep=1,
            ).past_key_values
            shared.batch_select_indices(prompt_of)
            output = model(
                input_ids=input_ids[:, -own:],
                attention_mask=attention_mask,
                position_ids=positions[:, -own:],
                past_key_values=shared,
                labels=labels,
                fused_lm_head=True,
            )
        return output.log_probs[:, -logits_to_keep:], output.entropy[:, -logits_to_keep:], None


def asked(tokenizer, problem: Problem) -> str:
    """The prompt of the trained rungs, as text."""
    return render(tokenizer, messages(problem, "think"))


def sample(
    model, tokenizer, prompts: Sequence[str], task: Task, settings: RlSettings, seed: int, progress=None
) -> list[Sample]:
    """One sample of each prompt; the task's prefixes are taken in turn."""
    prefixes = task.prefixes or ("",)
    return generate(
        model,
        tokenizer,
        [encode(tokenizer, prompt) for prompt in prompts],
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        seed=seed,
        prefixes=[encode(tokenizer, prefixes[i % len(prefixes)]) for i in range(len(prompts))],
        progress=progress,
    )


def rewards(model, tokenizer, problems: Sequence[Problem], samples: Sequence[Sample], task: Task) -> list[float]:
    """What each sample earns as a completion of the problem beside it."""
    stops = stop_ids(model, tokenizer)
    texts = [text_of(tokenizer, s.ids, stops) for s in samples]
    return [task.reward(p, text, s.finish) for p, text, s in zip(problems, texts, samples, strict=True)]


def preflight(
    model, tokenizer, problems: Sequence[Problem], task: Task, settings: RlSettings, seed: int
) -> tuple[list[Problem], dict[str, Any]]:
    """The problems whose samples do not all earn the same reward, and what the samples say of the rest: pass@1, pass@k
    for the k samples of each, the share of mixed problems and of cut samples, the pass rate by level."""
    each = [p for p in problems for _ in range(settings.probe)]
    with bar("probing the train problems", len(each)) as advance:
        samples = sample(model, tokenizer, [asked(tokenizer, p) for p in each], task, settings, seed, advance)
    earned = rewards(model, tokenizer, each, samples, task)
    right = rewards(model, tokenizer, each, samples, Task(correctness))
    groups = [range(i, i + settings.probe) for i in range(0, len(each), settings.probe)]
    kept = [p for p, group in zip(problems, groups, strict=True) if len({earned[i] for i in group}) > 1]
    levels: dict[int, list[float]] = {}
    for problem, hit in zip(each, right, strict=True):
        levels.setdefault(problem.level, []).append(hit)
    return kept, {
        "problems": len(problems),
        "k": settings.probe,
        "pass_at_1": fmean(right),
        "pass_at_k": fmean(any(right[i] for i in group) for group in groups),
        "mixed": len(kept) / len(problems),
        "cut": fmean(s.finish == "length" for s in samples),
        "pass_by_level": {str(level): fmean(hits) for level, hits in sorted(levels.items())},
    }


def verdict(found: dict[str, Any]) -> str:
    """What a pre-flight without enough mixed problems says of the model."""
    if found["cut"] > 0.5:
        return "most samples are cut by the token limit; raise max_tokens or train sft on shorter traces"
    if found["pass_at_k"] < 0.1:
        return "nearly none is ever solved, so there is nothing to reinforce; train sft longer or take easier levels"
    if found["pass_at_1"] > 0.9:
        return "nearly all are solved already; take harder levels"
    return "too few problems were probed; raise arithmetic or logic"


def dev_scores(model, tokenizer, dev: Sequence[Problem], task: Task, settings: RlSettings) -> dict[str, float]:
    """Accuracy, mean reward, and mean tokens a completion, of greedy decoding on the dev problems."""
    prompts = [encode(tokenizer, asked(tokenizer, p)) for p in dev]
    with bar("scoring on dev", len(dev)) as advance:
        samples = generate(model, tokenizer, prompts, max_tokens=settings.max_tokens, progress=advance)
    totals = {
        "accuracy": sum(rewards(model, tokenizer, dev, samples, Task(correctness))),
        "reward": sum(rewards(model, tokenizer, dev, samples, task)),
        "tokens": sum(len(s.ids) for s in samples),
    }
    return {name: total / len(dev) for name, total in totals.items()}


class KeepBest(TrainerCallback):
    """Scores the adapter on dev every ``eval_every`` steps, writes the curve, and keeps the best adapter; ``better``
    is told a new point, the kept one and the first."""

    def __init__(self, score: Callable[[], dict[str, float]], better: Callable, every: int, work: Path) -> None:
        self.score, self.better, self.every, self.work = score, better, every, work
        self.curve: list[dict[str, float]] = []
        path = work / "curve.json"
        if path.is_file():
            self.curve = json.loads(path.read_text())

    def kept(self) -> dict[str, float] | None:
        """The point of the curve whose adapter is kept."""
        kept = None
        for point in self.curve:
            if kept is None or self.better(point, kept, self.curve[0]):
                kept = point
        return kept

    def note(self, model, step: int) -> None:
        point = {"step": step} | self.score()
        kept = self.kept()
        if kept is None or self.better(point, kept, self.curve[0]):
            aside = self.work / "best.new"
            model.save_pretrained(aside, selected_adapters=["default"])
            shutil.rmtree(self.work / "best", ignore_errors=True)
            aside.rename(self.work / "best")
        self.curve.append(point)
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
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
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
    problems = list(pool)
    if chosen.is_file():
        kept = set(json.loads(chosen.read_text()))
        problems = [p for p in pool if p.id in kept]
    elif settings.probe:
        problems, found = preflight(model, tokenizer, pool, task, settings, seed)
        write_json(work / "preflight.json", found)
        console.print(
            f"{label}: of {found['problems']} problems {found['pass_at_1']:.0%} pass at once, {found['pass_at_k']:.0%} "
            f"in {found['k']} samples, {found['mixed']:.0%} are mixed, {found['cut']:.0%} of the samples are cut"
        )
        if len(problems) < settings.prompts:
            raise NoSignal(
                f"{label}: only {len(problems)} of {len(pool)} train problems give mixed rewards, {settings.prompts} "
                f"are needed a step: {verdict(found)}"
            )
        write_json(chosen, [p.id for p in problems])
    random.Random(seed).shuffle(problems)

    def rollout(prompts: list[str], trainer) -> dict[str, Any]:
        policy = trainer.accelerator.unwrap_model(trainer.model)
        samples = sample(policy, tokenizer, prompts, task, settings, 1_000_003 * seed + trainer.state.global_step)
        rows: dict[str, Any] = {
            "prompt_ids": [encode(tokenizer, p) for p in prompts],
            "completion_ids": [s.ids for s in samples],
            "logprobs": None,
            "sample": samples,
        }
        if task.prefixes:
            choice = common_prefix([tuple(encode(tokenizer, prefix)) for prefix in task.prefixes])
            turn = -math.log(len(task.prefixes))
            rows["logprobs"] = [[turn] * len(s.ids) for s in samples]
            rows["env_mask"] = [[int(i == choice) for i in range(len(s.ids))] for s in samples]
        return rows

    def reward(prompts, completions, index, sample, **columns) -> list[float | None]:
        return [*rewards(model, tokenizer, [problems[i] for i in index], sample, task)]

    temperature = 1.0 if task.prefixes else settings.temperature  # of the tokens that are trained
    config = GRPOConfig(
        output_dir=str(work),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=settings.prompts * settings.samples // settings.micro_batch,
        num_generations=settings.samples,
        max_completion_length=settings.max_tokens,
        temperature=temperature,
        epsilon=1.0,  # clips nothing: what the model gives a token is at most twice what two turns give it
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
    rows = [{"prompt": asked(tokenizer, p), "index": i} for i, p in enumerate(problems)]
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    keeper = KeepBest(
        lambda: dev_scores(model, tokenizer, dev, task, settings),
        lambda point, kept, start: task.better(point, kept, start, settings.accuracy_loss),
        settings.eval_every,
        work,
    )
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
    label_only_head(model.get_base_model(), temperature=temperature)
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    if all(torch.equal(before[name], p) for name, p in model.named_parameters() if name in before):
        raise NoSignal(f"{label}: {settings.steps} steps left every weight as it was; the adapter did not train")
    return work / "best"
