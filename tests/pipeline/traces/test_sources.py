"""Every source gives candidates that are verified alike, and sft mixes sources by their weights."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from data.datasets import load
from data.files import UserError, read_json, read_jsonl, write_jsonl
from data.problem import Problem, read_problems, record_to_json, write_records
from data.solutions import STYLES
from eval.steps import find_wrong_step
from pipeline.client import ChatAnswer
from pipeline.config import load_recipe
from pipeline.generate import generate
from pipeline.run_dir import RunDir
from pipeline.stage_dir import seal
from pipeline.traces.sources import choose_solutions, make_traces, name_file, parse_source, read_rationales
from pipeline.traces.verify import to_conversation

SUM = Problem("s1", "What is 92 - 88?", "4", "number", family="expression", level=2, rationale="92 - 88 = 4")
TAKES = [
    "sft.problems=[{set: arithmetic_v1, split: train, take: 60}, {set: logic_v1, split: train, take: 40}]",
    "traces.problems=[{set: arithmetic_v1, split: train, take: 8}]",
    "traces.samples=2",
    "base.load=fp32",
    "traces.teacher.url=http://127.0.0.1:1/v1",
    "traces.teacher.model=m",
]


# Of 82ff056.
EXPECTED_DRAWS = ["o35", "o20", "o53", "o51", "o10", "o33", "o50", "o59"]


@pytest.fixture
def run(tiny, tmp_path):
    """A run on the tiny base, in which nothing was trained."""
    for part in tiny:
        part.save_pretrained(tmp_path / "base")
    return SimpleNamespace(
        base_folder=tmp_path / "base",
        fingerprint="its sha256",
        dir=RunDir(tmp_path / "runs"),
        recipe=load_recipe("cpu", TAKES),
        benchmarks=[],
    )


# What sft learns from


def test_a_source_is_a_name_with_a_weight():
    parsed = {text: parse_source(text) for text in ("long", "long:2", "a/b.jsonl:.5", "short:-1", "c:/x.jsonl")}
    assert {text: (source.name, source.weight) for text, source in parsed.items()} == {
        "long": ("long", 1.0),
        "long:2": ("long", 2.0),
        "a/b.jsonl:.5": ("a/b.jsonl", 0.5),
        "short:-1": ("short:-1", 1.0),
        "c:/x.jsonl": ("c:/x.jsonl", 1.0),
    }


@pytest.fixture
def problems():
    """Train problems with their solutions."""
    return load("arithmetic_v1", "train").problems[:200]


@pytest.fixture
def file(tmp_path):
    """A file of 60 solutions, as `make traces` writes it."""
    path = tmp_path / "own.jsonl"
    solutions = [replace(SUM, id=f"o{i}", extra={"source": "own"}) for i in range(60)]
    write_jsonl(path, [to_conversation(solution) for solution in solutions])
    return path


def test_each_source_has_its_share(problems, file):
    chosen = choose_solutions(problems, ["short:2", "long", f"{file}:1"], 0)

    assert len(chosen) == len({problem.id for problem in chosen}) == 200
    assert sum(problem.extra.get("source") == "own" for problem in chosen) == 50
    pairs = [(mine, own) for mine, own in zip(chosen, problems, strict=True) if mine.id == own.id]
    changed = sum(mine.rationale != own.rationale for mine, own in pairs)
    assert 5 < changed < 60


def test_the_choice_is_what_it_always_was(problems, file):
    """Another order of random numbers would give another sft adapter."""
    chosen = choose_solutions(problems, ["short:2", "long", f"{file}:1"], 7)
    assert [problem.id for problem in chosen if problem.id.startswith("o")][:8] == EXPECTED_DRAWS


def test_a_single_style_takes_the_problems_as_they_are(problems):
    assert choose_solutions(problems, ["short"], 0) == problems
    without = [replace(problem, rationale=None) for problem in problems[:3]]
    assert choose_solutions(without, ["long"], 0) == without


@pytest.mark.parametrize(
    ("solutions", "message"),
    [
        (["shrt"], "'shrt' is no style"),
        (["short:-1", "long:2"], "'short:-1' is no style"),
        (["FILE:1", "short:1"], "100 solutions of .* are asked for, it has 60; lower its weight"),
        (["short:0"], "no source with a weight"),
    ],
)
def test_what_cannot_be_mixed_is_refused(problems, file, solutions, message):
    named = [text.replace("FILE", str(file)) for text in solutions]
    with pytest.raises(UserError, match=message):
        choose_solutions(problems, named, 0)


def test_a_file_with_a_wrong_solution_is_refused(problems, file):
    write_records(file, [replace(SUM, rationale="92 - 88 = 5\n5 - 1 = 4")])
    with pytest.raises(UserError, match="s1 has a wrong step; `make traces SOURCE="):
        choose_solutions(problems[:1], [str(file)], 0)


# make traces


@pytest.mark.parametrize("style", STYLES)
def test_every_generated_solution_is_kept_in_every_style(run, style):
    sentence = make_traces(run, style, "sft")

    file = run.dir.root / "traces" / f"{style}.jsonl"
    account = read_json(file.with_suffix(".json"))
    solutions = read_problems(file)
    assert account["candidates"] == 100
    assert len(solutions) == account["kept"]
    assert set(account["dropped"]) <= {"no steps", "more than 224 tokens"}
    assert account["kept"] >= 80
    assert sentence.startswith(f"{style}: 100 candidates, {account['kept']} kept")
    assert f'written to {file}; to train on it: make sft SET="sft.solutions=[{file}]"' in sentence


def test_what_is_written_trains_sft_and_can_be_verified_again(run, problems):
    make_traces(run, "short", "sft")
    file = run.dir.root / "traces" / "short.jsonl"
    count = len(read_problems(file))

    assert len(choose_solutions(problems[:40], [str(file)], 0)) == 40
    sentence = make_traces(run, str(file), "sft")
    assert f"{count} candidates, {count} kept" in sentence


def test_the_rationales_of_a_data_set_become_steps(tmp_path):
    rows = [
        {"id": "a", "question": "Half of 48?", "answer": "It is <<48/2=24>>24\n#### 24"},
        {"id": "b", "question": "Half of 46?", "answer": "It is <<46/2=24>>24\n#### 24"},
    ]
    path = tmp_path / "set.jsonl"
    write_jsonl(path, rows)
    source = read_rationales(f"gsm8k?file={path}")

    assert source.name == "gsm8k"
    assert "48 / 2 = 24" in source.candidates[0].completion.text
    texts = [candidate.completion.text for candidate in source.candidates]
    wrong = [find_wrong_step(c.problem, text) for c, text in zip(source.candidates, texts, strict=True)]
    assert [step and step.text for step in wrong] == [None, "46 / 2 = 24"]


def test_a_data_set_without_rationales_is_refused(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text('{"id": "a", "question": "Half of 48?", "answer": "24"}\n')
    with pytest.raises(UserError, match="no problem of it has a rationale; name its field with rationale="):
        read_rationales(str(path))


@pytest.mark.parametrize("ending", ["jsonl", "json", "txt"])
def test_a_file_gives_all_its_lines(tmp_path, ending):
    path = tmp_path / f"set.{ending}"
    rows = [{"id": f"p{i}", "question": f"{i} + 1?", "answer": str(i + 1), "rationale": "x"} for i in range(20)]
    if ending == "json":
        path.write_text(json.dumps(rows))
    else:
        write_jsonl(path, rows)
    assert len(read_rationales(str(path)).candidates) == 20


def test_our_own_set_gives_its_train_split():
    source = read_rationales("logic_v1?take=20")
    train = {problem.id for problem in load("logic_v1", "train").problems}
    assert {candidate.problem.id for candidate in source.candidates} <= train


def test_no_solution_of_a_dev_or_test_problem_is_written(run, tmp_path):
    dev = load("arithmetic_v1", "dev").problems[0]
    benchmark = Problem("b", "Zoe has 31 shells and finds 11. How many?", "42", "number", rationale="31 + 11 = 42")
    run.benchmarks = [SimpleNamespace(problems=[benchmark])]
    fine = Problem("f", "Zoe has 73 shells and finds 14. How many?", "87", "number", rationale="73 + 14 = 87")
    write_jsonl(tmp_path / "mine.jsonl", [record_to_json(problem) for problem in (dev, benchmark, fine)])

    sentence = make_traces(run, str(tmp_path / "mine.jsonl"), "sft")
    assert "mine: 3 candidates, 1 kept" in sentence
    assert "2 a problem that is held out" in sentence


def test_an_unknown_source_is_refused(run):
    with pytest.raises(UserError, match="source 'shrt' is unknown; did you mean short"):
        make_traces(run, "shrt", "sft")


def test_a_stage_without_an_adapter_has_no_samples(run):
    with pytest.raises(UserError, match="no adapter to sample from; run `make sft` first"):
        make_traces(run, "own", "sft")


def test_own_samples_are_of_the_stages_adapter_while_that_is_intact(run, tiny, monkeypatch):
    stage = run.dir.stage("sft")
    lora = LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear", task_type="CAUSAL_LM")
    trained = get_peft_model(copy.deepcopy(tiny[0]), lora).eval()
    trained.save_pretrained(stage.adapter)
    seal(stage.folder, stage.adapter.iterdir(), {"inputs": {"base": run.fingerprint}}, "training")

    asked = []

    def generate_by_it(model, tokenizer, prompts, **options):
        ids = torch.tensor([prompts[0]])
        asked.append(model(ids.to(model.device)).logits.cpu())
        assert torch.allclose(asked[-1], trained(ids).logits, atol=1e-4)
        return generate(model, tokenizer, prompts, **options)

    monkeypatch.setattr("pipeline.traces.sample.generate", generate_by_it)
    sentence = make_traces(run, "own", "sft")

    assert asked
    assert "own_sft: 16 candidates, " in sentence
    account = read_json(run.dir.root / "traces" / "own_sft.json")
    assert account["candidates"] == account["kept"] + sum(account["dropped"].values())

    weights = stage.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="adapter_model.safetensors"):
        make_traces(run, "own", "sft")


def test_a_teachers_texts_are_verified(run, monkeypatch):
    solutions = {problem.question: problem for problem in load("arithmetic_v1", "train").problems}

    def chat(self, messages, **options):
        problem = solutions[messages[-1]["content"]]
        answer = problem.answer if options["seed"] == 0 else "-1"
        return ChatAnswer(f"{problem.rationale}\n\\boxed{{{answer}}}", "stop")

    monkeypatch.setattr("pipeline.client.Client.chat", chat)
    sentence = make_traces(run, "teacher", "sft")

    assert "teacher: 16 candidates" in sentence
    assert "8 a wrong answer" in sentence
    for _, row in read_jsonl(run.dir.root / "traces" / "teacher.jsonl"):
        assert row["source"] == "teacher"


def test_a_teacher_without_an_address_is_refused(run):
    run.recipe = load_recipe("cpu")
    with pytest.raises(UserError, match="no address or no model; set SET="):
        make_traces(run, "teacher", "sft")


def test_the_key_of_a_teacher_is_never_written(run, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    monkeypatch.setattr("pipeline.client.Client.chat", lambda self, *_, **__: ChatAnswer("No.", "stop"))
    make_traces(run, "teacher", "sft")

    for path in Path(run.dir.root).rglob("*"):
        assert path.is_dir() or "secret" not in path.read_text()


def test_each_source_has_a_file_of_its_own():
    names = ["short", "own", "gsm8k?split=test", "gsm8k", "a/short.jsonl", "a/teacher.jsonl", "teacher"]
    names += ["teacher.jsonl", "short.jsonl", "own_sft.jsonl", "a/b.jsonl", "a_b.jsonl", "a/b"]
    assert len({name_file(name, "sft") for name in names}) == len(names)


def test_the_keys_of_a_data_set_go_for_a_source_too(tmp_path):
    write_jsonl(tmp_path / "f.jsonl", [{"id": "a", "q": "What is 1 + 1?", "answer": "2", "rationale": "1 + 1 = 2"}])
    source = read_rationales(f"{tmp_path}/f.jsonl?question=q")
    assert source.candidates[0].problem.question == "What is 1 + 1?"
