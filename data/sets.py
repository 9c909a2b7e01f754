"""Benchmarks: ours by name, a file, or a set of the hub, the latter two with their fields named where they differ.

    arithmetic_v1                                            a built-in name
    mine.jsonl                                               a file with id, question, answer
    mine.jsonl?question=input&answer=target                  the same with other names
    openai/gsm8k?config=main&answer=answer&after=####        a set of the hub
    gsm8k?file=copy.jsonl                                    a built-in set of the hub, from a local copy

After the ``?`` stand ``key=value`` pairs joined by ``&``: ``config``, ``split`` (default: test) and ``revision`` of a
hub set; ``id``, ``question``, ``answer``, ``choices``, ``rationale`` name fields, two as ``question=passage,question``;
``after`` is what the answer stands behind in its field, the rest being the rationale; ``options=yes,no`` are the
choices of every problem, ``kind`` the kind of every answer.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.build import FOLDER, load
from data.records import BadInput, Problem, nearest, problem_of, record_json, rows_of, sha256_of
from data.splits import BENCHMARKS

# Names and fields as lm-evaluation-harness 0.4.13 reads gsm8k and bbh, and as the page of ChilleD/SVAMP gives them.
BUILT_IN = {
    "gsm8k": "openai/gsm8k?config=main&after=####&kind=number",
    "svamp": "ChilleD/SVAMP?id=ID&question=question_concat&answer=Answer&kind=number",
    "bbh_boolean_expressions": (
        "SaylorTwift/bbh?config=boolean_expressions&question=input&answer=target&options=True,False&kind=label"
    ),
    "bbh_formal_fallacies": (
        "SaylorTwift/bbh?config=formal_fallacies&question=input&answer=target&options=valid,invalid&kind=label"
    ),
}
FIELDS = ("id", "question", "answer", "choices", "rationale")
KEYS = (*FIELDS, "config", "split", "revision", "after", "options", "kind", "file")


@dataclass(frozen=True)
class Benchmark:
    """Problems under a name that can be a file's. ``places`` says where each stands (id -> file and line); ``sha256``
    is that of the file as it is, or of the problems where they came from the hub or by other names; ``source`` is the
    hub's set at its commit."""

    name: str
    problems: list[Problem]
    places: dict[str, str]
    sha256: str
    source: str = ""


def read(spec: str) -> Benchmark:
    """The benchmark that a user names; BadInput says what is wrong with the name, the file or its line."""
    name, mapping = _parsed(spec)
    if name in BENCHMARKS and not mapping:
        path = FOLDER / f"{name}.test.jsonl"
        problems = load(name, "test")
        return Benchmark(name, problems, {p.id: f"{path}:{i}" for i, p in enumerate(problems, 1)}, sha256_of(path))
    title = name if name in BUILT_IN else ""
    if name in BUILT_IN:
        hub, known = _parsed(BUILT_IN[name])
        mapping = known | mapping
        name = mapping.pop("file", hub)
    elif "file" in mapping:
        raise BadInput(f"benchmark {spec}: file= goes with a built-in set ({', '.join(BUILT_IN)}); give FILE?… instead")
    path, source = Path(name), ""
    if name.endswith(".jsonl") or path.is_file():
        rows, title = rows_of(path), title or path.stem
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        rows, source = _from_hub(name, mapping, spec)
        title = title or "_".join([name.split("/")[1], *([mapping["config"]] if "config" in mapping else [])])
    else:
        raise BadInput(
            f"benchmark {spec!r} is unknown; {nearest(name, [*BENCHMARKS, *BUILT_IN])}, or a .jsonl file, or a set of "
            "the hub as OWNER/NAME"
        )
    places: dict[str, str] = {}
    problems = []
    for i, (where, row) in enumerate(rows):
        problem = problem_of(_mapped(row, mapping, where, str(i)), where)
        if problem.id in places:
            raise BadInput(f"{where}: id {problem.id!r} is already at {places[problem.id]}; ids must be unique")
        places[problem.id] = where
        problems.append(problem)
    sha256 = _digest(problems) if mapping or not path.is_file() else sha256_of(path)
    return Benchmark(title, problems, places, sha256, source)


def _parsed(spec: str) -> tuple[str, dict[str, str]]:
    name, _, query = spec.partition("?")
    mapping = {}
    for pair in query.split("&") if query else []:
        key, _, value = pair.partition("=")
        if key not in KEYS or not value:
            raise BadInput(f"benchmark {spec}: {key!r} is no key or has no value; {nearest(key, KEYS)}")
        mapping[key] = value
    return name, mapping


def _mapped(row: Mapping[str, Any], mapping: Mapping[str, str], where: str, number: str) -> dict[str, Any]:
    """The row with the contract's names; without a mapping it is the row itself."""
    if not mapping:
        return dict(row)
    mapped = dict(row)
    for field in FIELDS:
        names = mapping.get(field, field).split(",")
        missing = [name for name in names if name not in row]
        if field in mapping and missing:
            raise BadInput(f"{where}: no field {missing[0]!r}; {nearest(missing[0], row)}")
        if not missing:
            mapped[field] = row[names[0]] if len(names) == 1 else " ".join(str(row[name]).strip() for name in names)
    mapped.setdefault("id", number)
    if "after" in mapping:
        before, found, answer = str(mapped.get("answer")).rpartition(mapping["after"])
        if not found:
            raise BadInput(f"{where}: the answer holds no {mapping['after']!r}; mend the line or the after=")
        mapped["answer"] = answer.strip()
        mapped.setdefault("rationale", before.strip())
    if "options" in mapping:
        mapped["choices"] = mapping["options"].split(",")
    if "kind" in mapping:
        mapped["kind"] = mapping["kind"]
    return mapped


def _from_hub(repo: str, mapping: Mapping[str, str], spec: str) -> tuple[Iterable[tuple[str, dict[str, Any]]], str]:
    """Each row's place and its fields; and the set at its commit."""
    import httpx2
    from datasets import load_dataset
    from huggingface_hub.errors import HfHubHTTPError

    split = mapping.get("split", "test")
    try:
        rows = load_dataset(repo, mapping.get("config"), split=split, revision=mapping.get("revision"))
    except (OSError, ValueError, HfHubHTTPError, httpx2.TransportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BadInput(
            f"benchmark {spec}: the hub does not give it ({reason}); check the name, config=, split= and the network, "
            "or give a local copy as a .jsonl file"
        ) from None
    # datasets keeps what it read in a folder named by the commit, which it tells nowhere else.
    commits = {Path(file["filename"]).parent.name for file in rows.cache_files}
    source = " ".join([f"hub {repo} at", *sorted(commits)])
    return ((f"{repo} {split}, row {i}", {"id": str(i)} | row) for i, row in enumerate(rows)), source


def _digest(problems: Iterable[Problem]) -> str:
    text = "".join(json.dumps(record_json(p), ensure_ascii=False, sort_keys=True) + "\n" for p in problems)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
