"""A served model: asked with our ids it gives what our own decoding gives, and what is no such server is one line.

The server here speaks vLLM's protocol and decodes by ``model.generate``. With LADDER_SERVER=http://…/v1 the first two
tests ask a real one instead, which must serve nano (``vllm serve $LADDER_CACHE/nano-…``).
"""

import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from data.build import load
from data.records import read_completions
from pipeline import __main__ as command_line
from pipeline import base, generate
from pipeline import recipe as recipes
from pipeline.prompts import prompt_ids
from pipeline.served import Served

REAL = os.environ.get("LADDER_SERVER")
CLOSE = 0.05 if REAL else 1e-4  # nats a token; a real server computes in bf16 or by other kernels


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def say(self, status, value):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.say(200, {"data": self.server.models or [{"id": name} for name in self.server.names]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        # A server begins with the model's own generation settings, as vLLM does.
        sampling = {"top_k": 1} | {key: body[key] for key in ("top_p", "top_k", "repetition_penalty") if key in body}
        with self.server.lock:
            self.server.asked.append(body)
            torch.manual_seed(body["seed"])
            prompt = torch.tensor([body["prompt"]])
            made = self.server.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=body["max_tokens"],
                eos_token_id=body["stop_token_ids"],
                do_sample=body["temperature"] > 0,
                return_dict_in_generate=True,
                output_logits=True,
                **(sampling if body["temperature"] else {}),
            )
        ids = made.sequences[0, prompt.shape[1] :].tolist()
        logprobs = [torch.log_softmax(step[0].float(), -1)[i].item() for step, i in zip(made.logits, ids, strict=True)]
        finish = "stop" if ids[-1] in body["stop_token_ids"] else "length"
        choice = {"index": 0, "text": "", "finish_reason": finish, "token_ids": ids}
        choice |= {"logprobs": {"token_logprobs": logprobs}}
        self.say(200, self.server.change({"choices": [choice]}))


class Server(ThreadingHTTPServer):
    request_queue_size = 256  # as many as are asked at once; beyond it connections are dropped


@pytest.fixture(scope="module")
def nano():
    return base.load(base.resolve("nano"), setting="fp32")


@pytest.fixture
def server(nano):
    with Server(("127.0.0.1", 0), Handler) as running:
        running.model, running.lock, running.asked = nano[0], threading.Lock(), []
        running.names, running.models, running.change = ["nano"], None, lambda answer: answer
        running.url = REAL or f"http://127.0.0.1:{running.server_port}/v1"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def complete(url, out, *more):
    command = ["complete", "--model", "nano", "--benchmark", "arithmetic_v1", "--prompt", "think", "--limit", "16"]
    return command_line.main([*command, "--out", str(out), *(["--server", url] if url else []), *more])


def test_a_served_model_gives_the_answers_of_a_loaded_one(server, nano, tmp_path, monkeypatch):
    few = recipes.override(recipes.load("cpu", [], "nano"), "eval.max_tokens=30")  # so that some are cut
    monkeypatch.setattr(recipes, "load", lambda *_, **__: few)
    assert complete(server.url, tmp_path / "served.jsonl") == 0
    monkeypatch.setattr(base, "load", lambda *_, **__: nano)  # in fp32, as the server has it
    assert complete(None, tmp_path / "loaded.jsonl") == 0
    served, loaded = (read_completions(tmp_path / f"{name}.jsonl") for name in ("served", "loaded"))
    same = sum(mine == theirs for mine, theirs in zip(loaded, served, strict=True))
    assert same >= (12 if REAL else 16)
    assert {c.finish for c in served} == {"stop", "length"}


def test_its_samples_are_of_the_whole_distribution_and_its_log_probabilities_ours(server, nano):
    model, tokenizer = nano
    prompts = [prompt_ids(tokenizer, p, "cot") for p in load("logic_v1", "dev")[:4] for _ in range(4)]
    told = []
    samples = Served(server.url, base.resolve("nano")).generate(
        prompts,
        max_tokens=24,
        temperature=1.0,
        seed=3,
        progress=lambda *_: None,
        finished=lambda i, sample: told.append((i, sample)),
    )
    assert sorted(i for i, _ in told) == list(range(16)) and all(samples[i] is sample for i, sample in told)
    assert len({tuple(s.ids) for s in samples[:4]}) == 4  # not the one that the model's own settings (top_k) would give
    for prompt, sample in zip(prompts, samples, strict=True):
        theirs = generate.given(model, prompt, sample.ids)
        assert (theirs - torch.tensor(sample.logprobs)).abs().max() < CLOSE


def text_only(answer):
    """What a server of OpenAI's protocol says, without vLLM's additions."""
    del answer["choices"][0]["token_ids"]
    return answer


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"names": ["a", "b"]}, "it serves 2 models"),
        ({"names": []}, "it serves 0 models"),
        ({"models": [1]}, "it serves 0 models"),
        ({"models": "nano"}, "it serves 0 models"),
        ({"change": text_only}, "its answer has no token_ids and logprobs"),
        ({"change": lambda _: b"<html>"}, r"no answer to completions \(JSONDecodeError\)"),
        ({"change": lambda _: b"[]"}, "completions is refused"),
        ({"url": "http://127.0.0.1:1/v1"}, r"no answer to models \(ConnectError\); check the address"),
        ({"url": "localhost:8000/v1"}, "no answer to models"),
    ],
)
def test_what_is_no_such_server_is_one_line_and_leaves_nothing(server, tmp_path, capsys, monkeypatch, change, says):
    for name, value in change.items():
        monkeypatch.setattr(server, name, value)
    assert complete(server.url, tmp_path / "out.jsonl") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert [line for line in said if line.startswith("error: ")] == said[-1:] and not list(tmp_path.iterdir())
    assert re.search(says, said[-1])


def test_what_a_server_cannot_do_is_refused(capsys, tmp_path):
    assert complete("http://127.0.0.1:1/v1", tmp_path / "out.jsonl", "--budget", "8") == 2
    assert "--server: a server knows no --budget" in capsys.readouterr().err
