"""Data sets: our own by name, sets of the hub, and files; each becomes problems in the same way.

    arithmetic_v1                                               one of our own
    mine.jsonl                                                  a file with id, question, answer
    mine.jsonl?question=input&answer=target                     the same with other field names
    mine.json?question={Body} {Question}&level=none             a template of fields, and a field left out
    openai/gsm8k?config=main&split=train&answer_after=####      a set of the hub
    gsm8k?take=200                                              a set of the hub whose fields are known here
    gsm8k?file=copy.jsonl                                       the same from a local copy

A recipe writes the same as ``{set: gsm8k, split: train, take: 200}``; `data/dataset_spec.py` lists the keys.

    python -m data.datasets --set logic_v1 --split dev --out FILE
    python -m data.datasets --committed [FOLDER]                build data/benchmarks again
"""

import argparse
import dataclasses
import functools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data import generated
from data.command_line import ArgumentParser, exit_on_user_error
from data.dataset_spec import BUILT_IN, DEV_NAMES, MAX_TAKE, DatasetSpec, list_given, parse_spec, split_list
from data.fields import map_fields
from data.files import UserError, read_rows, sha256_file, sha256_json, suggest
from data.problem import Problem, parse_problem, record_to_json, write_records
from data.splits import LEVELS, SPLITS, normalize_text, split_of, take_stratified

BENCHMARKS = tuple(generated.GENERATORS)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Problems under a name that can be a file's.

    ``places`` says where each stands (id -> file and line). ``sha256`` is that of the file as it is, or of the problems
    where they are a part of it, go by other names or come from the hub. ``source`` is the hub's set at its commit.
    """

    name: str
    problems: list[Problem]
    places: dict[str, str]
    sha256: str
    source: str
    spec: DatasetSpec


def load(
    name: str,
    split: str | None = None,
    n: int | None = None,
    **fields: Any,
) -> Dataset:
    """``n`` problems of a split of a data set; the other keys of a :class:`DatasetSpec` go by their names."""
    return load_spec(DatasetSpec(name, split=split, take=n, **fields))


def load_spec(spec: DatasetSpec) -> Dataset:
    """The problems that a spec names; a split that the set has is taken as it is.

    Raises:
        UserError: the set, its split or a field is unknown, a row is no problem, or there are fewer than ``take``.
    """
    if spec.set in BENCHMARKS:
        return _load_ours(spec)

    source = _open_source(spec)
    split = spec.split or source.default_split
    problems = source.read_split(split)
    _check_count(problems, spec)
    problems = take_stratified(problems, spec.take)

    # A file that is taken as it is has the checksum that `sha256sum` gives.
    is_whole = split == "all" and list_given(spec).keys() <= {"split"}
    is_whole_file = is_whole and Path(spec.set).is_file()
    sha256 = sha256_file(spec.set) if is_whole_file else hash_problems(problems)
    return Dataset(source.name, problems, source.places, sha256, source.origin, spec)


def load_train(spec: DatasetSpec, n: int | None = None) -> list[Problem]:
    """At most ``n`` problems to train on, none of which is among those of :func:`load_dev`.

    They are those of the train split, or of another split that the spec names for it ("all" of a file). A spec that
    names a dev or test split, as a benchmark's does, has the train split that stands beside it.

    Raises:
        UserError: there is no train split, or it has fewer problems than the spec's ``take``.
    """
    if spec.set in BENCHMARKS:
        problems = _draw_train(spec, spec.take if n is None else n)
        # Fewer than ``take`` will do where fewer were asked for, but not none.
        if n is None or (n and not problems):
            _check_count(problems, spec)
        return problems

    problems = _open_source(spec).read_train()
    _check_count(problems, spec)
    return take_stratified(problems, spec.take if n is None else n)


def load_dev(spec: DatasetSpec, n: int | None = None) -> list[Problem]:
    """At most ``n`` problems to choose by while training on :func:`load_train`'s.

    They are the set's own dev split, or the share of its train problems that :func:`split_of` puts into dev.

    Raises:
        UserError: there is neither.
    """
    if spec.set in BENCHMARKS:
        committed = generated.load_committed(spec.set, "dev")
        problems = _select_wanted(committed, spec)
    else:
        problems = _open_source(spec).read_dev()

    if not problems:
        raise UserError(f"data set {spec.set}: no problem falls into its dev split; give more problems")
    return take_stratified(problems, n)


def has_train_split(spec: DatasetSpec) -> bool:
    """Whether there is a train split beside the split that a benchmark's spec names."""
    # Nothing is left beside these.
    if spec.split in ("train", "all"):
        return False
    if spec.set in BENCHMARKS:
        return True

    source = _open_source(spec)
    # A file has a train split where only a share of it was named, and something falls into the other one.
    if "all" in source.rows:
        return spec.split is not None and bool(source.read_train())
    return source.train_split in source.rows and source.train_split != spec.split


def _load_ours(spec: DatasetSpec) -> Dataset:
    split = spec.split or "test"
    if split not in SPLITS:
        raise UserError(f"data set {spec.set}: no split {split!r}; {suggest(split, SPLITS)}")
    given = list_given(spec).keys()
    if not given <= {"split", "take", "families", "levels"}:
        raise UserError(f"data set {spec.set}: is our own; only split=, take=, families= and levels= go with it")

    path = generated.committed_path(spec.set, split)
    committed = generated.load_committed(spec.set, split)
    # Of train there are more than the committed ones.
    problems = _draw_train(spec, spec.take) if split == "train" else _select_wanted(committed, spec)
    _check_count(problems, spec)

    # Our files are in stratified order already.
    problems = problems[: spec.take]
    # Problems that were made on the spot stand in no line.
    places = {problem.id: str(path) for problem in problems}
    places |= {problem.id: f"{path}:{line}" for line, problem in enumerate(committed, 1)}
    sha256 = sha256_file(path) if given <= {"split"} else hash_problems(problems)
    return Dataset(spec.set, problems, places, sha256, "", spec)


def _draw_train(spec: DatasetSpec, n: int | None) -> list[Problem]:
    """``n`` train problems of a set of ours; those that are committed where ``n`` is None."""
    count = max(n or 0, generated.TRAIN_SIZE)
    problems = _select_wanted(generated.load_train_problems(spec.set, count), spec)

    # Others are made until there are enough, or until there are no more.
    found = 0
    while n is not None and found < len(problems) < n and count < MAX_TAKE:
        found = len(problems)
        count += generated.TRAIN_SIZE
        problems = _select_wanted(generated.load_train_problems(spec.set, count), spec)
    return problems[:n]


def _select_wanted(problems: Iterable[Problem], spec: DatasetSpec) -> list[Problem]:
    """The problems of the families and levels that a spec leaves."""
    wanted = list(problems)
    if spec.families:
        families = split_list(spec.families)
        _check_names("families", families, generated.GENERATORS.get(spec.set, ()), spec)
        wanted = [problem for problem in wanted if problem.family in families]
    if spec.levels:
        levels = split_list(spec.levels)
        _check_names("levels", levels, map(str, LEVELS), spec)
        wanted = [problem for problem in wanted if str(problem.level) in levels]
    return wanted


def _check_names(key: str, names: Iterable[str], known: Iterable[str], spec: DatasetSpec) -> None:
    # A user's file may have any.
    if spec.set not in BENCHMARKS:
        return

    valid = list(known)
    for name in names:
        if name not in valid:
            raise UserError(f"data set {spec.set}: {key} has {name!r}; {suggest(name, valid)}")


def _check_count(problems: Sequence[Problem], spec: DatasetSpec) -> None:
    if not problems:
        raise UserError(
            f"data set {spec.set}: its split is empty; check families= and levels=, or name another split, or give "
            "more problems"
        )
    if spec.take and len(problems) < spec.take:
        raise UserError(f"data set {spec.set}: has only {len(problems)} problems; lower take")


def hash_problems(problems: Iterable[Problem]) -> str:
    """The sha256 of problems, every field of them."""
    return sha256_json([record_to_json(problem) for problem in problems])


# Files and sets of the hub: rows, by split


Row = tuple[str, dict[str, Any]]  # its place and its fields


class _Source:
    """The rows of a file or of a set of the hub, by the splits that it has, and how they become problems.

    A file of the user's is one split, "all"; its train, dev and test are shares of that.
    """

    def __init__(
        self,
        name: str,
        spec: DatasetSpec,
        rows: Mapping[str, Iterable[Row]],
        origin: str = "",
    ):
        self.name = name
        self.spec = spec
        self.rows = rows
        self.origin = origin

        # Each split once it was read: the rows of a file come only once.
        self.problems: dict[str, list[Problem]] = {}
        self.places: dict[str, str] = {}
        self.default_split = "all" if "all" in rows else "test"

    @property
    def train_split(self) -> str:
        """The split to train on: a benchmark's spec names another, and means the train split beside it."""
        is_held_out = self.spec.split in (None, "test", *DEV_NAMES)
        return "train" if is_held_out else str(self.spec.split)

    def read_split(self, split: str) -> list[Problem]:
        if split in self.rows:
            return self._parse(split)
        if "all" in self.rows and split in SPLITS:
            return _select_share(self._parse("all"), split)
        if split == "dev":
            return self.read_dev()

        names = [*self.rows, *SPLITS] if "all" in self.rows else self.rows
        raise UserError(f"data set {self.spec.set}: no split {split!r}; {suggest(split, names)}")

    def read_dev(self) -> list[Problem]:
        for name in DEV_NAMES:
            if name in self.rows:
                return self._parse(name)

        larger = "all" if "all" in self.rows else self.train_split
        return _select_share(self.read_split(larger), "dev")

    def read_train(self) -> list[Problem]:
        # A question may stand in both of a set's own splits; then it is dev's.
        dev_questions = {normalize_text(problem.question) for problem in self.read_dev()}
        problems = self.read_split(self.train_split)
        return [problem for problem in problems if normalize_text(problem.question) not in dev_questions]

    def _parse(self, split: str) -> list[Problem]:
        if split in self.problems:
            return self.problems[split]

        places: dict[str, str] = {}
        problems = []
        for number, (place, row) in enumerate(self.rows[split]):
            record = map_fields(row, self.spec, place)
            # Unique among all sets that a stage trains on.
            record.setdefault("id", f"{self.name}-{split}-{number}")
            problem = parse_problem(record, place)

            if problem.id in places:
                raise UserError(f"{place}: id {problem.id!r} is already at {places[problem.id]}; ids must be unique")
            places[problem.id] = place
            problems.append(problem)

        self.places |= places
        self.problems[split] = _select_wanted(problems, self.spec)
        return self.problems[split]


def _select_share(problems: Iterable[Problem], split: str) -> list[Problem]:
    """The problems whose questions fall into a split."""
    return [problem for problem in problems if split_of(normalize_text(problem.question)) == split]


def _open_source(spec: DatasetSpec) -> _Source:
    name = spec.set
    if name in BUILT_IN:
        known = parse_spec(BUILT_IN[name])
        full_spec = dataclasses.replace(known, **list_given(spec))
        if not spec.file:
            return _open_hub(name, full_spec)

        # A copy holds the one split that was named.
        rows = {spec.split or "test": read_rows(spec.file)}
        return _Source(name, full_spec, rows)

    if spec.file:
        raise UserError(f"data set {name}: file= goes with {', '.join(BUILT_IN)}; give the file as the set instead")

    path = Path(name)
    # Not is_file(), which says no of a pipe, and not path.exists(), which raises where a name is too long.
    is_file = os.path.exists(name) and not os.path.isdir(name)
    if is_file or name.endswith((".jsonl", ".json")):
        return _Source(path.stem, spec, {"all": read_rows(path)})
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        title = name.split("/")[1]
        return _open_hub(f"{title}_{spec.config}" if spec.config else title, spec)

    raise UserError(
        f"data set {name!r} is unknown; {suggest(name, [*BENCHMARKS, *BUILT_IN])}, or a .jsonl or .json file, "
        "or a set of the hub as OWNER/NAME"
    )


def _open_hub(name: str, spec: DatasetSpec) -> _Source:
    rows = {}
    commits = set()
    for split, table in _load_hub(spec.set, spec.config, spec.revision).items():
        rows[split] = _read_hub(table, f"{spec.set} {split}")
        # datasets keeps what it read in a folder named by the commit, which it says nowhere else.
        for file in table.cache_files:
            commits.add(Path(file["filename"]).parent.name)

    origin = " ".join(["hub", spec.set, "at", *sorted(commits)])
    return _Source(name, spec, rows, origin)


@functools.cache
def _load_hub(repository: str, config: str | None, revision: str | None) -> Mapping[str, Any]:
    # Slow to import, and few runs need them.
    import httpx2
    from datasets import load_dataset
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return load_dataset(repository, config, revision=revision)
    except (OSError, ValueError, HfHubHTTPError, httpx2.TransportError) as error:
        # Some of these errors have several lines, others none.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"data set {repository}: the hub does not give it ({reason}); check the name, config= and the network, "
            "or give a local copy as a .jsonl file"
        ) from None


def _read_hub(table: Iterable[dict[str, Any]], title: str) -> Iterator[Row]:
    for number, row in enumerate(table):
        yield f"{title}, row {number}", row


# The command line


@exit_on_user_error
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    assert __doc__ is not None
    summary, description = __doc__.split("\n\n", 1)
    parser = ArgumentParser(
        prog="python -m data.datasets",
        description=summary,
        epilog=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--set", metavar="SET", help="what to read")
    parser.add_argument("--split", help="train, dev, test, or another that the set has")
    parser.add_argument("--out", metavar="FILE", help="the JSONL file to write")
    parser.add_argument(
        "--committed",
        metavar="FOLDER",
        nargs="?",
        const=generated.FOLDER,
        type=Path,
        help="build our own benchmarks again, into data/benchmarks or a folder",
    )
    options = parser.parse_args(arguments)

    if options.committed:
        if options.set or options.split or options.out:
            parser.error("--committed goes alone")
        generated.write_committed(options.committed)
        return 0

    if not (options.set and options.split and options.out):
        parser.error("give --set, --split and --out, or --committed")
    spec = dataclasses.replace(parse_spec(options.set), split=options.split)
    write_records(options.out, load_spec(spec).problems)
    return 0


if __name__ == "__main__":
    sys.exit(main())
