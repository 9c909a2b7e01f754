"""Bases and benchmarks of the hub, from a local server that speaks its protocol: a base is looked at before its weights
are fetched, fetched once, pinned by its commit, and refused in a line where it cannot be had."""

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """``files`` of each repository by name, sets as datasets/OWNER/NAME; ``gated`` ones are listed, but not given;
    ``got``: what was fetched."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.gated = files, set()
        self.got: Counter[str] = Counter()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        path = self.path.partition("?")[0]
        asked = re.match(r"/api/(?:models/)?((?:datasets/)?[^/]+/[^/]+)", path)
        if found := re.fullmatch(rf"/((?:datasets/)?[^/]+/[^/]+)/resolve/(?:{COMMIT}|main)/(.+)", path):
            self.file(*found.groups(), body)
        elif asked and asked[1] in self.server.files:
            names = self.server.files[asked[1]]
            gated = "manual" if asked[1] in self.server.gated else False
            about = {"id": asked[1], "sha": COMMIT, "gated": gated, "cardData": {"license": "mit"}, "tags": []}
            rows = [{"type": "file", "path": n, "size": len(text), "oid": "0"} for n, text in names.items()]
            tree = "/tree/" in path
            self.give(json.dumps(rows if tree else about | {"siblings": [{"rfilename": n} for n in names]}).encode())
        else:
            self.refuse("RepoNotFound", 404)

    def file(self, repo, name, body):
        if repo in self.server.gated:
            self.refuse("GatedRepo", 403)
        elif name not in self.server.files[repo]:
            self.refuse("EntryNotFound", 404)
        else:
            self.server.got[f"{repo} {name}"] += body
            text = self.server.files[repo][name]
            self.give(text, {"ETag": f'"{sha256(text).hexdigest()}"', "X-Repo-Commit": COMMIT}, body)

    def give(self, text, headers=(), body=True):
        self.send_response(200)
        for name, value in {**dict(headers), "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(text)

    def refuse(self, reason, status):
        self.send_response(status)
        self.send_header("X-Error-Code", reason)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub(tiny, tmp_path):
    for part in tiny:
        part.save_pretrained(tmp_path / "base")
    files = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    files |= {"pytorch_model.bin": b"a pickle", "modeling_own.py": b"print('run')"}
    bare = {name: text for name, text in files.items() if not name.endswith(".safetensors")}
    sums = b"".join(b'{"input": "What is %d + 1?", "target": "%d"}\n' % (n, n + 1) for n in range(3))
    sets = {"datasets/team/sums": {"test.jsonl": sums}}
    with Hub({"team/tiny": files, "team/bare": bare, "team/gated": files} | sets) as server:
        server.gated.add("team/gated")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def ladder(hub, tmp_path):
    def run(*command):
        ours = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "LADDER_CACHE": str(tmp_path / "cache")}
        ours |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *command],
            cwd=ROOT,
            env=os.environ | ours,
            capture_output=True,
            text=True,
        )

    return run


def test_a_base_of_the_hub_is_looked_at_then_fetched_once_and_pinned(hub, ladder, tmp_path):
    done = ladder("check", "--base", "team/tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"ok  licence +mit\n", done.stdout) and re.search(r"ok  gated +no\n", done.stdout)
    assert hub.got["team/tiny config.json"] == 1 and not hub.got["team/tiny model.safetensors"]
    asking = ["plain", "--base", "team/tiny", "--runs", str(tmp_path / "runs"), "--limit", "2"]
    asking += ["--set", "plain.shots=[0]", "--set", "eval.max_tokens=8"]
    asking += ["--benchmark", "team/sums?question=input&answer=target"]
    done = ladder(*asking)
    assert done.returncode == 0, done.stderr
    assert hub.got["team/tiny model.safetensors"] == 1
    assert not hub.got["team/tiny pytorch_model.bin"] and not hub.got["team/tiny modeling_own.py"]
    made = json.loads((tmp_path / "runs" / "team--tiny" / "plain" / "manifest.json").read_text())["scoring"]
    assert made["source"] == f"hub team/tiny at {COMMIT}"
    assert made["benchmarks"] == {"sums": f"hub team/sums at {COMMIT}"}
    assert "What is 0 + 1?" in (tmp_path / "runs" / "team--tiny" / "problems" / "sums.jsonl").read_text()
    del hub.files["team/tiny"]  # what was fetched is not asked for again
    again = ladder(*asking)
    assert again.returncode == 0 and "plain: up to date" in again.stderr


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("team/none", "check the name"),
        ("team/gated", "gated"),
        ("team/bare", "it has no safetensors, and weights in a pickle are not loaded"),
    ],
)
@pytest.mark.parametrize("command", ["check", "plain"])
def test_what_the_hub_does_not_give_is_refused_in_a_line(ladder, tmp_path, command, base, says):
    done = ladder(command, "--base", base, *(["--runs", str(tmp_path / "runs")] if command == "plain" else []))
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.fullmatch(rf"error: base {base}: .*{says}.*\n", done.stderr)
    assert not list((tmp_path / "cache").glob("team--*"))
