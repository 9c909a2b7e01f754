"""``nano``: a base of about half a million parameters, pretrained here from scratch, for tests and quick trials.

Its text is our own and of the train split: easy sums, answered at once under the ``plain`` prompt and with steps under
the ``cot`` prompt; word problems and logic only as text to read. It never saw a think tag and was never asked a
question of logic, so the later rungs have something to add.
"""

import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data import arithmetic, logic
from data.build import load
from data.records import Problem
from data.splits import split_of
from pipeline import prompts, sft
from pipeline.recipe import SftSettings

SEED = 0
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", prompts.THINK, prompts.END_THINK]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHAPE: dict[str, Any] = dict(
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
    initializer_range=0.08,  # about 1 / sqrt(hidden_size): at 0.02 it did not learn to copy a number in this time
)
VOCABULARY = 512
TEXTS = 40_000
SETTINGS = SftSettings(learning_rate=3e-3, batch_size=32, epochs=1, warmup_steps=50, save_steps=100_000)


def recipe_hash() -> str:
    """Names the cached model: it changes with anything above or with the prompts' wording."""
    recipe = [SEED, SPECIAL, TEMPLATE, SHAPE, VOCABULARY, TEXTS, repr(SETTINGS), prompts.INSTRUCTIONS]
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def tokenizer_of(texts: list[str]):
    """A byte-level BPE tokenizer with one token a digit, trained on ``texts``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def problems(rng: random.Random) -> Iterator[Problem]:
    """Easy problems for ever, none of a key outside the train split; of five, three are sums."""
    for turn in itertools.cycle(range(5)):
        if turn < 3:
            problem = arithmetic.make(rng, 2 if turn == 2 else 1, "expression")
        else:
            problem = (arithmetic if rng.random() < 0.3 else logic).make(rng, rng.choice((1, 2)))
        if split_of(problem.extra["key"]) == "train":
            yield problem


def row(tokenizer, problem: Problem, prompt: str) -> dict[str, list[int]]:
    """A sum as a question under ``prompt``, anything else as text to read."""
    if problem.family == "expression":
        [asked] = sft.tokenized(tokenizer, [(problem, prompts.exemplar_answer(problem, prompt))], prompt)
        return asked
    text = f"{problem.question}\n{problem.rationale}\n{problem.answer}"
    ids = [*prompts.encode(tokenizer, text), tokenizer.eos_token_id]
    return {"input_ids": ids, "completion_mask": [1] * len(ids)}


def pretrain(folder: Path) -> None:
    """Train nano from scratch into ``folder``; deterministic for ``SEED`` on one machine."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline.progress import training_bar

    drawn = itertools.islice(problems(random.Random(SEED)), TEXTS)
    instructions = list(prompts.INSTRUCTIONS.values())
    texts = load("arithmetic_v1", "train") + load("logic_v1", "train")  # nano can read what it cannot yet answer
    tokenizer = tokenizer_of(instructions * 50 + [f"{p.question}\n{p.rationale}\n\\boxed{{{p.answer}}}" for p in texts])
    rows = [row(tokenizer, problem, "cot" if i % 2 else "plain") for i, problem in enumerate(drawn)]
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **SHAPE,
    )
    model = LlamaForCausalLM(config)
    trained = sft.train(
        model, tokenizer, rows, SETTINGS, SEED, folder.parent / "checkpoints", callbacks=[training_bar("nano")]
    )
    trained.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
