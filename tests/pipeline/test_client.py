"""The client against local servers that speak the protocol, and fail in every way on demand.

One is a teacher. The other serves a model as vLLM does, and decodes by ``model.generate``. With LADDER_SERVER=http://…/v1
the tests of a served model ask a real one instead, which must serve nano-tiny.
"""

import argparse
import copy
import json
import os
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from data.datasets import load
from data.files import UserError, read_jsonl
from data.problem import Problem, write_records
from pipeline import client as client_module
from pipeline.client import Client, RequestLimit, ServedModel
from pipeline.evaluate import evaluate
from pipeline.forward import token_logprobs
from pipeline.generate import generate
from pipeline.prompts import THINK, build_messages, encode_forced_opening, encode_prompt
from pipeline.score import add_score_arguments, score_model
from pipeline.stage_dir import StageDir, seal

REAL_SERVER = os.environ.get("LADDER_SERVER")

# Nats a token. A real server computes in bf16 or by other kernels.
TOLERANCE = 0.05 if REAL_SERVER else 1e-4

PROBLEM = Problem("p", "What is 7 + 3?", "10", "number")


class Server(ThreadingHTTPServer):
    """Answers by ``answer``, a function of the request's body; ``faults`` says what goes wrong with the next ones."""

    # As many as are sent at once; beyond it connections are dropped.
    request_queue_size = 256

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.lock = threading.Lock()
        self.faults = []
        self.refusal = b'{"error": "slow down"}'
        self.bodies = []
        self.keys = []
        self.models = {"data": [{"id": "m"}]}
        self.answer = write_chat

    def handle_error(self, request, client_address):
        """Ignore a client that has gone away."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        """Print nothing."""

    def do_GET(self):
        self.send(200, json.dumps(self.server.models).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.append(self.headers["Authorization"])
            fault = self.server.faults.pop(0) if self.server.faults else ""

        if fault == "timeout":
            time.sleep(1.0)
        if fault.isdigit():
            self.send(int(fault), self.server.refusal, {"Retry-After": "0.01"})
            return

        text = json.dumps(self.server.answer(body)).encode()
        if fault == "dropped":
            self.drop(text)
            return

        damaged = {
            "broken": text[: len(text) // 2],
            "error": b'{"error": {"message": "overloaded"}}',
            "shape": b'{"choices": []}',
            "partial": json.dumps(json.loads(text) | {"error": {"message": "overloaded"}}).encode(),
            "ended": text.replace(b'"finish_reason": "stop"', b'"finish_reason": "error"'),
            "empty": b'{"choices": [{"message": {"role": "assistant"}, "finish_reason": "stop"}]}',
            "list": b"[]",
            "page": b"<html>",
        }
        self.send(200, damaged.get(fault, text))

    def send(self, status, text, headers=()):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **dict(headers)}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def drop(self, text):
        """Break the connection in the middle of an answer."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text[:10])
        self.wfile.flush()
        self.connection.close()


def write_chat(body, **changes):
    """Return a teacher's answer."""
    message = {"role": "assistant", "content": "7 + 3 = 10\n\\boxed{10}", **changes}
    choice = {"message": message, "finish_reason": "length" if message["content"] is None else "stop"}
    return {"choices": [choice]}


@pytest.fixture
def server():
    """A running teacher."""
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Between attempts nothing is waited for."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


def connect(server, **changes):
    """Return a client of the server."""
    arguments = {"url": server.url, "model": "m", "key": "", "timeout": 0.4, **changes}
    return Client(**arguments)


def ask(client):
    """Ask one question."""
    return client.chat(build_messages(PROBLEM, "cot"), max_tokens=64, temperature=0.7, seed=3)


# A teacher


def test_a_chat_is_sent_as_asked_and_its_answer_read(server):
    answer = ask(connect(server))

    assert (answer.text, answer.finish) == ("7 + 3 = 10\n\\boxed{10}", "stop")
    [body] = server.bodies
    assert body == {
        "model": "m",
        "messages": build_messages(PROBLEM, "cot"),
        "max_tokens": 64,
        "temperature": 0.7,
        "seed": 3,
    }


@pytest.mark.parametrize(
    "fault",
    [
        "timeout",
        "429",
        "500",
        "503",
        "dropped",
        "broken",
        "error",
        "partial",
        "ended",
        "empty",
        "shape",
        "list",
        "page",
    ],
)
def test_what_goes_wrong_on_the_way_is_asked_for_again(server, fault):
    server.faults = [fault]
    client = connect(server)

    assert ask(client).text.endswith("\\boxed{10}")
    assert client.requests == len(server.bodies) == 2


def test_several_faults_in_a_row_are_overcome(server):
    server.faults = ["429", "dropped", "broken", "503"]
    assert ask(connect(server)).finish == "stop"


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "7 + 3 = 10"},
        {"reasoning": "7 + 3 = 10"},
        # Some servers send both, alike or one of them empty.
        {"reasoning_content": "7 + 3 = 10", "reasoning": "7 + 3 = 10"},
        {"reasoning_content": None, "reasoning": "7 + 3 = 10"},
        {"reasoning_content": "7 + 3 = 10", "reasoning": ""},
    ],
)
def test_a_thought_that_the_server_keeps_apart_stands_between_our_tags(server, fields):
    server.answer = lambda body: write_chat(body, **fields, content="\\boxed{10}")
    assert ask(connect(server)).text == "<think>\n7 + 3 = 10\n</think>\n\\boxed{10}"


def test_a_truncated_thought_is_an_answer_without_text(server):
    server.answer = lambda body: write_chat(body, content=None, reasoning_content="7 + 3")
    answer = ask(connect(server))

    assert (answer.text, answer.finish) == ("<think>\n7 + 3\n</think>\n", "length")
    assert len(server.bodies) == 1


def test_an_error_that_stays_is_one_line(server):
    server.faults = ["error"] * 20
    with pytest.raises(UserError, match=r"its answer cannot be read \(.*overloaded.*\); check the address") as caught:
        ask(connect(server))

    assert "\n" not in str(caught.value)
    assert len(server.bodies) == client_module.RETRIES + 1


def test_a_refusal_is_not_repeated_and_says_what_to_fix(server):
    server.faults = ["401"] * 20
    with pytest.raises(UserError, match=r"it refuses \(status 401: .*slow down.*OPENAI_API_KEY"):
        ask(connect(server))
    assert len(server.bodies) == 1


def test_what_a_server_says_does_not_move_the_terminal(server, monkeypatch):
    monkeypatch.setattr(server, "refusal", b"\x1b[2J")
    server.faults = ["401"] * 20
    with pytest.raises(UserError) as caught:
        ask(connect(server))
    assert "\\x1b[2J" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_server_that_stays_away_is_named(server):
    server.faults = ["dropped"] * 20
    with pytest.raises(UserError, match=r"no answer \(RemoteProtocolError, 6 times\); check the address"):
        ask(connect(server))
    assert len(server.bodies) == 6


def test_no_request_goes_beyond_the_cap_repeated_ones_counted(server):
    server.faults = ["429", "broken"]
    client = connect(server, max_requests=4)
    ask(client)
    ask(client)

    for _ in range(2):
        with pytest.raises(RequestLimit):
            ask(client)
    assert client.requests == len(server.bodies) == 4


def test_the_cap_ends_the_repetition_of_a_request(server):
    server.faults = ["429"] * 20
    with pytest.raises(RequestLimit):
        ask(connect(server, max_requests=2))
    assert len(server.bodies) == 2


def test_the_key_is_sent(server):
    ask(connect(server, key="secret"))
    assert server.keys == ["Bearer secret"]


@pytest.mark.parametrize("url", ["localhost:8000/v1", "", "http://HOST:PORT/v1", "http://:8000/v1", "http://a b/v1"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UserError, match="no address"):
        Client(url, "m", "", 1.0)


@pytest.mark.parametrize("url", ["https://example.org", "http://[::1]:8000/v1", "http://me@10.0.0.1:8000/v1"])
def test_what_is_an_address_is_taken(url):
    assert Client(url, "m", "", 1.0).url == url


def test_a_password_in_an_address_is_refused_and_not_shown():
    with pytest.raises(UserError, match="has a password") as error:
        Client("http://me:secret@host/v1", "m", "", 1.0)
    assert "secret" not in str(error.value)


# A served model


def serve(model):
    """Return the function that answers a completion request as vLLM does."""
    lock = threading.Lock()

    def answer(body):
        # A server begins with the model's own settings for sampling, as vLLM does.
        sampling = {"top_k": 1}
        sampling |= {name: body[name] for name in ("top_p", "top_k", "repetition_penalty") if name in body}
        prompt = torch.tensor([body["prompt"]])

        with lock:
            torch.manual_seed(body["seed"])
            output = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=body["max_tokens"],
                eos_token_id=body["stop_token_ids"],
                do_sample=body["temperature"] > 0,
                return_dict_in_generate=True,
                output_logits=True,
                **(sampling if body["temperature"] else {}),
            )

        ids = output.sequences[0, prompt.shape[1] :].tolist()
        logprobs = []
        for logits, token in zip(output.logits, ids, strict=True):
            logprobs.append(torch.log_softmax(logits[0].float(), -1)[token].item())

        finish = "stop" if ids[-1] in body["stop_token_ids"] else "length"
        choice = {"index": 0, "text": "", "finish_reason": finish, "token_ids": ids}
        return {"choices": [choice | {"logprobs": {"token_logprobs": logprobs}}]}

    return answer


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory):
    """The folder of the tiny base."""
    folder = tmp_path_factory.mktemp("base")
    for part in tiny:
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def served(server, tiny, base):
    """The tiny base behind an address."""
    server.answer = serve(tiny[0])
    return ServedModel(REAL_SERVER or server.url, base)


def complete(served, prompts, **options):
    """Ask it as an evaluation does."""
    opening = encode_forced_opening(served.tokenizer)
    return served.generate(prompts, places=range(len(prompts)), prefixes=[opening] * len(prompts), **options)


def test_a_served_model_gives_the_answers_of_a_loaded_one(served, tiny):
    problems = load("arithmetic_v1", "dev").problems[:12]
    settings = {"max_new_tokens": 12, "batch_size": 8, "label": "test"}

    remote = evaluate(served, served.tokenizer, problems, "think", **settings).completions
    local = evaluate(*tiny, problems, "think", **settings).completions
    assert remote == local


def test_score_asks_a_server_as_it_asks_the_model(served, server, base, tmp_path, monkeypatch):
    # The server computes in fp32.
    monkeypatch.setattr("pipeline.models.load.resolve_precision", lambda load: "fp32")
    problems = load("arithmetic_v1", "dev").problems[:3]
    write_records(tmp_path / "sums.jsonl", problems)
    parser = argparse.ArgumentParser()
    add_score_arguments(parser)

    def score(*options):
        out = tmp_path / str(len(options))
        line = ["--model", str(base), "--benchmark", str(tmp_path / "sums.jsonl"), "--prompt", "cot"]
        scores = score_model(parser.parse_args([*line, *options, "--out", str(out)]))
        return scores, [row for _, row in read_jsonl(out / scores["completions"])]

    scores, answers = score("--url", REAL_SERVER or server.url)
    assert scores["n"] == 3
    assert answers == score()[1]

    stage = StageDir(tmp_path / "sft")
    seal(stage.folder, [], {"base": str(base), "inputs": {"load": "fp32", "generation": {}}}, "scoring")
    line = ["--model", str(stage.folder), "--benchmark", "arithmetic_v1", "--prompt", "think", "--out", str(tmp_path)]
    with pytest.raises(UserError, match="a server has no stages; export it and serve that"):
        score_model(parser.parse_args([*line, "--url", server.url]))


def test_its_samples_are_of_the_whole_distribution_and_its_log_probabilities_ours(served, tiny):
    model, tokenizer = tiny
    prompts = []
    for problem in load("logic_v1", "dev").problems[:3]:
        prompts += [encode_prompt(tokenizer, problem, "cot")] * 4

    ends = {}
    counts = Counter()
    sequences = complete(
        served,
        prompts,
        max_new_tokens=16,
        temperature=1.0,
        seed=3,
        on_progress=lambda texts, tokens: counts.update(texts=texts, tokens=tokens),
        on_sequence_end=ends.__setitem__,
    )

    assert ends == dict(enumerate(sequences))
    assert counts == {"texts": 12, "tokens": sum(len(sequence.ids) for sequence in sequences)}
    # Not the one text that the model's own settings (top_k) would give.
    assert len({tuple(sequence.ids) for sequence in sequences[:4]}) == 4
    for prompt, sequence in zip(prompts, sequences, strict=True):
        ours = token_logprobs(model, prompt, sequence.ids)
        assert (ours - torch.tensor(sequence.logprobs)).abs().max() < TOLERANCE


def test_a_served_sequence_is_like_one_of_ours(served, tiny):
    prompt = encode_prompt(tiny[1], PROBLEM, "think")
    [remote] = complete(served, [prompt], max_new_tokens=8)
    [local] = generate(*tiny, [prompt], max_new_tokens=8)

    assert (remote.ids, remote.forced, remote.finish) == (local.ids, local.forced, local.finish)


def test_a_thought_that_the_template_opens_begins_a_served_sequence_too(served, tiny):
    served.tokenizer = copy.deepcopy(served.tokenizer)
    served.tokenizer.chat_template += "{% if add_generation_prompt %}<think>{% endif %}"
    prompt = encode_prompt(served.tokenizer, PROBLEM, "think")
    assert prompt == encode_prompt(tiny[1], PROBLEM, "think")

    [remote] = complete(served, [prompt], max_new_tokens=8)
    [local] = generate(tiny[0], served.tokenizer, [prompt], max_new_tokens=8)
    assert (remote.ids, remote.forced, remote.finish) == (local.ids, local.forced, local.finish)
    assert served.tokenizer.decode(remote.ids[:1]) == THINK
    assert len(remote.ids) == len(remote.logprobs)


def drop_ids(answer):
    """Return what a server of OpenAI's protocol says, without vLLM's additions."""
    del answer["choices"][0]["token_ids"]
    return answer


def test_a_server_that_gives_no_ids_is_refused(server, served):
    whole = server.answer
    server.answer = lambda body: drop_ids(whole(body))
    with pytest.raises(UserError, match="its answer cannot be read"):
        complete(served, [[5, 6]], max_new_tokens=4)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"data": [{"id": "a"}, {"id": "b"}]}, r"it serves 2 models \(\['a', 'b'\]\); start it with one"),
        ({"data": []}, "it serves 0 models"),
        ({"data": [1]}, "its answer cannot be read"),
        ({}, "its answer cannot be read"),
    ],
)
def test_a_server_of_several_models_is_refused(server, base, models, message):
    server.models = models
    with pytest.raises(UserError, match=message):
        ServedModel(server.url, base)


def test_a_server_that_is_not_there_is_named(base):
    with pytest.raises(UserError, match=r"server http://127\.0\.0\.1:1/v1: no answer \(ConnectError, 6 times\)"):
        ServedModel("http://127.0.0.1:1/v1", base)
