"""``nano``: a base of about half a million parameters, pretrained here from scratch, for tests and quick trials.

Its text is our own and of the train split: additions and subtractions, a single one answered at once under the
``plain`` prompt, one or two with steps under the ``cot`` prompt; everything else only as text to read. It never saw a
think tag and was never asked for a product, a word problem or logic, so the later rungs have something to add.
"""

import hashlib
import itertools
import json
import random
from pathlib import Path
from typing import Any

from data import arithmetic, logic
from data.build import load
from data.records import BadInput, Problem
from data.splits import split_of
from pipeline import prompts
from pipeline.recipe import SftSettings

SEED = 0
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", prompts.THINK, prompts.END_THINK]
SPECIAL += prompts.INSTRUCTIONS.values()  # one token each: half of a row would be the instruction
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
    # A problem is 20 to 50 tokens long: after a minute the loss was 0.30 nats a token with theta 30, 0.32 and 0.38 with
    # 100, 0.41 with 10,000. At an initializer range of 0.02 it stayed at 0.8 (0.08 is about 1 / sqrt(hidden_size)).
    rope_parameters={"rope_type": "default", "rope_theta": 30.0},
    initializer_range=0.08,
)
VOCABULARY = 1024
TEXTS = 64_000
SETTINGS = SftSettings(
    learning_rate=3e-3, adam_beta2=0.98, batch_size=16, epochs=1, warmup_steps=50, save_steps=100_000
)


def recipe_hash() -> str:
    """Names the cached model: it changes with anything above or with the prompts' wording."""
    recipe = [SEED, SPECIAL, TEMPLATE, SHAPE, VOCABULARY, TEXTS, KINDS, LEVELS, repr(SETTINGS)]
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


KINDS = ("plain", "cot", "plain", "cot", "plain", "cot", "read")  # of texts, in turn
LEVELS = {"plain": ((1, 2), (1, 6)), "cot": ((1, 2, 3), (1, 5, 4))}  # of sums, and their weights


def text(rng: random.Random, kind: str) -> tuple[Problem, str]:
    """A problem of a key in the train split, and what nano is to write: the answer to a sum asked under the prompt
    ``kind``, or for "read" a problem of any kind with its steps and answer."""
    while True:
        if kind == "read":
            problem = (arithmetic if rng.random() < 0.5 else logic).make(rng, rng.choice((1, 2, 3)))
        else:
            [level] = rng.choices(*LEVELS[kind])
            problem = arithmetic.make(rng, level, "expression")
        asked_too_much = kind != "read" and set("*/") & set(problem.question)
        if not asked_too_much and split_of(problem.extra["key"]) == "train":
            return problem, (
                f"{problem.question}\n{problem.rationale}\n{problem.answer}"
                if kind == "read"
                else prompts.exemplar_answer(problem, kind)
            )


def row(tokenizer, problem: Problem, written: str, kind: str) -> dict[str, list[int]]:
    """The tokens of one text; what is read is learnt from its first token on."""
    from pipeline import sft  # which loads all that training needs, and most commands only look nano up

    if kind != "read":
        return sft.tokenized(tokenizer, [(problem, written)], kind)[0]
    ids = [*prompts.encode(tokenizer, written), tokenizer.eos_token_id]
    return {"input_ids": ids, "completion_mask": [1] * len(ids)}


def pretrain(folder: Path) -> None:
    """Train nano from scratch into ``folder``; deterministic for ``SEED`` on one machine."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline import processes, sft
    from pipeline.callbacks import training_bar
    from pipeline.progress import bar, say

    if processes.state().num_processes > 1:
        raise BadInput(
            "base nano is not made yet, and one process makes it; first: python -m pipeline plain --base nano"
        )
    say("nano: pretraining, once")
    texts = load("arithmetic_v1", "train") + load("logic_v1", "train")  # nano can read what it cannot yet answer
    tokenizer = tokenizer_of([f"{p.question}\n{p.rationale}\n\\boxed{{{p.answer}}}" for p in texts])
    rng, kinds = random.Random(SEED), itertools.islice(itertools.cycle(KINDS), TEXTS)
    rows = []
    with bar("nano's texts", TEXTS) as advance:
        for kind in kinds:
            rows.append(row(tokenizer, *text(rng, kind), kind))
            advance(1, len(rows[-1]["input_ids"]))
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
