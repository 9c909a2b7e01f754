"""``nano``: a base of about half a million parameters, pretrained here from scratch on a domain of its own size.

Its texts are sums_v1 and booleans_v1 problems of levels 1 to 3, drawn from the train split: some answered directly
under the ``plain`` prompt, some with steps under the ``cot`` prompt. It never saw a longer problem, so the later stages
have something to add. It saw think tags around single operations only. The texts lie beside its weights in
``pretraining.jsonl``, for the contamination gate.

``nano-tiny`` is the same recipe in less than a minute, for tests that need a model that runs, not one that can do much.
"""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.datasets import BENCHMARKS, load
from data.files import UserError, sha256_json
from data.generated import draw_problem
from data.problem import Problem, write_records
from data.splits import split_of
from pipeline import processes
from pipeline.progress import progress_bar, say
from pipeline.prompts import END_THINK, INSTRUCTIONS, THINK, format_example_answer

SEED = 0

# The problems of its texts, beside the weights.
PRETRAINING_FILE = "pretraining.jsonl"

# The instructions are one token each; else half of a row would be the instruction.
SPECIAL_TOKENS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", THINK, END_THINK]
SPECIAL_TOKENS += INSTRUCTIONS.values()
VOCABULARY = 1024

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

SHAPE: dict[str, Any] = {
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    # A problem is 20 to 50 tokens long: after a minute the loss was 0.30 nats a token with theta 30, 0.32 and 0.38 with
    # 100, 0.41 with 10,000.
    "rope_parameters": {"rope_type": "default", "rope_theta": 30.0},
    # About 1 / sqrt(hidden_size). With 0.02 the loss stayed at 0.8.
    "initializer_range": 0.08,
}

# Keys of SFTConfig.
TRAINER: dict[str, Any] = {
    "learning_rate": 4e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 50,
    "weight_decay": 0.0,
    "adam_beta2": 0.98,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 64,
    "logging_steps": 10,
    "save_strategy": "no",
}

LEVELS = (1, 2, 3)

# Sums with steps are half of these: their five hundred facts take longest to learn.
UNTAGGED_KINDS = (
    ("sums_v1", "cot", LEVELS),
    ("sums_v1", "plain", LEVELS),
    ("sums_v1", "cot", LEVELS),
    ("booleans_v1", "plain", LEVELS),
    ("sums_v1", "cot", LEVELS),
    ("booleans_v1", "cot", LEVELS),
)

# What each text is, in turn: a benchmark, a prompt and levels. An adapter does not train embeddings, so those of the
# think tags are trained here: without them sft had to bend all weights to write a tag, and forgot the sums at first.
KINDS = (
    *UNTAGGED_KINDS,
    *UNTAGGED_KINDS,
    ("sums_v1", "think", (1,)),
    ("booleans_v1", "think", (1,)),
)


Preset = dict[str, Any]

# A size of the model, in keys of LlamaConfig, how many texts it is trained on, and a learning rate of its own if any.
PRESETS: dict[str, Preset] = {
    "nano": {
        "name": "nano",
        "texts": 120_000,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "nano-tiny": {
        "name": "nano-tiny",
        "texts": 12_000,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
}


def hash_preset(preset: Preset) -> str:
    """Return what names a preset's model in the cache: it changes with anything above or the prompts' wording."""
    recipe = [SEED, SPECIAL_TOKENS, VOCABULARY, TEMPLATE, SHAPE, TRAINER, KINDS]
    return sha256_json([*recipe, preset])[:12]


def train_tokenizer(texts: Iterable[str]) -> Any:
    """Return a byte-level BPE tokenizer with one token a digit, trained on ``texts``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # A sum is learnt digit by digit.
    digits = pre_tokenizers.Digits(individual_digits=True)
    bytes_of_text = pre_tokenizers.ByteLevel(add_prefix_space=False)

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_of_text])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer=trainer)

    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def list_tokenizer_texts() -> Iterator[str]:
    """Return what the tokenizer is trained on: all train problems, so nano can read what it cannot answer yet."""
    for name in BENCHMARKS:
        for problem in load(name, "train").problems:
            yield f"{problem.question}\n{problem.rationale}\n\\boxed{{{problem.answer}}}"


# Texts


def draw_texts(count: int) -> Iterator[tuple[Problem, str]]:
    """Return the texts of a pretraining, the same each time: a problem, and the prompt that it is answered under."""
    rng = random.Random(SEED)
    kinds = itertools.cycle(KINDS)

    for number, (name, prompt, levels) in enumerate(itertools.islice(kinds, count)):
        problem = _draw_train_problem(rng, name, levels)
        yield replace(problem, id=f"pretraining-{number}"), prompt


def _draw_train_problem(rng: random.Random, name: str, levels: Sequence[int]) -> Problem:
    # The split follows from the problem, so it is known only once the problem is drawn.
    while True:
        problem = draw_problem(name, rng, rng.choice(levels))
        if split_of(problem.extra["key"]) == "train":
            return problem


# Training


def pretrain(preset: Preset, folder: Path) -> None:
    """Train a preset from scratch into a folder; on one machine it is the same each time."""
    from pipeline.stages.sft import deal_batches
    from pipeline.training import build_row, train_sft

    name = preset["name"]
    if processes.get_state().num_processes > 1:
        raise UserError(
            f"base {name} is not made yet, and one process makes it; run first: python -m pipeline plain --base {name}"
        )

    say(f"{name}: pretraining, once")
    tokenizer = train_tokenizer(list_tokenizer_texts())
    rows = []
    problems = {}
    with progress_bar(f"{name}: texts", preset["texts"]) as on_progress:
        for problem, prompt in draw_texts(preset["texts"]):
            answer = format_example_answer(problem, prompt)
            row = build_row(tokenizer, problem, answer, prompt)
            rows.append(row)
            # The same sum may come up again and again.
            problems[problem.question] = problem
            on_progress(1, len(row["input_ids"]))

    trainer = {**TRAINER, "learning_rate": preset.get("learning_rate", TRAINER["learning_rate"])}
    # A trainer takes the device of its model, and on a CPU would keep all later models of this process there.
    model = build_model(preset, tokenizer).to(processes.get_state().device)
    trained = train_sft(
        model,
        tokenizer,
        deal_batches(rows, TRAINER["per_device_train_batch_size"], SEED),
        trainer,
        work=folder.parent / "work",
        label=name,
        seed=SEED,
    )
    trained.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_records(folder / PRETRAINING_FILE, problems.values())


def build_model(preset: Preset, tokenizer) -> Any:
    """Return the untrained model of a preset."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    size = {key: value for key, value in preset.items() if key not in ("name", "texts", "learning_rate")}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **size,
        **SHAPE,
    )
    return LlamaForCausalLM(config)
