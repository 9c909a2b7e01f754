"""``nano``: a base of about half a million parameters, pretrained here from scratch, for tests and quick trials.

Its text is our own and of the train split: additions and subtractions, a single one with a direct answer under the
``plain`` prompt, one or two with steps under the ``cot`` prompt; everything else only as text to read. It never saw a
think tag and was never asked for a product, a word problem or logic, so the later stages have something to add.

``nano-tiny`` is the same recipe in less than a minute, for tests that need a model that runs, not one that can do much.
"""

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import arithmetic, logic
from data.datasets import BENCHMARKS, load
from data.files import UserError, sha256_json
from data.problem import Problem
from data.splits import split_of
from pipeline import processes
from pipeline.progress import progress_bar, say
from pipeline.prompts import END_THINK, INSTRUCTIONS, THINK, encode_text, format_example_answer

SEED = 0

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
    "learning_rate": 3e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 50,
    "weight_decay": 0.0,
    "adam_beta2": 0.98,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "logging_steps": 10,
    "save_strategy": "no",
}

# What each text is, in turn: a problem under one of the prompts, or one that is only read.
KINDS = ("plain", "cot", "plain", "cot", "plain", "cot", "read")

# Of sums by kind: the levels, and how often each is drawn.
LEVELS = {"plain": (1, 2), "cot": (1, 2, 3)}
LEVEL_WEIGHTS = {"plain": (1, 6), "cot": (1, 5, 4)}
READ_LEVELS = (1, 2, 3)


Preset = dict[str, Any]

# A size of the model, in keys of LlamaConfig, and how many texts it is trained on.
PRESETS: dict[str, Preset] = {
    "nano": {
        "name": "nano",
        "texts": 64_000,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "nano-tiny": {
        "name": "nano-tiny",
        "texts": 6_000,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
}


def hash_preset(preset: Preset) -> str:
    """Return what names a preset's model in the cache: it changes with anything above or the prompts' wording."""
    recipe = [SEED, SPECIAL_TOKENS, VOCABULARY, TEMPLATE, SHAPE, TRAINER, KINDS, LEVELS, LEVEL_WEIGHTS, READ_LEVELS]
    return sha256_json([*recipe, preset])[:12]


def train_tokenizer(texts: Iterable[str]) -> Any:
    """Return a byte-level BPE tokenizer with one token a digit, trained on ``texts``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

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


@dataclass(frozen=True)
class Text:
    """What nano is to write on a problem, under the prompt ``kind``; or to read, where the kind is "read"."""

    problem: Problem
    content: str
    kind: str


def draw_texts(count: int) -> Iterator[Text]:
    """Return the texts of a pretraining, the same each time."""
    rng = random.Random(SEED)
    for kind in itertools.islice(itertools.cycle(KINDS), count):
        yield _draw_reading(rng) if kind == "read" else _draw_sum(rng, kind)


def _draw_reading(rng: random.Random) -> Text:
    """A problem of any kind with its steps and answer."""
    while True:
        generator = arithmetic if rng.random() < 0.5 else logic
        problem = generator.draw_problem(rng, rng.choice(READ_LEVELS))
        if _is_for_training(problem):
            content = f"{problem.question}\n{problem.rationale}\n{problem.answer}"
            return Text(problem, content, "read")


def _draw_sum(rng: random.Random, kind: str) -> Text:
    """A sum, and its answer under a prompt."""
    while True:
        [level] = rng.choices(LEVELS[kind], LEVEL_WEIGHTS[kind])
        problem = arithmetic.draw_problem(rng, level, "expression")

        # Products are left for the later stages.
        has_product = bool(set("*/") & set(problem.question))
        if not has_product and _is_for_training(problem):
            return Text(problem, format_example_answer(problem, kind), kind)


def _is_for_training(problem: Problem) -> bool:
    return split_of(problem.extra["key"]) == "train"


def build_text_row(tokenizer, text: Text) -> dict[str, list[int]]:
    """Return the tokens of a text; one to read is learned from its first token on."""
    # It loads all that training needs, and most commands only look the base up.
    from pipeline.training import build_row

    if text.kind != "read":
        return build_row(tokenizer, text.problem, text.content, text.kind)

    # Text to read has no prompt.
    ids = [*encode_text(tokenizer, text.content), tokenizer.eos_token_id]
    return {"input_ids": ids, "completion_mask": [1] * len(ids)}


# Training


def pretrain(preset: Preset, folder: Path) -> None:
    """Train a preset from scratch into a folder; on one machine it is the same each time."""
    from pipeline.stages.sft import deal_batches
    from pipeline.training import train_sft

    name = preset["name"]
    if processes.get_state().num_processes > 1:
        raise UserError(
            f"base {name} is not made yet, and one process makes it; run first: python -m pipeline plain --base {name}"
        )

    say(f"{name}: pretraining, once")
    tokenizer = train_tokenizer(list_tokenizer_texts())
    rows = []
    with progress_bar(f"{name}: texts", preset["texts"]) as on_progress:
        for text in draw_texts(preset["texts"]):
            row = build_text_row(tokenizer, text)
            rows.append(row)
            on_progress(1, len(row["input_ids"]))

    trained = train_sft(
        build_model(preset, tokenizer),
        tokenizer,
        deal_batches(rows, TRAINER["per_device_train_batch_size"], SEED),
        TRAINER,
        work=folder.parent / "work",
        label=name,
        seed=SEED,
    )
    trained.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_model(preset: Preset, tokenizer) -> Any:
    """Return the untrained model of a preset."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    size = {key: value for key, value in preset.items() if key not in ("name", "texts")}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **size,
        **SHAPE,
    )
    return LlamaForCausalLM(config)
