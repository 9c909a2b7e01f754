"""A teacher against a local server that speaks the protocol and fails in every way: nothing lost, the cap obeyed."""

import json
import threading
import time
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data.records import BadInput, Problem
from pipeline.recipe import TeacherSettings
from pipeline.teacher import Teacher, taught
from pipeline.traces import Texts

PROBLEMS = [Problem(f"p{i}", f"What is {i} + 3?", str(i + 3), "number") for i in range(12)]


class Server(ThreadingHTTPServer):
    """``faults``: question -> what goes wrong the first times it is asked; ``asked`` counts requests by question."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults: dict[str, list[str]] = {}
        self.asked: Counter[str] = Counter()
        self.billed = 0.0
        self.lock = threading.Lock()
        self.at_work = self.most_at_work = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        pass  # a client that has gone away


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        with self.server.lock:
            self.server.asked[question] += 1
            faults = self.server.faults.get(question, [])
            fault = faults.pop(0) if faults else ""
            self.server.at_work += 1
            self.server.most_at_work = max(self.server.most_at_work, self.server.at_work)
        try:
            self.answer(question, fault)
        finally:
            with self.server.lock:
                self.server.at_work -= 1

    def answer(self, question, fault):
        if fault == "slow":
            time.sleep(0.1)
        if fault == "timeout":
            time.sleep(1.0)
        if fault.isdigit():
            return self.say(int(fault), b'{"error": "slow down"}', {"Retry-After": "0.01"})
        left, right = (int(word.rstrip("?")) for word in question.split() if word.rstrip("?").isdigit())
        answer = {"role": "assistant", "content": f"{left} + {right} = {left + right}\n\\boxed{{{left + right}}}"}
        usage = {"prompt_tokens": 30, "completion_tokens": 20}
        with self.server.lock:
            self.server.billed += 50
        whole = json.dumps({"choices": [{"message": answer, "finish_reason": "stop"}], "usage": usage}).encode()
        if fault == "broken":
            whole = whole[: len(whole) // 2]
        if fault == "shape":
            whole = b'{"choices": []}'
        if fault == "dropped":
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[:10])
            self.wfile.flush()
            return self.connection.close()
        return self.say(200, whole, {})

    def say(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def settings(server, **changes):
    return replace(TeacherSettings(url=server.url, model="m", timeout=0.4, max_tokens=64), **changes)


def ask(server, path, problems=PROBLEMS, **changes):
    teacher = Teacher(
        settings(server, **changes), "", Texts(path), sleep=lambda seconds: time.sleep(min(seconds, 0.02))
    )
    return taught(teacher, problems, 1, 0.7, lambda *_: None)


def test_every_fault_is_overcome_and_nothing_is_asked_twice(server, tmp_path):
    kinds = ["timeout", "429", "broken", "dropped", "500", "shape"]
    for problem, kind in zip(PROBLEMS, kinds, strict=False):
        server.faults[problem.question] = [kind]
    server.faults[PROBLEMS[6].question] = ["429", "dropped", "broken", "503"]
    found, account = ask(server, tmp_path / "raw.jsonl")
    assert [c.problem.id for c in found] == [p.id for p in PROBLEMS]
    assert all(f"\\boxed{{{c.problem.answer}}}" in c.text for c in found)
    assert account["answered"] == 12 and account["failed"] == 10
    before = sum(server.asked.values())
    assert ask(server, tmp_path / "raw.jsonl")[0] == found and sum(server.asked.values()) == before


def test_a_server_that_dies_in_the_middle_loses_nothing_and_the_rest_comes_later(server, tmp_path):
    for problem in PROBLEMS[5:]:
        server.faults[problem.question] = ["dropped"] * 3
    with pytest.raises(BadInput, match=r"does not answer \(RemoteProtocolError, 3 times\); what came is kept in"):
        ask(server, tmp_path / "raw.jsonl", attempts=3, at_once=1)
    kept = [row["id"] for row in Texts(tmp_path / "raw.jsonl").rows if row["key"]]
    assert kept == [p.id for p in PROBLEMS[:5]]
    with open(tmp_path / "raw.jsonl", "a") as file:
        file.write('{"key": "torn')  # as a kill in the middle of a write leaves it
    server.faults.clear()
    found, _ = ask(server, tmp_path / "raw.jsonl")
    assert len(found) == 12 and all(server.asked[p.question] == 1 for p in PROBLEMS[:5])


def test_requests_at_work_count_with_the_most_they_can_cost(server, tmp_path):
    server.faults = {p.question: ["slow"] for p in PROBLEMS}
    price = {"price_in": 1e6, "price_out": 1e6, "most_cost": 700.0, "at_once": 6}
    _, account = ask(server, tmp_path / "raw.jsonl", **price)
    assert account["capped"] and server.most_at_work == 2  # of at most 290 each


def test_a_request_in_which_the_run_was_killed_counts_in_full(server, tmp_path):
    (tmp_path / "raw.jsonl").write_text('{"key": "", "id": "p0", "met": "sent", "cost": 400.0}\n')
    price = {"price_in": 1e6, "price_out": 1e6, "most_cost": 500.0}
    found, account = ask(server, tmp_path / "raw.jsonl", **price)
    assert found == [] and account["capped"] and not server.asked


def test_a_thought_that_the_limit_cut_is_an_answer_without_text(server, tmp_path, monkeypatch):
    cut = {"choices": [{"message": {"content": None, "reasoning_content": "7 + 3"}, "finish_reason": "length"}]}
    monkeypatch.setattr(Handler, "answer", lambda self, *_: self.say(200, json.dumps(cut).encode(), {}))
    [found], _ = ask(server, tmp_path / "raw.jsonl", PROBLEMS[:1])
    assert (found.text, found.finish) == ("<think>\n7 + 3\n</think>\n", "length") and sum(server.asked.values()) == 1


@pytest.mark.parametrize("at_once", [1, 4])
def test_the_cap_is_obeyed_also_over_a_second_run(server, tmp_path, at_once):
    """A token costs one; a request at most some 290, in fact 50."""
    price = {"price_in": 1e6, "price_out": 1e6, "most_cost": 500.0, "at_once": at_once}
    server.faults[PROBLEMS[0].question] = ["broken"]
    found, account = ask(server, tmp_path / "raw.jsonl", **price)
    assert account["capped"] and 0 < len(found) < 12
    assert server.billed <= account["cost"] <= 500
    again, later = ask(server, tmp_path / "raw.jsonl", **price)
    assert again == found and later["cost"] == account["cost"] and later["capped"]
    more, whole = ask(server, tmp_path / "raw.jsonl", **(price | {"most_cost": 5000.0}))
    assert len(more) == 12 and not whole["capped"] and server.billed <= whole["cost"]


def test_a_refusal_stops_at_once_and_says_what_to_mend(server, tmp_path):
    server.faults = {p.question: ["401"] for p in PROBLEMS}
    with pytest.raises(BadInput, match="status 401.*OPENAI_API_KEY"):
        ask(server, tmp_path / "raw.jsonl", at_once=1)
    assert sum(server.asked.values()) == 1
    with pytest.raises(BadInput, match="no address or no model"):
        Teacher(TeacherSettings(), "", Texts(tmp_path / "raw.jsonl"))


def test_an_answer_that_never_can_be_read_is_given_up_alone(server, tmp_path):
    server.faults[PROBLEMS[3].question] = ["broken"] * 10
    found, account = ask(server, tmp_path / "raw.jsonl", attempts=3)
    assert [c.problem.id for c in found if not c.text] == ["p3"] and len(found) == 12
    assert account["failed"] == 3 and server.asked[PROBLEMS[3].question] == 3
    assert ask(server, tmp_path / "raw.jsonl", attempts=3)[0] == found and server.asked[PROBLEMS[3].question] == 3


def test_the_key_is_sent_and_never_written(server, tmp_path, monkeypatch):
    seen = []
    original = Handler.do_POST
    monkeypatch.setattr(Handler, "do_POST", lambda self: seen.append(self.headers["Authorization"]) or original(self))
    with pytest.raises(BadInput, match="no price"):
        Teacher(settings(server), "secret-key", Texts(tmp_path / "raw.jsonl"))
    teacher = Teacher(settings(server, price_in=1.0), "secret-key", Texts(tmp_path / "raw.jsonl"))
    taught(teacher, PROBLEMS[:1], 1, 0.7, lambda *_: None)
    assert seen == ["Bearer secret-key"] and "secret" not in (tmp_path / "raw.jsonl").read_text()


@pytest.mark.parametrize("line", ['{"key": "a", "te', "[]", '{"text": "x"}', "\\xff"])
def test_a_damaged_line_of_texts_is_named(tmp_path, line):
    (tmp_path / "raw.jsonl").write_text(f'{{"key": "a", "cost": 0.0}}\n{line}\n')
    with pytest.raises(BadInput, match=r"raw\.jsonl:2: not what was written"):
        Texts(tmp_path / "raw.jsonl")
