"""Sampling goes on where it was interrupted and ends the same, from a model of ours or a teacher."""

from threading import Barrier, Lock

import pytest

from data.datasets import load
from data.files import UserError, read_appended_jsonl
from pipeline.client import ChatAnswer, RequestLimit
from pipeline.traces import sample
from pipeline.traces.sample import plan_draws, sample_candidates, sample_teacher

GENERATION = {"max_new_tokens": 8, "temperature": 1.0}


@pytest.fixture
def problems():
    """A few train problems."""
    return load("arithmetic_v1", "train").problems[:10]


# A model of ours


@pytest.fixture
def batches(monkeypatch):
    """The sizes of the batches that are generated, as they come, in parts of 8."""
    sizes = []
    original = sample.generate

    def count(model, tokenizer, prompts, **options):
        sizes.append(len(prompts))
        return original(model, tokenizer, prompts, **options)

    monkeypatch.setattr(sample, "generate", count)
    monkeypatch.setattr(sample, "PART_SIZES", {"cpu": 8})
    return sizes


def test_an_interrupted_sampling_goes_on_and_ends_the_same(tiny, problems, batches, tmp_path):
    whole = sample_candidates(*tiny, problems, 3, GENERATION, 0, tmp_path / "whole")
    assert len(whole) == 30
    assert batches == [8, 8, 8, 6]

    # A kill in the middle of a line.
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut").write_bytes(b"".join(lines[:16]) + lines[16][:20])
    batches.clear()

    assert sample_candidates(*tiny, problems, 3, GENERATION, 0, tmp_path / "cut") == whole
    assert batches == [8, 6]
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_candidates_stand_by_problem_with_the_models_tokens(tiny, problems, tmp_path):
    progress = []
    candidates = sample_candidates(
        *tiny, problems, 2, GENERATION, 0, tmp_path / "file", lambda *counts: progress.append(counts)
    )

    assert [candidate.problem for candidate in candidates[::2]] == problems
    assert [candidate.problem for candidate in candidates[1::2]] == problems
    completions = [candidate.completion for candidate in candidates]
    assert all(c.id == candidate.problem.id for c, candidate in zip(completions, candidates, strict=True))
    assert all(0 < c.thinking_tokens + c.answer_tokens <= 8 for c in completions)
    assert sum(texts for texts, _ in progress) == 20
    assert len({completion.text for completion in completions}) > 10


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"origin": "another"}, {"generation": GENERATION | {"temperature": 2.0}}]
)
def test_texts_that_come_from_something_else_are_not_taken(tiny, problems, batches, tmp_path, change):
    arguments = {"samples": 1, "generation": GENERATION, "seed": 0, "partial_file": tmp_path / "file"}
    first = sample_candidates(*tiny, problems, **arguments)
    batches.clear()

    second = sample_candidates(*tiny, problems, **(arguments | change))
    assert sum(batches) == 10
    assert second != first
    # Both are kept side by side.
    batches.clear()
    assert sample_candidates(*tiny, problems, **arguments) == first
    assert batches == []


def test_every_draw_has_a_key_of_its_own(problems):
    keys = {draw.key for draw in plan_draws(problems, 3, ["a"])}
    assert len(keys) == 30
    assert not keys & {draw.key for draw in plan_draws(problems, 3, ["b"])}


# A teacher


class Teacher:
    """Answers with the seed, until its requests are used up or it fails."""

    model = "m"

    def __init__(self, limit=1000, failing=False, together=1):
        self.limit = limit
        self.failing = failing
        self.barrier = Barrier(together)
        self.lock = Lock()
        self.seeds = []

    def chat(self, messages, *, max_tokens, temperature, seed):
        self.barrier.wait(timeout=5)
        with self.lock:
            if len(self.seeds) >= self.limit:
                if self.failing:
                    raise UserError("server: no answer")
                raise RequestLimit
            self.seeds.append(seed)
        return ChatAnswer(f"{messages[-1]['content']} {seed}", "stop")


@pytest.fixture
def ask(problems, tmp_path):
    """The function that asks a teacher two texts of each problem."""

    def run(teacher, concurrency=1, max_tokens=64):
        return sample_teacher(
            teacher,
            problems,
            2,
            max_tokens=max_tokens,
            temperature=0.7,
            concurrency=concurrency,
            partial_file=tmp_path / "file",
        )

    return run


def test_a_teachers_texts_are_asked_for_once(ask, problems):
    teacher = Teacher()
    candidates = ask(teacher)

    assert [candidate.completion.text for candidate in candidates[:2]] == [
        f"{problems[0].question} {i}" for i in (0, 1)
    ]
    assert teacher.seeds == [0, 1] * 10
    assert ask(teacher) == candidates
    assert len(teacher.seeds) == 20


def test_several_requests_are_under_way_together(ask):
    # Each request waits for three others, so one after the other would break the barrier.
    assert len(ask(Teacher(together=4), concurrency=4)) == 20


def test_used_up_requests_end_the_sampling_and_the_next_one_goes_on(ask):
    first = ask(Teacher(limit=5))
    assert len(first) == 5

    more = Teacher()
    assert ask(more)[:5] == first
    assert len(more.seeds) == 15


def test_what_came_before_a_failure_is_kept(ask, tmp_path):
    with pytest.raises(UserError, match="no answer"):
        ask(Teacher(limit=5, failing=True))

    assert len(read_appended_jsonl(tmp_path / "file")) == 5
    more = Teacher()
    assert len(ask(more)) == 20
    assert len(more.seeds) == 15


def test_another_request_is_another_text(ask):
    ask(Teacher())
    other = Teacher()
    ask(other, max_tokens=65)
    assert len(other.seeds) == 20
