"""The page of a run or of several: all is in it, and nothing that a model wrote is markup."""

import base64
import dataclasses
import json
import random
import re
import zlib

import pytest

from data.files import UserError
from eval.report import render_report
from eval.run_view import TrainingLog


def read_answers(page):
    """The problems, with their answers, that a page holds."""
    [packed] = re.findall(r'id="data">([A-Za-z0-9+/=]+)</script>', page)
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def list_answers(page):
    return [answer for problem in read_answers(page) for answer in problem["answers"]]


def replace_stage(view, number, **changes):
    stages = list(view.stages)
    stages[number] = dataclasses.replace(stages[number], **changes)
    return dataclasses.replace(view, stages=stages)


def test_the_page_has_the_table_the_levels_the_curves_and_what_was_run(make_view, answer_correctly):
    view = make_view("base", ["sft", "rl"], 20, answer_correctly)
    curve = [{"step": step, "accuracy": 0.5, "tokens": 40.0, "n": 8} for step in (0, 2)]
    log = [{"step": step, "reward": 0.4, "loss": 0.1} for step in (1, 2)]
    page = render_report([replace_stage(view, 1, trainings=[TrainingLog("", curve, log)])])

    for words in ("100.0 [83.9, 100.0]", "majority", "tokens on dev", "torch 2.13.0", "rl:\n  seed: 1"):
        assert words in page
    assert page.count("2026-11-24 10:00") == 2
    assert page.count("a processor, 2 cores, 23.5 GiB") == 2

    # Two of the cost, one of the curves.
    assert page.count("<svg") == 3
    assert len(re.findall(r'<td style="--v: 1.000"><a href="#benchmark=arithmetic_v1&amp;level=1&amp;', page)) == 2
    assert "Between the runs" not in page
    assert 'name="run"' not in page


def test_expert_iteration_is_drawn_by_rounds_and_grpo_after_it_by_itself(make_view, answer_correctly):
    view = make_view("base", ["rl"], 5, answer_correctly)
    rounds = TrainingLog("", [{"round": number, "accuracy": 0.5} for number in (0, 1)], [{"step": 90, "loss": 1.0}])
    grpo = TrainingLog("grpo", [{"step": 6, "accuracy": 0.5}], [{"step": 1, "reward": 0.4}])

    page = render_report([replace_stage(view, 0, trainings=[rounds])])
    assert (page.count(">round</text>"), page.count(">step</text>")) == (1, 1)

    page = render_report([replace_stage(view, 0, trainings=[rounds, grpo])])
    assert (page.count(">round</text>"), page.count(">step</text>")) == (1, 3)
    assert "Learning curves of rl, grpo" in page


def test_stage_5_is_drawn_by_shares_of_its_training(make_view, answer_correctly):
    view = make_view("base", ["adaptive"], 5, answer_correctly)
    shares = TrainingLog("", [{"share": share, "accuracy": 0.5, "tokens": 9.0} for share in (0, 0.5, 1)], [])

    page = render_report([replace_stage(view, 0, trainings=[shares])])

    assert page.count(">share</text>") == 2
    assert ">step</text>" not in page


def test_the_page_fetches_nothing_and_may_not(make_view, answer_correctly):
    page = render_report([make_view("base", ["sft"], 5, answer_correctly)])

    assert not re.search(r'(src|href|action)="(?!#)', page)
    assert not re.search(r"url\((?!#)|@import", page)
    assert page.index("default-src 'none'") < page.index("<style")
    assert "'unsafe-inline'; script-src 'sha256-" in page


def test_every_answer_is_there_with_its_verdict_and_kind(make_view, answer_correctly):
    def write(problem):
        return answer_correctly(problem) if problem.level > 1 else f"{problem.id} is 3 + 4 = 8"

    problems = read_answers(render_report([make_view("base", ["sft", "rl"], 20, write)]))
    assert len(problems) == 40

    for problem in problems:
        assert [answer["stage"] for answer in problem["answers"]] == ["sft", "rl"]
        for answer in problem["answers"]:
            if problem["level"] > 1:
                assert (answer["verdict"], answer["kind"]) == ("correct", "")
                assert answer["rest"] == f"\\boxed{{{problem['answer']}}}"
                assert answer["extracted"] == problem["answer"]
                assert answer["thought"]
            else:
                assert answer["verdict"] != "correct"
                assert (answer["kind"], answer["thought"]) == ("slip", "")


def test_a_correct_answer_through_a_wrong_step_has_a_kind_of_its_own(make_view):
    view = make_view("base", ["sft"], 5, lambda p: f"<think>\n3 + 4 = 8\n</think>\n\\boxed{{{p.answer}}}")
    page = render_report([view])

    assert {answer["kind"] for answer in list_answers(page)} == {"through a wrong step"}
    assert page.count("<th>correct</th>") == page.count("<th>through a wrong step</th>") == 2


def test_several_runs_stand_on_one_page(make_view, answer_correctly):
    first = make_view("first", ["plain", "sft"], 20, lambda p: "nothing")
    second = make_view("second", ["plain"], 20, answer_correctly)
    page = render_report([first, second])

    assert "Between the runs" in page
    assert 'name="run"' in page
    assert "<title>Ladder: first, second</title>" in page

    for problem in read_answers(page):
        answers = [(answer["label"], answer["verdict"] == "correct") for answer in problem["answers"]]
        assert answers == [("first plain", False), ("first sft", False), ("second plain", True)]

    with pytest.raises(UserError, match="different problems"):
        render_report([first, make_view("other", ["plain"], 10, answer_correctly)])


@pytest.mark.parametrize("start", ["", "</script>", "\ud800<!--<script>"])
def test_what_a_model_wrote_is_never_markup(make_view, hostile_text, start):
    view = make_view('<b>"$x^{$', ["plain"], 5, lambda p: start + hostile_text)
    page = render_report([view, dataclasses.replace(view, name="other")])

    assert page.count("<script") == page.count("</script>") == 2
    assert "&lt;b&gt;" in page
    for words in ("<img", "<b>", "owned"):
        assert words not in page
    assert {answer["rest"] for answer in list_answers(page)} == {start + hostile_text}


def test_five_stages_and_a_thousand_problems_stay_below_five_megabytes(make_view):
    # Longer than the limit of the recipes, and without the repetitions that help to pack what models write.
    words = [str(number) for number in range(1000)] + ["so", "the", "is", "of", "then", "we", "have"] * 100
    rng = random.Random(0)
    stages = ["plain", "cot", "sft", "rl", "adaptive"]
    page = render_report([make_view("base", stages, 500, lambda p: " ".join(rng.choices(words, k=250)))])

    texts = [answer["rest"] for answer in list_answers(page)]
    assert len(texts) == 5000
    assert sum(map(len, texts)) > 4_000_000
    assert len(page) < 5_000_000


def test_a_training_that_went_wrong_has_the_curves_that_can_be_drawn(make_view, answer_correctly):
    view = make_view("base", ["sft"], 5, answer_correctly)
    curve = [{"step": 1, "accuracy": 0.5}]
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": float("nan"), "entropy": float("inf")}]

    page = render_report([replace_stage(view, 0, trainings=[TrainingLog("", curve, log)])])
    assert page.count("<svg") == 3
    assert "entropy</text>" not in page
    assert render_report([view]).count("<svg") == 2
