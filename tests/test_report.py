"""The page of a run or of several: all is in it, and nothing a model wrote is markup. test_browser.py opens it."""

import base64
import json
import random
import re
import zlib

import pytest

from data.build import load
from data.records import BadInput, Completion, write_json, write_records
from eval import report
from eval.grade import grade_all
from eval.score import score

HOSTILE = '<script>document.title="owned"</script><img src=x onerror=alert(1)>{{ 7 * 7 }}</article>'

MACHINE = {"gpu": None, "processor": "a processor", "cores": 2, "memory_gib": 23.5}
TRAINED = {"hardware": MACHINE, "versions": {"torch": "2.13.0"}, "seconds": 12.0, "commit": "abcdef0123456"}


def a_run(folder, stages, n, text):
    """A run of stages whose every completion is ``text(problem)``."""
    for stage in stages:
        entries = []
        for name in ("arithmetic_v1", "logic_v1"):
            problems = load(name, "test")[:n]
            completions = [Completion(p.id, text(p), 9, 20, 5, "stop") for p in problems]
            grades = grade_all(problems, completions)
            files = {"completions": f"completions/{name}.jsonl", "grades": f"grades/{name}.jsonl"}
            write_records(folder / "problems" / f"{name}.jsonl", problems)
            write_records(folder / stage / files["completions"], completions)
            write_records(folder / stage / files["grades"], grades)
            about = {"benchmark": name, "benchmark_sha256": "s"} | files
            entries.append(about | score(problems, completions, grades, 1.0))
        variants = [{"variant": "zero-shot", "prompt": "think", "shots": 0, "benchmarks": entries}]
        write_json(folder / stage / "scores.json", {"stage": stage, "extraction": 1, "variants": variants})
    return folder


def right(problem):
    return f"<think>\n{problem.rationale}\n</think>\n\\boxed{{{problem.answer}}}"


def answers_of(page):
    """The problems, with their answers, that a page holds."""
    [packed] = re.findall(r'id="data">([A-Za-z0-9+/=]+)</script>', page)
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def page_of(*runs):
    """The page of runs, each named by its folder."""
    out = runs[0].parent / "page.html"
    report.write({run.name: run for run in runs}, out)
    return out.read_text()


def test_the_page_holds_the_table_the_levels_the_curves_and_what_was_run(tmp_path):
    run = a_run(tmp_path / "base", ["sft", "rl"], 20, right)
    write_json(run / "rl" / "curve.json", [{"step": s, "accuracy": 0.5, "tokens": 40.0} for s in (0, 2)])
    log = [{"step": s, "reward": 0.4, "mixed": 0.8, "entropy": 0.1} for s in (1, 2)]
    (run / "rl" / "train.jsonl").write_text("".join(json.dumps(step) + "\n" for step in log))
    (run / "rl" / "recipe.yaml").write_text("rl:\n  steps: 2\n")
    write_json(run / "rl" / "manifest.json", {"scoring": TRAINED | {"finished": "2026-11-24T10:00:00+00:00"}})
    page = page_of(run)
    for said in ("100.0 [83.9, 100.0]", "majority", "mixed groups", "torch 2.13.0", "steps: 2"):
        assert said in page
    assert page.count("2026-11-24 10:00") == 2 and page.count("a processor, 2 cores, 23.5 GiB") == 2
    assert page.count("<svg") == 3  # two of the cost, one of the curves
    assert "Between the bases" not in page and 'name="base"' not in page
    assert page.count('<td style="--v: 1.000"><a href="#benchmark=arithmetic_v1&amp;level=1&amp;') == 2


def test_the_page_fetches_nothing_and_may_not(tmp_path):
    page = page_of(a_run(tmp_path / "base", ["sft"], 5, right))
    assert not re.search(r'(src|href|action)="(?!#)', page) and not re.search(r"url\((?!#)|@import", page)
    assert page.index("default-src 'none'") < page.index("<style") and "'unsafe-inline'; script-src 'sha256-" in page


def test_every_answer_is_there_with_its_verdict_and_kind(tmp_path):
    run = a_run(tmp_path / "base", ["sft", "rl"], 20, lambda p: right(p) if p.level > 1 else f"{p.id} is 3 + 4 = 8")
    found = answers_of(page_of(run))
    assert len(found) == 40 and all([a["stage"] for a in p["answers"]] == ["sft", "rl"] for p in found)
    for problem in found:
        for answer in problem["answers"]:
            if problem["level"] > 1:
                assert answer["verdict"] == "correct" and answer["kind"] == "" and answer["thought"]
                assert answer["rest"] == f"\\boxed{{{problem['answer']}}}" and answer["extracted"] == problem["answer"]
            else:
                assert answer["verdict"] != "correct" and answer["kind"] == "slip" and not answer["thought"]


def test_a_right_answer_through_a_wrong_step_is_told_from_the_others(tmp_path):
    run = a_run(tmp_path / "base", ["sft"], 5, lambda p: f"<think>\n3 + 4 = 8\n</think>\n\\boxed{{{p.answer}}}")
    page = page_of(run)
    assert {a["kind"] for p in answers_of(page) for a in p["answers"]} == {"through a wrong step"}
    assert page.count("<th>right</th>") == page.count("<th>through a wrong step</th>") == 2


def test_several_runs_stand_on_one_page_and_are_compared_on_the_same_problems(tmp_path):
    first = a_run(tmp_path / "first", ["plain", "sft"], 20, lambda p: "nothing")
    second = a_run(tmp_path / "second", ["plain", "sft"], 20, right)
    page = page_of(first, second)
    assert "Between the bases" in page and 'name="base"' in page and "<title>Ladder: first, second" in page
    found = answers_of(page)
    assert len(found) == 40
    for problem in found:
        told = [(a["base"], a["stage"], a["verdict"] == "correct") for a in problem["answers"]]
        assert told == [(base, stage, base == "second") for base in ("first", "second") for stage in ("plain", "sft")]
    other = a_run(tmp_path / "other", ["plain"], 10, right)
    with pytest.raises(BadInput, match="different problems"):
        page_of(first, other)


@pytest.mark.parametrize("text", [HOSTILE, "</script>" + HOSTILE, "\ud800<!--<script>"])
def test_what_a_model_wrote_is_never_markup(tmp_path, text):
    name = '<b>"$x^{$'  # of a base, as a folder's name may be
    run = a_run(tmp_path / "base", ["plain"], 5, lambda p: text)
    out = tmp_path / "page.html"
    report.write({name: run, "other": run}, out)
    page = out.read_text()
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page and "<b>" not in page and "owned" not in page and "&lt;b&gt;" in page
    assert {a["rest"] for p in answers_of(page) for a in p["answers"]} == {text}


def test_five_stages_and_a_thousand_problems_stay_below_five_megabytes(tmp_path):
    words = [str(number) for number in range(1000)] + ["so", "the", "is", "of", "then", "we", "have"] * 100
    rng = random.Random(0)
    # Longer than the recipes' limit of 160 tokens, and without the repetitions that help to pack what models write.
    stages = ["plain", "cot", "sft", "rl", "adaptive"]
    run = a_run(tmp_path / "base", stages, 500, lambda p: " ".join(rng.choices(words, k=250)))
    page = page_of(run)
    texts = [answer["rest"] for problem in answers_of(page) for answer in problem["answers"]]
    assert len(texts) == 5000 and sum(map(len, texts)) > 4_000_000
    assert len(page.encode()) < 5_000_000


def test_the_plot_of_all_ways_is_shown_where_it_is_of_these_stages(tmp_path):
    run = a_run(tmp_path / "base", ["plain"], 5, right)
    adapters = {stage: {"adapter": f"of {stage}"} for stage in ("rl", "adaptive")}
    write_json(run / "tradeoff" / "manifest.json", {"scoring": {"inputs": adapters}})
    (run / "tradeoff" / "tradeoff.svg").write_text('<?xml version="1.0"?><svg><text >never think</text></svg>')
    for stage, about in adapters.items():
        write_json(run / stage / "manifest.json", {"training": {**TRAINED, **about}})
    assert '<text fill="currentColor" >never think</text>' in page_of(run)
    write_json(run / "rl" / "manifest.json", {"training": {**TRAINED, "adapter": "another"}})
    assert "never think" not in page_of(run)


def test_a_missing_answer_is_named(tmp_path):
    run = a_run(tmp_path / "base", ["plain"], 5, right)
    write_records(run / "problems" / "logic_v1.jsonl", load("logic_v1", "test")[:6])
    with pytest.raises(BadInput, match=r"plain: no answer to 'logic_v1-test-0006' of logic_v1; rerun"):
        page_of(run)
    assert not (tmp_path / "page.html").exists()


def test_a_training_that_went_wrong_has_its_curves_and_a_damaged_log_is_named(tmp_path):
    run = a_run(tmp_path / "base", ["sft"], 5, right)
    log = run / "sft" / "train.jsonl"
    log.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN, "entropy": Infinity}\n')
    assert page_of(run).count("<svg") == 3
    log.write_text("")
    assert page_of(run).count("<svg") == 2
    log.write_text('{"step": 1, "lo')
    with pytest.raises(BadInput, match=r"train\.jsonl: not JSON .*; rerun the stage sft"):
        page_of(run)
    log.unlink()
    (run / "sft" / "manifest.json").write_text("{")
    with pytest.raises(BadInput, match=r"manifest\.json: not a manifest; delete .*sft and run the stage again"):
        page_of(run)


def test_the_command_takes_one_base_or_several(tmp_path, capsys):
    from pipeline.__main__ import main

    for name in ("a", "b"):
        a_run(tmp_path / name, ["plain"], 5, right)
    for options, out in (
        (["--base", "a"], "a/report.html"),
        (["--bases", "b"], "b/report.html"),
        (["--bases", "a", "b"], "report.html"),
        (["--bases", "a", "b", "--out", str(tmp_path / "x.html")], "x.html"),
    ):
        assert not (tmp_path / out).exists()
        assert main(["report", "--runs", str(tmp_path), *options]) == 0
        assert capsys.readouterr().out == f"{tmp_path / out}\n" and (tmp_path / out).is_file()
    assert main(["report", "--runs", str(tmp_path), "--bases", "a", "c"]) == 2
    assert "no stage has a scores.json" in capsys.readouterr().err
