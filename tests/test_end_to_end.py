"""All five stages on nano, once, with real training: the stages must learn, resume, regrade and be left alone.

The order of the tests is the order of a user's day; each uses what the run at the top left on disk.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from conftest import OPTIONS, ROOT, SMALL, ladder

from data.build import load as load_split
from data.records import Problem, read_completions, read_grades, read_problems, write_json, write_records
from eval.errors import wrong_step
from eval.table import rows
from pipeline import __main__ as command_line
from pipeline import processes, prompts, stages
from pipeline.answers import checked
from pipeline.recipe import STAGES, load
from pipeline.runs import folder_hash

SETTINGS = load("cpu", SMALL, "nano").adaptive


def accuracy(run: Path, benchmark: str = "arithmetic_v1") -> dict[str, float]:
    best: dict[str, float] = {}
    for row in rows(run / "nano"):
        if row["benchmark"] == benchmark:
            best[row["stage"]] = max(best.get(row["stage"], 0), row["accuracy"])
    return best


def test_every_stage_is_in_the_table_on_the_same_problems(run):
    table = json.loads((run / "nano" / "table.json").read_text())
    assert {row["stage"] for row in table} == {"chance", "majority", "plain", "cot", "sft", "rl", "adaptive"}
    for benchmark in ("arithmetic_v1", "logic_v1"):
        assert len({(r["benchmark_sha256"], r["n"]) for r in table if r["benchmark"] == benchmark}) == 1
    assert all(row["p_vs_previous"] is not None for row in table if row["stage"] in ("cot", "sft", "rl", "adaptive"))
    assert "| arithmetic_v1 |" in (run / "nano" / "table.md").read_text()


def test_sft_beats_the_best_prompted_base_clearly(run):
    """On logic, of which nano was never asked a question before sft."""
    best = accuracy(run, "logic_v1")
    assert best["sft"] >= max(best["plain"], best["cot"]) + 0.10, best


def test_sft_thinks_and_boxes_its_answers(run):
    [row] = [r for r in rows(run / "nano") if r["stage"] == "sft" and r["benchmark"] == "arithmetic_v1"]
    assert row["thinking_rate"] > 0.5 and row["format_rate"] > 0.75 and row["truncated_rate"] < 0.1


def test_rl_and_adaptive_trained_and_kept_their_best_on_dev(run):
    """A training that leaves every weight as it was raises, see test_rl; here, what it wrote while it trained."""
    for stage in ("rl", "adaptive"):
        curve = json.loads((run / "nano" / stage / "curve.json").read_text())
        assert [point["step"] for point in curve] == [0, 2, 4]
        steps = [json.loads(line) for line in (run / "nano" / stage / "train.jsonl").read_text().splitlines()]
        assert [s["step"] for s in steps] == [1, 2, 3, 4]
        if stage == "rl":
            preflight = json.loads((run / "nano" / stage / "preflight.json").read_text())
            assert 0 < preflight["mixed"] <= 1 and preflight["pass_at_1"] <= preflight["pass_at_k"]
        assert any(s["grad_norm"] > 0 for s in steps)
        better = [p for p in curve if p["accuracy"] > curve[0]["accuracy"]]
        if stage == "adaptive":
            least = curve[0]["accuracy"] - SETTINGS.accuracy_loss
            better = [p for p in curve if p["accuracy"] >= least and p["tokens"] < curve[0]["tokens"]]
        parent = {"rl": "sft", "adaptive": "rl"}[stage]
        same = folder_hash(run / "nano" / stage / "adapter") == folder_hash(run / "nano" / parent / "adapter")
        assert same == (not better)


def test_every_stage_has_its_log_and_the_terminal_no_warning(run):
    logs = {stage: (run / "nano" / stage / "log.txt").read_text() for stage in STAGES}
    assert all(f"{stage}: scored in" in log and "ended by" not in log for stage, log in logs.items())
    for stage in ("rl", "adaptive"):
        assert [f"{stage}: step {step} of 4: dev_accuracy" in logs[stage] for step in range(5)] == [1, 0, 1, 0, 1]
        assert all(re.search(rf"{stage}: step {step} of 4: loss .*reward", logs[stage]) for step in (1, 2, 3, 4))
    assert "Warning" in logs["sft"] + logs["rl"], "no library warned, so nothing shows that it goes to the log"
    assert "ladder: plain:" not in logs["cot"] and all(log.count("scored in") == 1 for log in logs.values())


def test_a_second_run_changes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in (run / "nano").rglob("adapter*/*.safetensors")}
    done = ladder(run, "pipeline", "all")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("up to date") >= 5 and "training" not in done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (run / "nano").rglob("adapter*/*.safetensors")}


def test_every_completion_regrades_to_the_same_grade_without_a_model(run, tmp_path):
    regraded = 0
    for completions in (run / "nano").glob("*/completions/**/*.jsonl"):
        grades, out = Path(str(completions).replace("/completions/", "/grades/")), tmp_path / "grades.jsonl"
        problems = run / "nano" / "problems" / completions.name
        command = [sys.executable, "-m", "eval.grade", "--benchmark", str(problems)]
        command += ["--completions", str(completions), "--out", str(out)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert read_grades(out) == read_grades(grades)
        regraded += 1
    assert regraded == 14  # two benchmarks; plain and cot twice each, three trained stages once


def test_the_report_is_one_page_of_every_answer(run):
    done = ladder(run, "pipeline", "report")
    assert done.returncode == 0, done.stderr
    page = (run / "nano" / "report.html").read_text()
    assert ">200 problems<" in page and page.count("<svg") == 5  # two of costs, one of each trained stage


def test_a_killed_sft_goes_on_from_its_checkpoint_to_the_same_adapter(run, tmp_path):
    command = [sys.executable, "-m", "pipeline", "sft", "--runs", str(tmp_path), *OPTIONS]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    work = tmp_path / "nano" / "sft" / "work"
    deadline = time.monotonic() + 300
    while not (work / "checkpoint-60").is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "nano" / "sft" / "adapter").exists()
    kept = max(int(path.parent.name.split("-")[1]) for path in work.glob("checkpoint-*/sealed.json"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"from step {kept}" in done.stderr
    again, unbroken = tmp_path / "nano" / "sft" / "adapter", run / "nano" / "sft" / "adapter"
    assert folder_hash(again) == folder_hash(unbroken)


def test_a_budget_caps_the_thought_of_any_stage(run, tmp_path):
    benchmark = tmp_path / "some.jsonl"
    lines = (ROOT / "data" / "benchmarks" / "arithmetic_v1.test.jsonl").read_text().splitlines()[:40]
    benchmark.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "eval.score", "--model", str(run / "nano" / "sft"), "--benchmark", str(benchmark)]
    command += ["--prompt", "think", "--budget", "5", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spent = [c.thinking_tokens for c in read_completions(tmp_path / "out" / "completions" / "some.jsonl")]
    assert max(spent) == 5
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["thinking_tokens_mean"] <= 5


def test_samples_wordings_and_a_second_turn_go_through_a_real_model(run, tmp_path):
    for more in (["--samples", "2"], ["--prompts", "2"]):
        command = [sys.executable, "-m", "eval.score", "--model", str(run / "nano" / "sft"), "--prompt", "think"]
        command += ["--benchmark", "logic_v1", "--limit", "20", *more, "--out", str(tmp_path / more[0])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        each = [read_completions(path) for path in sorted((tmp_path / more[0] / "completions").rglob("*.jsonl"))]
        assert [len(completions) for completions in each] == [20, 20]
        assert each[0] != each[1]
    for stage in ("cot", "sft"):  # one that is prompted, one with an adapter
        shutil.copytree(run / "nano" / stage, tmp_path / "nano" / stage)
    command = [sys.executable, "-m", "eval.dialogue", "--run", str(tmp_path / "nano"), "--benchmark", "arithmetic_v1"]
    done = subprocess.run([*command, "--limit", "8"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "nano" / "dialogue" / "dialogue.json").read_text())
    for stage in ("cot", "sft"):
        assert sum(row["n"] for row in said if (row["stage"], row["feedback"]) == (stage, "bare")) == 8


def test_controls_are_rows_on_request(run, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(run, copy)
    small = [x for s in ("arithmetic=160", "logic=80", "epochs=1") for x in ("--set", f"sft.{s}")]
    command = [sys.executable, "-m", "pipeline", "controls", "--runs", str(copy), *OPTIONS, *small]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = rows(copy / "nano", controls=True)
    found = {row["stage"] for row in table} - {row["stage"] for row in rows(copy / "nano")}
    assert {"sft_answers", "sft_shuffled", "rl_random"} <= found
    assert "rl_format" in found or "rl_format: " in done.stderr  # where every sample is boxed there is no signal
    thought = {r["stage"]: r["thinking_tokens_mean"] for r in table if r["benchmark"] == "logic_v1"}
    assert thought["sft_answers"] < thought["sft_shuffled"]
    assert all(r["p_vs_previous"] is not None for r in table if r["stage"] in found)


def test_traces_of_a_stage_are_sampled_checked_kept_and_trained_on(run, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(run, copy)
    few = ["traces.arithmetic=40", "traces.logic=40", "traces.samples=2"]
    more = [*OPTIONS, *(x for s in few for x in ("--set", s))]
    command = [sys.executable, "-m", "pipeline", "traces", "--runs", str(copy), "--source", "own", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    account = json.loads((copy / "nano" / "traces" / "own_sft.json").read_text())
    assert account["texts"] == 160 == account["kept"] + sum(account["dropped"].values())
    kept = read_problems(copy / "nano" / "traces" / "own_sft.jsonl")
    assert len(kept) == account["kept"] > 0 and all(wrong_step(t, t.rationale or "") is None for t in kept)
    assert f"own_sft: 160 texts, {len(kept)} kept" in done.stdout
    command[3] = "show-traces"
    shown = subprocess.run([*command, "--count", "2"], cwd=ROOT, capture_output=True, text=True)
    assert shown.stdout.count("\n-> ") == min(2, len(kept))
    small = ["sft.arithmetic=160", "sft.logic=80", "sft.epochs=1", "sft.rounds=2", "sft.eval_every=5"]
    command = [sys.executable, "-m", "pipeline", "sft", "--runs", str(copy), *more]
    done = subprocess.run(
        [*command, *(x for s in small for x in ("--set", s))], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [r["stage"] for r in rows(copy / "nano") if r["benchmark"] == "logic_v1"].count("sft_round1") == 1
    both = [folder_hash(copy / "nano" / stage / "adapter") for stage in ("sft_round1", "sft")]
    assert both[0] != both[1] and (copy / "nano" / "sft" / "traces.jsonl").is_file()
    one, two = (json.loads((copy / "nano" / stage / "curve.json").read_text()) for stage in ("sft_round1", "sft"))
    assert [point["step"] for point in one][:7] == [0, 5, 10, 15, 20, 25, 30]  # and the last, of some answers at once
    assert one[0] == two[0], "the second begins where the first did; what it learns besides are its own traces"


def test_a_file_of_traces_is_an_input_of_sft(run, tmp_path):
    """A changed file makes sft stale; a trace that a benchmark's problem is given away by stops the run."""
    file = tmp_path / "mine.jsonl"
    own = Problem("m1", "What is 1234 - 5?", "1229", "number", rationale="1234 - 5 = 1229")
    write_records(file, [own])
    mixed = ["--set", f"sft.traces=[short,{file}:0.0005]"]
    done = ladder(run, "pipeline", "status", *mixed)
    assert done.returncode == 0, done.stderr
    [state] = [line for line in done.stdout.splitlines() if line.startswith("sft ")]
    assert "settings.traces changed" in state and "read.traces changed" in state
    [test] = load_split("arithmetic_v1", "test")[:1]
    write_records(file, [replace(test, id="m2")])
    done = ladder(run, "pipeline", "sft", *mixed)
    assert done.returncode == 2 and "given away by the train split" in done.stderr
    [dev] = load_split("arithmetic_v1", "dev")[:1]
    write_records(file, [replace(dev, id="m3")])
    done = ladder(run, "pipeline", "sft", *mixed)
    assert done.returncode == 2 and f"m3 has the same text as {dev.id}, a dev problem" in done.stderr


def test_all_ways_to_decide_how_long_to_think_are_on_one_plot(run, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(run, copy)
    few = ["adaptive_budget.steps=2", "adaptive_budget.dev=20", "adaptive_budget.budgets=[0,4,12]"]
    command = [sys.executable, "-m", "pipeline", "tradeoff", "--runs", str(copy), *OPTIONS]
    command += [x for s in few for x in ("--set", s)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = copy / "nano" / "tradeoff"
    assert (folder / "tradeoff.png").is_file() and (folder / "tradeoff.svg").is_file()
    found = json.loads((folder / "tradeoff.json").read_text())["parts"]
    assert set(found) == {"arithmetic_v1", "logic_v1", "both"} and found["both"]["n"] == 200
    ways = [(p["way"], p["asked"]) for p in found["both"]["points"]]
    assert [asked for way, asked in ways if way == "forced budget"] == [4, 12]
    assert [asked for way, asked in ways if way == "learnt length"] == [0, 4, 12]
    assert {"never think", "always think", "learnt choice", "probe"} <= {way for way, _ in ways}
    assert all(m["most"] == 0 for m in found["both"]["misses"]["forced budget"].values())
    never, always = found["both"]["points"][:2]
    assert never["thought"] == 0 and always["thinks"] == 1
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "tradeoff: up to date" in again.stderr and again.stdout == done.stdout
    answers = folder / "forced-budget-4" / "logic_v1.jsonl"
    answers.write_text(answers.read_text().replace("boxed", "bowed", 1))
    from_disk = [sys.executable, "-m", "eval.tradeoff", "--run", str(copy / "nano")]
    said = subprocess.run(from_disk, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 2 and f"{answers}: not what was answered; run `make tradeoff`" in said.stderr
    # What an interrupted asking left is not asked for again.
    inputs = json.loads((folder / "manifest.json").read_text())["scoring"]["inputs"]
    write_json(folder / "partial" / "inputs.json", inputs)
    lines = (folder / "never-think" / "logic_v1.jsonl").read_text().splitlines()
    kept = [json.loads(line) | {"text": "kept", "seconds": 1.0} for line in lines[:6]]
    (folder / "partial" / "never-think" / "logic_v1").mkdir(parents=True)
    text = "".join(f"{checked(json.dumps(row))}\n" for row in kept)
    (folder / "partial" / "never-think" / "logic_v1" / "0.jsonl").write_text(text)
    on = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert on.returncode == 0 and f"{answers} is not what was answered; answering again" in on.stderr
    now = (folder / "never-think" / "logic_v1.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in now[:6]] == ["kept"] * 6 and now[6:] == lines[6:]
    assert "bowed" not in answers.read_text() and not (folder / "partial").exists()


def test_an_exported_stage_gives_the_same_answers_through_transformers_alone(run, tmp_path):
    folder = tmp_path / "exported"
    done = ladder(run, "pipeline", "export", "--stage", "sft", "--to", str(folder))
    assert done.returncode == 0, done.stderr
    assert "at most 0.0e+00" in done.stdout or float(done.stdout.split()[-1]) < 1e-4
    code = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, file = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
for line in open(file).readlines()[:20]:
    chat = [{"role": "system", "content": "Think, then answer."}]
    chat += [{"role": "user", "content": json.loads(line)["question"]}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    print(json.dumps(tokenizer.decode(model.generate(**ids)[0, ids["input_ids"].shape[1]:])))
"""
    problems = run / "nano" / "problems" / "arithmetic_v1.jsonl"
    command = [sys.executable, "-c", code, str(folder), str(problems)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = [json.loads(line).removesuffix("<|end|>") for line in done.stdout.splitlines()]
    ours = read_completions(run / "nano" / "sft" / "completions" / "arithmetic_v1.jsonl")
    assert texts == [c.text for c in ours[:20]]
    card = (folder / "README.md").read_text()
    assert "Think, then answer." in card and "| arithmetic_v1 | 100 |" in card and "learning_rate: 0.005" in card
    assert ladder(run, "pipeline", "export", "--stage", "sft", "--to", str(folder)).returncode == 2
    assert "no weights of its own" in ladder(run, "pipeline", "export", "--stage", "cot", "--to", "x").stderr
    other = ladder(run, "pipeline", "export", "--stage", "sft", "--to", "x", "--set", "seed=1")
    assert other.returncode == 2 and "seed was 0, is 1; give the SET= it was made with" in other.stderr


def test_ask_shows_every_stage(run):
    done = ladder(run, "pipeline", "ask", "What is 25 * 4 + 8?")
    assert done.returncode == 0, done.stderr
    for stage in ("plain", "cot", "sft", "rl", "adaptive"):
        assert stage in done.stdout
    assert done.stdout.count("tokens,") == 5


def test_another_recipe_makes_the_stage_and_what_stands_on_it_stale(run, tmp_path, monkeypatch):
    copy = tmp_path / "runs"
    shutil.copytree(run, copy)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "plain", "--runs", str(copy), *OPTIONS, "--set", "plain.shots=[0]"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "plain: scored" in done.stderr
    adapter = copy / "nano" / "adaptive" / "adapter" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-8])
    command = [sys.executable, "-m", "pipeline", "status", "--runs", str(copy), *OPTIONS, "--set", "rl.steps=5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    states = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert states["cot"] == states["sft"] == "up to date"
    assert states["plain"].startswith("scoring: variants changed")
    assert states["rl"] == "training: settings.steps was 4, is 5"
    assert "rl, which it stands on, is not up to date" in states["adaptive"]
    assert "adapter/adapter_model.safetensors is not what was written" in states["adaptive"]
    assert len(json.loads((copy / "nano" / "plain" / "scores.json").read_text())["variants"]) == 1
    timed = [sys.executable, "-X", "importtime", *command[1:], "--set", "eval.max_tokens=90"]
    done = subprocess.run(timed, cwd=ROOT, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "yaml" in imported and (processes.cards() or not imported & {"torch", "transformers"})
    states = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert states["sft"].startswith("training: max_tokens was 160, is 90; scoring: settings.max_tokens was 160")
    (copy / "nano" / "sft" / "curve.json").unlink()  # what nothing is made from may be deleted
    monkeypatch.setitem(prompts.WORDINGS, "think", ("Think twice, then answer.", *prompts.WORDINGS["think"][1:]))
    options = command_line.parser().parse_args([*command[3:], "--set", "sft.rounds=2"])
    states = stages.status(command_line.open_run(options))
    assert "no training yet" in states["sft_round1"] and "sft_round1, which it stands on" in states["sft"]
    assert "curve.json" not in states["sft"] and "training: prompt changed" in states["rl"]
    assert states["cot"] == "up to date"
    asked = [sys.executable, "-m", "pipeline", "ask", "1 + 1?", "--runs", str(copy), *OPTIONS]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "adapter_model.safetensors: not what was trained" in done.stderr


def test_a_stage_is_asked_again_as_it_was_scored(run, tmp_path):
    stage = tmp_path / "nano" / "sft"
    shutil.copytree(run / "nano" / "sft", stage)
    manifest = json.loads((stage / "manifest.json").read_text())
    manifest["scoring"]["inputs"]["settings"]["max_tokens"] = 3
    (stage / "manifest.json").write_text(json.dumps(manifest))
    command = [sys.executable, "-m", "pipeline", "complete", "--model", str(stage), "--benchmark", "arithmetic_v1"]
    command += ["--prompt", "think", "--limit", "5", "--out", str(tmp_path / "out.jsonl")]
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert all(c.thinking_tokens + c.answer_tokens <= 3 for c in read_completions(tmp_path / "out.jsonl"))
