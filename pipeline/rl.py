"""Stages 4 and 5: reinforcement learning with TRL's GRPOTrainer (GRPO: arXiv 2402.03300, section 4.1).

The reward is the grader. Four things differ from a plain GRPO run. A pre-flight on dev says first whether there is
anything to learn, and on which levels. A group of samples that all earn the same carries no gradient and is replaced by
another problem's (DAPO, arXiv 2503.14476, section 3.2). The adapter is scored on dev every few steps and the best one
is kept, the starting one included: the last step is not the best step. And a training that collapses is stopped.

Stage 5 trains the choice between thinking and answering at once, and nothing else: its samples are made to begin in
one way or the other, by turns, and only the token in which these differ is in the loss, weighted by what the model
gives it over what the turns give it (AdaptThink, arXiv 2505.13417, section 3.3). Averaged with the dozens of tokens
that follow, the choice was lost: thinking stayed at 100 % (measured, 15 steps). What a sample earns is held against
what the stage before earned on the problem, which TRL has no hook for: it takes the mean of a group, always, so that
the advantages are put into what its ``_generate_and_score_completions`` gives back.
"""

import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from data.records import BadInput, Problem, write_json
from pipeline import processes
from pipeline.callbacks import Seal, last_checkpoint, seal, show, training_bar
from pipeline.fit import fitted
from pipeline.generate import common_prefix, unrouted
from pipeline.lm_head import label_only_head
from pipeline.preflight import preflight
from pipeline.progress import say
from pipeline.prompts import encode
from pipeline.recipe import RlSettings
from pipeline.reward import NoSignal, correctness
from pipeline.sampler import Sampler
from pipeline.samples import (
    Group,
    Row,
    Task,
    asked,
    blamed,
    completions,
    dev_scores,
    references,
    sample,
    summary,
    teaches,
)
from pipeline.watch import Watch

# How TRL averages the loss, and what has one weight: over all tokens of a batch (arXiv 2503.14476, section 3.3); by the
# longest completion there may be (arXiv 2503.20783, section 3.2); by completion, with one weight for all its tokens
# (arXiv 2507.18071, section 4.1).
VARIANTS = {
    "dapo": ("dapo", "token"),
    "dr_grpo": ("dr_grpo", "token"),
    "gspo": ("grpo", "sequence"),
}


class Trainer(GRPOTrainer):
    """TRL's trainer, without the work that changes nothing: rows whose advantage is zero have no gradient without a KL
    term, nor have columns of padding, or those after the last trained token; and a prompt that rows share is computed
    once, its keys and values (and their gradient) serving them all.

    ``relative``: the loss is relative to what rollouts say of how likely their tokens were; else ``drift`` notes how
    far that is from what the trained model gives them (nats a token, one value a micro-batch)."""

    relative = False
    held_against: list[float] | None = None  # the advantages of a rollout, in place of those over a group's mean

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.drift: list[float] = []

    def _generate_and_score_completions(self, inputs):
        out = super()._generate_and_score_completions(inputs)
        if self.held_against is not None:
            out["advantages"] = torch.tensor(self.held_against).to(out["advantages"])
        return out

    def _compute_loss(self, model, inputs):
        rows = inputs["advantages"] != 0
        # One at least, and as many in every process, for TRL gathers what it logs of them row by row.
        most = max(1, int(self.accelerator.gather(rows.sum()).max()))
        rows[(~rows).nonzero()[: most - int(rows.sum()), 0]] = True
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
        sampled = inputs["sampling_per_token_logps"]
        # Without old log-probabilities TRL takes samples for the policy's own.
        loss = super()._compute_loss(model, inputs | {"old_per_token_logps": sampled if self.relative else None})
        if not self.relative:
            mask = trained[:, :width]
            self.drift.append(float(((self.given - sampled).abs() * mask).sum() / mask.sum()))
        # These two losses are means over rows, those left out included.
        return loss * rows.sum() / count if self.loss_type in ("grpo", "dr_grpo") else loss

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, **kwargs):
        plain = unrouted(self.accelerator.unwrap_model(model))
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
                **plain,
            ).past_key_values
            shared.batch_select_indices(prompt_of)
            output = model(
                input_ids=input_ids[:, -own:],
                attention_mask=attention_mask,
                position_ids=positions[:, -own:],
                past_key_values=shared,
                labels=labels,
                fused_lm_head=True,
                **plain,
            )
        self.given = output.log_probs[:, -logits_to_keep:].detach()
        return output.log_probs[:, -logits_to_keep:], output.entropy[:, -logits_to_keep:], None


def train(
    model,
    tokenizer,
    pools: Mapping[str, Sequence[Problem]],
    dev: Mapping[str, Sequence[Problem]],
    task: Task,
    settings: RlSettings,
    seed: int,
    work: Path,
    label: str,
    tracker: str = "none",
) -> Path:
    """Train the adapter on ``model``, from the last checkpoint in ``work`` where there is one; returns the folder of
    the best adapter. ``pools`` are train problems by level, ``dev`` dev problems by the same levels.

    Raises NoSignal where the pre-flight finds no mixed group.
    """
    if not any(pools.values()):
        raise BadInput(f"{label}: no train problems to draw from; raise {label}.arithmetic or {label}.logic")
    checkpoint = processes.by_main(lambda: last_checkpoint(work))
    rates: dict[str, tuple[float, float]] = {}
    shares = processes.state().num_processes
    rows = settings.prompts * settings.samples
    of_mine = rows // shares
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise BadInput(f"{label}: sharded weights are for sft only; start it with recipes/profiles/ddp.yaml")
    if rows % (shares * (settings.micro_batch or 1)):
        raise BadInput(
            f"{label}: {shares} processes cannot share {settings.prompts} prompts of {settings.samples} samples "
            f"equally in parts of {settings.micro_batch}; change {label}.prompts, or lower {label}.micro_batch"
        )
    if settings.probe:
        if not processes.by_main((work / "preflight.json").is_file):
            probed = {level: problems[: settings.probe_problems] for level, problems in dev.items() if level in pools}
            if not probed:
                raise BadInput(f"{label}: no dev problem is of the train problems' levels; raise {label}.dev")
            seen = preflight(model, tokenizer, probed, task, settings, seed)
            processes.by_main(lambda: write_json(work / "preflight.json", seen))
            processes.by_main(lambda: seal(work, [work / "preflight.json"]))
        found = processes.by_main(lambda: json.loads((work / "preflight.json").read_text()))
        say(
            f"{label}: of {found['problems']} dev problems {found['pass_at_1']:.0%} pass at once, "
            f"{found['pass_at_k']:.0%} in {found['k']} samples, {found['cut']:.0%} of the samples are cut; "
            f"rl {found['verdict']}"
        )
        if not found["mixed"]:
            raise NoSignal(f"{label} {found['verdict']} (--set {label}.probe=0 trains regardless)")
        rates = found["rates"]
        if not settings.levels and found["levels"]:
            pools = {level: pools[level] for level in found["levels"]}
    reference: dict[str, float] | None = None
    if settings.reference:
        known = work / "reference.json"
        if not processes.by_main(known.is_file):
            every = [p for problems in pools.values() for p in problems]
            measured = references(model, tokenizer, every, task, settings, seed)
            processes.by_main(lambda: write_json(known, measured))
            sealed = (work / "preflight.json", known)
            processes.by_main(lambda: seal(work, [path for path in sealed if path.is_file()]))
        reference = processes.by_main(lambda: json.loads(known.read_text()))
    sampler = Sampler(pools, rates)
    state_file = work / "sampler.json"  # the sampler's state after each step
    states = processes.by_main(lambda: json.loads(state_file.read_text()) if state_file.is_file() else {})
    noted: dict[str, Any] = {}

    def rollout(prompts: list[str], trainer) -> dict[str, Any]:
        """Mixed groups of samples, as many as TRL asks for; where ``tries`` do not give enough, also others. Every
        process has the groups of all, whose decoding they share, and gives TRL its part of them."""
        policy = trainer.accelerator.unwrap_model(trainer.model)
        step, wanted = trainer.state.global_step, len(prompts) * shares // settings.samples
        most = wanted * settings.tries
        if str(step) in states:
            sampler.restore(states[str(step)])
        mixed: list[Group] = []
        alike: list[Group] = []
        seen: dict[str, list[Row]] = {}
        while len(mixed) < wanted and len(mixed) + len(alike) < most:
            tried = len(mixed) + len(alike)
            count = min(wanted - len(mixed), most - tried)
            at = f"{seed} {step} {tried}"
            drawn = sampler.draw(count, at)
            each = [p for _, p in drawn for _ in range(settings.samples)]
            told_to = [task.at_most(step * wanted + tried + i // settings.samples) for i in range(len(each))]
            texts = [asked(tokenizer, p, n) for p, n in zip(each, told_to, strict=True)]
            samples = sample(policy, tokenizer, texts, task, settings, zlib.crc32(at.encode()))
            told = completions(policy, tokenizer, each, samples)
            rows = [
                Row(p, c, s, task.earned(p, c, n), correctness(p, c), n)
                for p, c, s, n in zip(each, told, samples, told_to, strict=True)
            ]
            for i, (level, _) in enumerate(drawn):
                group = rows[i * settings.samples : (i + 1) * settings.samples]
                right = [row.right for row in group]
                if not task.prefixes:  # a choice is to be learnt on every level
                    sampler.note(level, right)
                # Held against a reference a group teaches where its samples all earn the same, too.
                signal = reference is not None or teaches([row.earned for row in group], right, settings)
                (mixed if signal else alike).append(group)
                seen.setdefault(level, []).extend(group)
        every = [row for group in mixed + alike for row in group]
        noted.update(
            **summary(every),
            cut=fmean(row.sample.finish == "length" for row in every),
            mixed=len(mixed) / len(mixed + alike),
            samples=len(every),
            rates={level: round(sampler.rate(level), 3) for level in sampler.pools},
            levels={level: summary(rows) for level, rows in seen.items()},
        )
        states[str(step + 1)] = sampler.state()
        processes.by_main(lambda: write_json(state_file, states))
        taken = [row for group in (mixed + alike)[:wanted] for row in group]
        taken = taken[trainer.accelerator.process_index * len(prompts) :][: len(prompts)]
        out: dict[str, Any] = {
            "prompt_ids": [encode(tokenizer, asked(tokenizer, row.problem, row.at_most)) for row in taken],
            "completion_ids": [row.sample.ids for row in taken],
            "logprobs": [row.sample.logprobs for row in taken],
            "earned": [row.earned for row in taken],
        }
        if reference is not None:
            trainer.held_against = [row.earned - reference[row.problem.id] for row in taken]
        if task.prefixes:
            choice = common_prefix([tuple(encode(tokenizer, prefix)) for prefix in task.prefixes])
            turn = -math.log(len(task.prefixes))
            out["logprobs"] = [[turn] * len(ids) for ids in out["completion_ids"]]
            out["env_mask"] = [[int(i == choice) for i in range(len(ids))] for ids in out["completion_ids"]]
        elif settings.blame == "step":
            out["env_mask"] = [blamed(tokenizer, row.problem, row.completion, row.sample.ids) for row in taken]
        return out

    def reward(prompts, completions, earned, log_metric, **columns) -> list[float | None]:
        for name in ("correct", "boxed", "mixed"):  # what trackers would not see otherwise
            log_metric(name, noted[name])
        return [*earned]

    temperature = 1.0 if task.prefixes else settings.temperature  # of the tokens that are trained

    def config(part: int) -> GRPOConfig:
        return GRPOConfig(
            output_dir=str(work),
            max_steps=settings.steps,
            per_device_train_batch_size=part,
            gradient_accumulation_steps=of_mine // part,
            num_generations=max(2, settings.samples),  # which is TRL's least; groups are made in the rollout
            max_completion_length=settings.max_tokens,
            temperature=temperature,
            epsilon=1.0,  # clips nothing: what the model gives a token is at most twice what two turns give it
            loss_type=VARIANTS[settings.variant][0],
            importance_sampling_level=VARIANTS[settings.variant][1],
            # Dr. GRPO (arXiv 2503.20783, section 3.2): dividing by the deviation favours extremes.
            scale_rewards="none",
            beta=0.0,
            router_aux_loss_coef=0.0 if unrouted(model) else None,
            disable_dropout=True,  # what is sampled without it is trained without it
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.schedule,
            gradient_checkpointing=False,
            save_strategy="steps",
            save_steps=settings.eval_every,
            save_total_limit=2,  # the one before goes when the next is there, which is sealed after
            logging_steps=1,
            report_to=tracker,
            project="ladder",
            run_name="/".join(work.parts[-3:-1]),  # BASE/STAGE, as sft names it
            disable_tqdm=True,
            ddp_find_unused_parameters=bool(unrouted(model)),  # experts that no token chose
            use_cpu=model.device.type == "cpu",
            bf16=model.dtype == torch.bfloat16,
            seed=seed,
        )

    every_dev = [p for problems in dev.values() for p in problems]
    watch = Watch(
        lambda: dev_scores(model, tokenizer, every_dev, task, settings.max_tokens),
        lambda point, kept, start: task.better(point, kept, start, settings.accuracy_loss),
        lambda: noted | {"drift": fmean(trainer.drift[-trainer.args.gradient_accumulation_steps :] or [0.0])},
        lambda values: show(trainer, values),
        {name: p for name, p in model.named_parameters() if p.requires_grad},
        settings.eval_every,
        not task.prefixes,
        "reward" if task.budgets else "accuracy",
        work,
    )

    def build(part: int) -> Trainer:
        built = Trainer(
            model=model,
            args=config(part),
            reward_funcs=reward,
            rollout_func=rollout,
            # Which problem a prompt stands for is decided when it is sampled.
            train_dataset=Dataset.from_list([{"prompt": str(i)} for i in range(settings.prompts)]),
            processing_class=tokenizer,
            callbacks=[watch, training_bar(label), Seal(work)],
        )
        built.relative = bool(task.prefixes)
        built.remove_callback(PrinterCallback)
        label_only_head(model.get_base_model(), temperature=temperature)
        return built

    trainer = build(settings.micro_batch or of_mine)
    if not settings.micro_batch:
        prompts = (asked(tokenizer, p, task.at_most(0)) for problems in pools.values() for p in problems)
        longest = max(len(encode(tokenizer, prompt)) for prompt in prompts) + settings.max_tokens
        part = fitted(model, of_mine, longest)
        if part < of_mine:
            say(f"{label}: {part} of {of_mine} rows at a time, as many as fit the memory")
            trainer = build(part)
    trainer.train(resume_from_checkpoint=checkpoint)
    if (work / "alarm.txt").is_file():
        kept = watch.kept() or {"step": 0}
        say(f"{label}: {(work / 'alarm.txt').read_text().strip()}; the adapter of step {kept['step']} is kept")
    return work / "best"
