"""What nano reads and writes in its pretraining, and that nano-tiny can be made and loaded."""

import hashlib
from collections import Counter

from data.splits import split_of
from pipeline.models import nano
from pipeline.models.load import load_model, resolve
from pipeline.models.nano import PRESETS, build_model, build_text_row, draw_texts, hash_preset
from pipeline.prompts import DIRECT, THINK

# Of the first 1,000 texts at 82ff056: another order of random numbers would give another base.
TEXTS_SHA256 = "a54415324f5d8ba02a29a2b9fc648093aa7cd20a431544e27358bd4707dbef9f"


def test_the_texts_are_what_they_always_were():
    digest = hashlib.sha256()
    for text in draw_texts(1000):
        digest.update(f"{text.problem.question}|{text.content}|{text.kind}\n".encode())
    assert digest.hexdigest() == TEXTS_SHA256


def test_nano_is_asked_for_sums_of_the_train_split_only():
    texts = list(draw_texts(700))
    assert Counter(text.kind for text in texts) == {"plain": 300, "cot": 300, "read": 100}

    for text in texts:
        assert split_of(text.problem.extra["key"]) == "train"
        assert THINK not in text.content
        if text.kind != "read":
            assert text.problem.family == "expression"
            assert not set("*/") & set(text.problem.question)


def test_a_text_to_read_is_learned_whole_and_an_answer_after_its_prompt(tiny):
    tokenizer = tiny[1]
    rows = {text.kind: build_text_row(tokenizer, text) for text in draw_texts(7)}

    assert all(rows["read"]["completion_mask"])
    for kind in ("plain", "cot"):
        ids, mask = rows[kind]["input_ids"], rows[kind]["completion_mask"]
        answer = [token for token, counts in zip(ids, mask, strict=True) if counts]
        assert answer[-1] == tokenizer.eos_token_id
        assert "\\boxed{" in tokenizer.decode(answer)
        assert not all(mask)


def test_the_tokenizer_has_one_token_a_digit_and_one_a_tag(tiny):
    tokenizer = tiny[1]
    assert len(tokenizer("1234567")["input_ids"]) == 7
    assert len(tokenizer(DIRECT.strip())["input_ids"]) == 2


def test_a_changed_recipe_has_another_name_in_the_cache(monkeypatch):
    preset = PRESETS["nano"]
    names = {hash_preset(preset), hash_preset(preset | {"texts": 1}), hash_preset(PRESETS["nano-tiny"])}
    monkeypatch.setattr(nano, "SEED", 1)
    names.add(hash_preset(preset))
    assert len(names) == 4


def test_presets_have_the_size_that_they_say(tiny):
    sizes = {}
    for name, preset in PRESETS.items():
        sizes[name] = sum(weights.numel() for weights in build_model(preset, tiny[1]).parameters())
    assert 400_000 < sizes["nano"] < 600_000
    assert sizes["nano-tiny"] < 200_000


def test_nano_tiny_is_pretrained_once_and_loads():
    folder = resolve("nano-tiny")
    model, tokenizer = load_model(folder, load="fp32")

    assert folder.name == f"nano-tiny-{hash_preset(PRESETS['nano-tiny'])}"
    assert model.config.num_hidden_layers == 2
    assert tokenizer.chat_template == nano.TEMPLATE
    assert resolve("nano-tiny") == folder
