"""Write a split to a file, and rebuild or read the committed ones.

python -m data.build --split test --out FILE     one split, of both benchmarks or of --benchmark
python -m data.build --committed                 data/benchmarks/*.jsonl and their SHA256SUMS
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data.command import Parser, one_line_errors
from data.overlap import overlaps
from data.records import BadInput, Problem, read_problems, sha256_of, write_records, write_text
from data.splits import BENCHMARKS, SPLITS, build, normalise

FOLDER = Path(__file__).parent / "benchmarks"
SEED = 1
PER_LEVEL = {"train": 400, "dev": 50, "test": 100}


def load(benchmark: str, split: str) -> list[Problem]:
    """A committed split, refused where its file is not the one that was committed."""
    path = FOLDER / f"{benchmark}.{split}.jsonl"
    sums = FOLDER / "SHA256SUMS"
    remedy = "restore it with `git checkout data/benchmarks`"
    for file in (sums, path):
        if not file.is_file():
            raise BadInput(f"{file}: no such file; {remedy}")
    if f"{sha256_of(path)}  {path.name}" not in sums.read_text(encoding="utf-8").splitlines():
        raise BadInput(f"{path}: does not match its checksum; {remedy}")
    return read_problems(path)


def train(benchmark: str, count: int) -> list[Problem]:
    """The committed train problems and, up to ``count`` in all, others made on the spot, always the same. None of them
    repeats a question, or gives a dev or test problem away; so there are fewer of the families that have few questions,
    such as the sums of level 1."""
    problems, seed = load(benchmark, "train"), SEED
    count = max(count, len(problems))
    while len(problems) < count:
        seed += 1
        problems += _more(benchmark, seed)
    return problems[:count]


@functools.cache
def _more(benchmark: str, seed: int) -> Sequence[Problem]:
    """The problems of one seed that neither the committed ones nor those of the seeds before it have."""
    before = load(benchmark, "train") + [p for earlier in range(SEED + 1, seed) for p in _more(benchmark, earlier)]
    texts = {normalise(problem.question) for problem in before}
    # The same sum in other words is welcome here: drawing on for another is nearly all that a split's making costs.
    made = build(benchmark, "train", PER_LEVEL["train"], seed, draws_for_a_new_key=0)
    made = [problem for problem in made if normalise(problem.question) not in texts]
    held = [problem for split in ("dev", "test") for problem in load(benchmark, split)]
    while leaks := {problem.id for problem, _, _ in overlaps(made, held)}:
        made = [problem for problem in made if problem.id not in leaks]
    return [replace(p, id=f"{benchmark}-train-{n:04d}") for n, p in enumerate(made, len(before) + 1)]


def write_committed(folder: Path = FOLDER) -> None:
    """Every split of every benchmark, and the checksums, which ``sha256sum -c`` reads."""
    sums = []
    for benchmark in BENCHMARKS:
        for split in SPLITS:
            path = folder / f"{benchmark}.{split}.jsonl"
            write_records(path, build(benchmark, split, PER_LEVEL[split], SEED))
            sums.append(f"{sha256_of(path)}  {path.name}\n")
    write_text(folder / "SHA256SUMS", "".join(sums))


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    assert __doc__ is not None
    summary, examples = __doc__.split("\n\n")
    parser = Parser(
        prog="python -m data.build",
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--split", choices=SPLITS)
    parser.add_argument("--out", metavar="FILE", help="the JSONL file to write")
    parser.add_argument("--benchmark", choices=list(BENCHMARKS), help="default: all of them, in one file")
    parser.add_argument("--committed", action="store_true", help="rebuild data/benchmarks")
    options = parser.parse_args(arguments)
    if options.committed == bool(options.split or options.out or options.benchmark):
        parser.error("give --split and --out, or --committed alone")
    if options.committed:
        write_committed()
        return 0
    if not (options.split and options.out):
        parser.error("--split and --out go together")
    benchmarks = [options.benchmark] if options.benchmark else list(BENCHMARKS)
    problems = [p for name in benchmarks for p in build(name, options.split, PER_LEVEL[options.split], SEED)]
    write_records(options.out, problems)
    return 0


if __name__ == "__main__":
    sys.exit(main())
