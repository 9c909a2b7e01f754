"""Stage 3: supervised fine-tuning on reasoning traces, with TRL's SFTTrainer and LoRA.

Every trace is graded before the model sees it. Most show steps, some answer at once (``<think></think>``), so that
both ways of answering exist for the stages after. Prompts and completions are tokenized here and passed as ids: what
is trained is, token for token, what generation is asked with.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from data.records import BadInput, Completion, Problem, write_json, write_text
from data.splits import LEVELS
from eval.grade import grade
from pipeline import processes
from pipeline.callbacks import show
from pipeline.prompts import DIRECT, direct_answer, encode, prompt_ids, thinking_answer
from pipeline.recipe import SftSettings


def traces(problems: Sequence[Problem], settings: SftSettings, seed: int) -> list[tuple[Problem, str]]:
    """(problem, completion text) pairs that the grader has checked: the worked steps of every problem that has them,
    and of ``direct_share`` of them, by level, the answer at once as well."""
    rng = random.Random(seed)
    pairs = []
    for problem in problems:
        steps, texts = problem.rationale, []
        if steps is not None and settings.steps != "none":
            if settings.steps == "shuffled":
                steps = _shuffled(steps, f"{seed} {problem.id}")
            texts.append(thinking_answer(steps, problem.answer))
        # A trace of unknown level counts as one of the hardest.
        share = settings.direct_share[problem.level - 1 if problem.level in LEVELS else -1]
        if rng.random() < share or not texts:
            texts.append(direct_answer(problem.answer))
        for text in texts:
            checked = grade(problem, Completion(problem.id, text, 0, 0, 0, "stop"))
            if not checked.correct:
                raise ValueError(f"the trace of {problem.id} is graded {checked.verdict}: {text!r}")
            pairs.append((problem, text))
    return pairs


def _shuffled(steps: str, seed: str) -> str:
    """The lines in another order, where there are different ones."""
    lines, rng = steps.split("\n"), random.Random(seed)
    if len(set(lines)) == 1:
        return steps
    while (shuffled := rng.sample(lines, len(lines))) == lines:
        pass
    return "\n".join(shuffled)


def tokenized(
    tokenizer, pairs: Sequence[tuple[Problem, str]], prompt: str = "think", told: float = 1.0, seed: int = 0
) -> list[dict[str, list[int]]]:
    """Rows of ``input_ids`` and ``completion_mask``: 1 on the completion and its end of turn, but of an answer at once
    only from where it differs in content, except in a share ``told`` of them."""
    rng, rows = random.Random(f"{seed} told"), []
    opening = len(encode(tokenizer, DIRECT))
    for problem, text in pairs:
        before = prompt_ids(tokenizer, problem, prompt)
        after = [*encode(tokenizer, text), tokenizer.eos_token_id]
        given = opening if text.startswith(DIRECT) and rng.random() >= told else 0
        mask = [0] * (len(before) + given) + [1] * (len(after) - given)
        rows.append({"input_ids": before + after, "completion_mask": mask})
    return rows


SHORT = 16  # tokens that are trained: about what an answer without steps takes


def in_batches(rows: Sequence[dict[str, list[int]]], size: int, seed: int) -> list[dict[str, list[int]]]:
    """The rows in a seeded order in which those of like length share a batch, and the batches come in random order.

    Less padding, and on a CPU short rows are faster than packed ones, whose attention spans the whole pack (measured:
    1,024 tokens took 3.9 s as 10 rows, 7.3 s as one). Transformers' own ``group_by_length`` sorts the batches too, so
    that each of its cycles ends on the shortest texts: here the direct answers, which sft then gave to everything.
    """
    rng = random.Random(seed)
    shuffled = rng.sample(list(rows), len(rows))
    # The shortest completions, the direct answers, are dealt out evenly: whole batches of them taught, each time, that
    # there is no other way to answer (measured: 13.8 tokens an answer half-way, of 60 at the end).
    short = [row for row in shuffled if sum(row["completion_mask"]) <= SHORT]
    worked = [row for row in shuffled if sum(row["completion_mask"]) > SHORT]
    count = -(-len(rows) // size)
    dealt = [short[i::count] for i in range(count)]
    dealt.sort(key=len, reverse=True)  # the last batch may be the one that is not full
    batches, begin, window = [], 0, 16 * size
    near = [row for i in range(0, len(worked), window) for row in sorted(worked[i : i + window], key=_length)]
    for own in dealt:
        batches.append(own + near[begin : begin + size - len(own)])
        begin += size - len(own)
    full, rest = [b for b in batches if len(b) == size], [b for b in batches if len(b) < size]
    rng.shuffle(full)
    return [row for batch in full + rest for row in batch]


def _length(row: dict[str, list[int]]) -> int:
    return len(row["input_ids"])


def lora(settings: SftSettings):
    """The adapter that stages 3 to 5 train. No dropout: GRPO samples in training mode."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


class Curve(TrainerCallback):
    """Writes what a training's steps say (train.jsonl; ``seconds`` are those since the line before) and a point of the
    dev curve every ``every`` steps (curve.json; 0: never), which ``show`` hands to trackers and the log."""

    show: Callable[[dict[str, float]], None]

    def __init__(self, score: Callable[[Any], dict[str, float]], every: int, work: Path) -> None:
        self.score, self.every, self.work = score, every, work
        self.curve: list[dict[str, float]] = []

    def on_train_begin(self, args, state, control, model, **kwargs):
        """Forget what came after the checkpoint from which a training goes on."""
        self.seconds = 0.0
        path, log = self.work / "curve.json", self.work / "train.jsonl"

        def kept() -> list[dict[str, float]]:
            points = json.loads(path.read_text()) if path.is_file() else []
            lines = log.read_text().splitlines() if log.is_file() else []
            write_text(log, "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= state.global_step))
            return [point for point in points if point["step"] <= state.global_step]

        self.curve = processes.by_main(kept)
        if self.every and not self.curve:
            self.look(model, 0)

    def look(self, model, step: int) -> None:
        """A point of the dev curve."""
        point = self.score(model)
        self.curve.append({"step": step} | point)
        processes.by_main(lambda: write_json(self.work / "curve.json", self.curve))
        self.show({f"dev_{key}": value for key, value in point.items() if key != "n"})

    def on_step_begin(self, args, state, control, **kwargs):
        self.began = time.monotonic()

    def on_step_end(self, args, state, control, model, **kwargs):
        self.seconds += time.monotonic() - self.began  # the looks at dev not counted
        if self.every and (state.global_step % self.every == 0 or state.global_step == state.max_steps):
            self.look(model, state.global_step)

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" in logs:
            step = {"step": state.global_step, "seconds": round(self.seconds, 2)}
            self.seconds = 0.0
            step |= {key: logs[key] for key in ("loss", "entropy", "mean_token_accuracy", "grad_norm") if key in logs}
            if processes.main():
                with open(self.work / "train.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(step) + "\n")


def train(
    model, tokenizer, rows, settings: SftSettings, seed: int, work: Path, adapter=None, callbacks=(), tracker="none"
) -> Any:
    """Train ``model`` on tokenized rows, from the last checkpoint in ``work`` where there is one; returns the model.

    Several processes share each batch; BadInput where it cannot be parted equally."""
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from pipeline.callbacks import Seal, last_checkpoint
    from pipeline.fit import fitted
    from pipeline.generate import unrouted
    from pipeline.lm_head import label_only_head
    from pipeline.progress import say

    shares = processes.state().num_processes
    if settings.batch_size % shares:
        raise BadInput(
            f"sft.batch_size is {settings.batch_size}, which {shares} processes cannot share; take a multiple"
        )
    dealt = in_batches(rows, settings.batch_size, seed)
    if shares > 1:  # where the last batch is not full, accelerate would fill it with rows of the first
        dealt += [{"input_ids": [tokenizer.eos_token_id] * 2, "completion_mask": [0, 0]}] * (
            -len(dealt) % settings.batch_size
        )
    of_mine = settings.batch_size // shares

    def config(part: int) -> SFTConfig:
        return SFTConfig(
            output_dir=str(work),
            max_length=None,  # nothing is ever cut
            train_sampling_strategy="sequential",  # the rows come in_batches
            per_device_train_batch_size=part,
            gradient_accumulation_steps=of_mine // part,
            completion_only_loss=True,
            learning_rate=settings.learning_rate,
            adam_beta2=settings.adam_beta2,
            lr_scheduler_type="cosine",
            # A round of a few traces is a few steps, the first of a warm-up of which has a rate of nought.
            warmup_steps=min(settings.warmup_steps, len(rows) * settings.epochs // settings.batch_size // 2),
            num_train_epochs=settings.epochs,
            weight_decay=0.0,
            gradient_checkpointing=False,
            save_strategy="steps",
            save_steps=settings.save_steps,
            save_total_limit=2,
            logging_steps=10,
            report_to=tracker,
            project="ladder",
            run_name="/".join(work.parts[-3:-1]),  # BASE/STAGE: trackers may go on with a run of the same name
            disable_tqdm=True,
            ddp_find_unused_parameters=bool(unrouted(model)),  # experts that no token chose
            use_cpu=model.device.type == "cpu",
            bf16=model.dtype == torch.bfloat16,
            seed=seed,
            dataset_num_proc=None,
        )

    def build(model, adapter, part: int) -> SFTTrainer:
        built = SFTTrainer(
            model=model,
            args=config(part),
            train_dataset=Dataset.from_list(dealt),
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=[*callbacks, Seal(work)],
        )
        built.remove_callback(PrinterCallback)
        for callback in callbacks:
            if isinstance(callback, Curve):
                callback.show = partial(show, built)
        inner: Any = built.model
        label_only_head(inner.get_base_model() if isinstance(inner, PeftModel) else inner)
        return built

    trainer = build(model, adapter, of_mine)
    trained: Any = trainer.model
    part = fitted(trained, of_mine, max(len(row["input_ids"]) for row in rows))
    if part < of_mine:
        say(f"sft: {of_mine} rows at once do not fit the memory; {part} at a time, the batch is the same")
        trainer = build(trained, None, part)
    trainer.train(resume_from_checkpoint=processes.by_main(lambda: last_checkpoint(work)))
    return trained
