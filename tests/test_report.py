"""The page of a run: everything is in it, nothing a model wrote is markup, and its filters work."""

import json
import re
import shutil
import subprocess

import pytest

from data.build import load
from data.records import BadInput, Completion, write_json, write_records
from eval import report
from eval.grade import grade_all
from eval.score import score

HOSTILE = '<script>document.title="owned"</script><img src=x onerror=alert(1)>{{ 7 * 7 }}</article>'


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


def test_the_page_holds_the_table_the_levels_and_every_answer(tmp_path):
    run = a_run(tmp_path, ["sft", "rl"], 20, right)
    write_json(run / "rl" / "curve.json", [{"step": s, "accuracy": 0.5, "tokens": 40.0} for s in (0, 2)])
    log = [{"step": s, "reward": 0.4, "mixed": 0.8, "entropy": 0.1} for s in (1, 2)]
    (run / "rl" / "train.jsonl").write_text("".join(json.dumps(step) + "\n" for step in log))
    machine = {"gpu": None, "processor": "a processor", "cores": 2, "memory_gib": 23.5}
    made = {"hardware": machine, "versions": {"torch": "2.13.0"}, "seconds": 12.0, "commit": "abcdef0123456"}
    write_json(run / "rl" / "manifest.json", {"scoring": made | {"finished": "2026-11-24T10:00:00+00:00"}})
    report.write(run, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for said in (
        "100.0 [83.9, 100.0]",
        "majority",
        "Accuracy by level",
        "<td>through",
        "a processor",
        "2026-11-24T10",
        "rl, in training",
        "share of mixed",
    ):
        assert (said in page) == (said != "<td>through")  # no right answer here went through a wrong step
    assert page.count("<svg") == 4 and page.count("<article") == 40 and page.count("<details><summary>thought") == 80
    assert not re.search(r'(src|href)="(?!#)', page)  # nothing is fetched


def test_what_a_model_wrote_is_never_markup(tmp_path):
    run = a_run(tmp_path, ["plain"], 5, lambda p: HOSTILE)
    report.write(run, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<script>") == 1 and "<img" not in page and page.count("</article>") == 10
    assert page.count("{{ 7 * 7 }}") == 10


def test_five_stages_and_a_thousand_problems_stay_below_five_megabytes(tmp_path):
    run = a_run(tmp_path, ["plain", "cot", "sft", "rl", "adaptive"], 500, right)
    report.write(run, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 5_000_000


def test_a_missing_answer_is_named(tmp_path):
    run = a_run(tmp_path, ["plain"], 5, right)
    write_records(run / "problems" / "logic_v1.jsonl", load("logic_v1", "test")[:6])
    with pytest.raises(BadInput, match=r"plain: no answer to 'logic_v1-test-0006' of logic_v1; rerun"):
        report.write(run, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_the_filters_work_in_a_browser(tmp_path):
    run = a_run(tmp_path, ["plain", "sft"], 20, lambda p: right(p) if p.level > 1 else HOSTILE)
    report.write(run, tmp_path / "page.html")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom"]
    flags += ["--disable-background-networking", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    for place, shown in (
        ("", 40),
        ("#verdict=correct", 32),
        ("#level=1&stage=sft&verdict=correct", 0),
        ("#level=1", 8),
    ):
        command = ["chromium", *flags, f"file://{tmp_path / 'page.html'}{place}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert f'id="count">{shown} of 40 problems' in done.stdout
        assert done.stdout.count("<article") == 40
        assert len(re.findall(r"<article[^>]*hidden", done.stdout)) == 40 - shown
        assert "CONSOLE" not in done.stderr and "<title>Ladder" in done.stdout
