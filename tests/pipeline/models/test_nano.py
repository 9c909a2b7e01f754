"""What nano is pretrained on, and that nano-tiny can be made and loaded."""

import hashlib
from collections import Counter

from data.contamination import find_overlaps
from data.datasets import load
from data.problem import read_problems
from data.splits import split_of
from pipeline.models import nano
from pipeline.models.load import load_model, resolve
from pipeline.models.nano import PRESETS, PRETRAINING_FILE, build_model, draw_texts, hash_preset
from pipeline.prompts import DIRECT

# Of the first 1,000 texts: another order of random numbers would give another base.
TEXTS_SHA256 = "fb7e85c263f1ef8db2365efce7af5360fe6a909c1808b39956a3b314ad53b318"


def test_the_texts_are_what_they_always_were():
    digest = hashlib.sha256()
    for problem, prompt in draw_texts(1000):
        digest.update(f"{problem.question}|{problem.rationale}|{problem.answer}|{prompt}\n".encode())
    assert digest.hexdigest() == TEXTS_SHA256


def test_the_texts_are_short_problems_of_the_train_split_that_give_no_benchmark_away():
    texts = list(draw_texts(700))
    problems = [problem for problem, _ in texts]

    assert Counter((problem.family, prompt) for problem, prompt in texts) == {
        ("sum", "cot"): 300,
        ("sum", "plain"): 100,
        ("boolean", "plain"): 100,
        ("boolean", "cot"): 100,
        ("sum", "think"): 50,
        ("boolean", "think"): 50,
    }
    assert {problem.level for problem, prompt in texts if prompt == "think"} == {1}
    assert {problem.level for problem in problems} == {1, 2, 3}
    assert {split_of(problem.extra["key"]) for problem in problems} == {"train"}

    for name in ("sums_v1", "booleans_v1"):
        assert find_overlaps(problems, load(name, "dev").problems + load(name, "test").problems) == []


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


def test_nano_tiny_is_pretrained_once_and_loads(tmp_path, monkeypatch):
    # Not the one that other tests, or the user, have in the cache.
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    folder = resolve("nano-tiny")
    model, tokenizer = load_model(folder, load="fp32")

    assert folder.name == f"nano-tiny-{hash_preset(PRESETS['nano-tiny'])}"
    assert model.config.num_hidden_layers == 2
    assert tokenizer.chat_template == nano.TEMPLATE
    assert resolve("nano-tiny") == folder

    # What it read, each problem once.
    questions = [problem.question for problem in read_problems(folder / PRETRAINING_FILE)]
    assert len(set(questions)) == len(questions)
    texts = draw_texts(PRESETS["nano-tiny"]["texts"])
    assert set(questions) == {problem.question for problem, _ in texts}
