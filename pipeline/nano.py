"""``nano``: a base of about half a million parameters, pretrained here from scratch, for tests and quick trials.

Its text is our own: train problems of the lower levels, answered at once under the ``plain`` prompt and with steps
under the ``cot`` prompt. It never saw a think tag or a hard problem, so every later rung has something to add.
"""

import hashlib
import json
import random
from pathlib import Path

from data.splits import build
from pipeline import prompts
from pipeline.recipe import SftSettings

SEED = 0
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", prompts.THINK, prompts.END_THINK]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHAPE = dict(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=1024,
    tie_word_embeddings=True,
)
VOCABULARY = 1024
LEVELS = 3
PROBLEMS = {"arithmetic_v1": 2400, "logic_v1": 800}  # a level
SETTINGS = SftSettings(learning_rate=4e-3, batch_size=64, epochs=2, warmup_steps=20, save_steps=100_000)


def recipe_hash() -> str:
    """Names the cached model: it changes with anything above or with the prompts' wording."""
    recipe = [SEED, SPECIAL, TEMPLATE, SHAPE, VOCABULARY, LEVELS, PROBLEMS, repr(SETTINGS), prompts.INSTRUCTIONS]
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


def pretrain(folder: Path) -> None:
    """Train nano from scratch into ``folder``; deterministic for ``SEED`` on one machine."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline import sft
    from pipeline.progress import training_bar

    problems = [
        problem
        for benchmark, per_level in PROBLEMS.items()
        for problem in build(benchmark, "train", per_level, seed=1)
        if problem.level <= LEVELS
    ]
    random.Random(SEED).shuffle(problems)
    instructions = list(prompts.INSTRUCTIONS.values())
    tokenizer = tokenizer_of(instructions + [f"{p.question}\n{p.rationale}\n\\boxed{{{p.answer}}}" for p in problems])
    rows = []
    for index, problem in enumerate(problems):
        prompt = "cot" if index % 2 else "plain"
        rows += sft.tokenized(tokenizer, [(problem, prompts.exemplar_answer(problem, prompt))], prompt)
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
