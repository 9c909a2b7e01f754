"""The command line: ``python -m pipeline STAGE [options]``. Nothing heavy is imported before it is needed."""

import argparse
import importlib.util
import logging
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from data.command import Parser, one_line_errors
from data.records import BadInput, nearest, read_problems, rows_of, write_records
from pipeline import recipe as recipes

STAGES = recipes.STAGES
COMMANDS = (
    *(*STAGES, "adaptive_budget", "all", "controls", "tradeoff", "traces", "show-traces"),
    *("table", "report", "status", "ask", "check", "bench", "compare", "export", "complete"),
)
SHARED = (*STAGES, "adaptive_budget", "all", "controls")  # what several processes can do together
PROGRAM = "python -m pipeline"


def parser() -> Parser:
    """Every command and its options."""
    top = Parser(prog=PROGRAM, description="Five rungs of reasoning training on one small model.")
    common = Parser(add_help=False)
    common.add_argument("--base", default="smollm2-135m", help="a name, a hub id, a folder or a GGUF file")
    common.add_argument("--profile", help="cpu, gpu or multi_gpu (default: by what is there)")
    common.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where results go")
    common.add_argument("--limit", type=int, metavar="N", help="problems a benchmark, stratified by level")
    common.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    common.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="FILE|NAME",
        help="in place of ours; repeatable (data/sets.py)",
    )
    common.add_argument("--allow-overlap", action="store_true", help="score problems that train holds too, and say so")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage in (*STAGES, "adaptive_budget"):
        commands.add_parser(stage, parents=[common], help=f"run the {stage} stage and what it stands on")
    commands.add_parser("all", parents=[common], help="run all five stages and print the table")
    commands.add_parser("controls", parents=[common], help="run what must not help, and print the table with it")
    commands.add_parser("tradeoff", parents=[common], help="accuracy against tokens, of all ways to decide how long")
    for name, purpose in (("traces", "write verified traces of one source"), ("show-traces", "print some, at random")):
        made = commands.add_parser(name, parents=[common], help=purpose)
        made.add_argument(
            "--source",
            required=True,
            metavar="SOURCE",
            help="short, long or prose; own; teacher; a data set or file (data/sets.py)",
        )
        made.add_argument("--stage", default="sft", choices=("sft", "rl", "adaptive"), help="of own samples")
        if name == "show-traces":
            made.add_argument("--count", type=int, default=5, metavar="N")
    table = commands.add_parser("table", parents=[common], help="print the table of what has been run")
    table.add_argument("--controls", action="store_true", help="with the rows of the controls")
    table.add_argument("--format", choices=("markdown", "csv", "latex"), help="default: for the terminal")
    report = commands.add_parser("report", parents=[common], help="write one HTML page of a run, or of several")
    report.add_argument("--bases", nargs="+", metavar="BASE", help="several on one page, held to the first")
    report.add_argument("--out", type=Path, metavar="FILE", help="default: report.html in the run; of several, in runs")
    commands.add_parser("status", parents=[common], help="which stages are up to date, and why the others are not")
    ask = commands.add_parser("ask", parents=[common], help="ask every stage one question, or chat with them")
    ask.add_argument("question", nargs="?", help="without one: a chat, from the terminal or a line each from a pipe")
    ask.add_argument("--stages", nargs="+", default=[], metavar="STAGE", help="default: all that have been run")
    ask.add_argument("--budget", type=int, metavar="N", help="the most tokens a thought may have")
    ask.add_argument("--min-thinking", type=int, default=0, metavar="N", help="the fewest a thought may end with")
    commands.add_parser("check", parents=[common], help="whether a base will do, before its weights are fetched")
    commands.add_parser("bench", parents=[common], help="how fast this is, against the same libraries used plainly")
    compare = commands.add_parser("compare", parents=[common], help="all stages on several bases, in one table")
    compare.add_argument(
        "--bases", required=True, nargs="+", metavar="BASE", help="the first is what others are held to"
    )
    export = commands.add_parser("export", parents=[common], help="write a stage as one merged model")
    export.add_argument("--stage", default="adaptive", choices=STAGES)
    export.add_argument("--to", required=True, type=Path, metavar="FOLDER")
    complete = commands.add_parser("complete", help="write one model's completions of a benchmark file")
    complete.add_argument("--model", required=True, metavar="FOLDER|BASE", help="a stage's folder, or a base model")
    complete.add_argument("--benchmark", required=True, metavar="FILE|NAME")
    complete.add_argument("--prompt", required=True, choices=("plain", "cot", "think"))
    complete.add_argument("--shots", type=int, default=0, metavar="N")
    complete.add_argument("--budget", type=int, metavar="N", help="the most tokens a thought may have")
    complete.add_argument("--min-thinking", type=int, default=0, metavar="N", help="the fewest it may end with")
    complete.add_argument("--limit", type=int, metavar="N", help="problems, stratified by level")
    complete.add_argument("--server", metavar="URL", help="where a server has --model (vLLM's /v1; docs/machines.md)")
    complete.add_argument(
        "--after", type=Path, metavar="FILE", help="go on from these first answers and the feedback on them (JSONL)"
    )
    complete.add_argument("--temperature", type=float, metavar="T", help="sample; each --out FILE is another sample")
    complete.add_argument("--seed", type=int, default=0, help="of the samples")
    complete.add_argument(
        "--out",
        required=True,
        type=Path,
        nargs="+",
        metavar="FILE",
        help="several: one for each wording of the instruction, or with --temperature for each sample",
    )
    return top


def hush() -> None:
    """What must stand before the libraries are imported: their settings, and their chatter off the terminal."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Huge pages for large tensors: less memory at the peak of sft on a CPU (4.3 GB against 5.0).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    # The terminal gets errors; what else the libraries say goes to a stage's log (pipeline/progress.py), where one is.
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.ERROR)
    logging.basicConfig(level=logging.WARNING, handlers=[terminal])
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a full disk is the stage's to tell, not its log's


def quiet() -> None:
    """The same for libraries that have a logging of their own."""
    import datasets
    import transformers

    for name in ("transformers", "datasets", "huggingface_hub"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def default_profile() -> str:
    """cpu, gpu or multi_gpu by how many cards there are."""
    from pipeline import processes

    return {0: "cpu", 1: "gpu"}.get(processes.cards(), "multi_gpu")


def check_cards() -> None:
    """Refuse one process where there are several cards, as TRL does, but before anything is run."""
    from pipeline import processes

    if (cards := processes.cards()) > 1 and os.environ.get("WORLD_SIZE", "1") == "1":
        raise BadInput(
            f"there are {cards} cards and one process; start one for each (make PROCESSES={cards}), or show it one "
            "card: CUDA_VISIBLE_DEVICES=0"
        )


def open_run(options: argparse.Namespace, run_next: bool = True):
    """Everything the options name: recipe, benchmarks, base. What only matters to a run that comes next, whether train
    gives test problems away and whether the base will do, is checked for one, before anything is written."""
    from pipeline import runs

    recipe = recipes.load(options.profile or default_profile(), options.overrides, options.base)
    if options.limit is not None:
        recipe = recipes.override(recipe, f"eval.limit={max(options.limit, 0)}")
    benchmarks, held = runs.benchmarks(options.benchmark, recipe.eval.limit if options.limit is None else options.limit)
    if recipe.tracker != "none" and importlib.util.find_spec(recipe.tracker) is None:
        raise BadInput(f"tracker={recipe.tracker}: the package is not there; install it: pip install {recipe.tracker}")
    from pipeline import problems, traces
    from pipeline.reward import reward_of

    for section in (recipe.rl, recipe.adaptive):
        reward_of(section)  # a wrong name is refused now, not after sft
    overlaps = {}
    if run_next:
        train = problems.every_train_problem(recipe)
        questions = {problem.question for problem in train}
        mixed = traces.mixture(problems.sft_problems(recipe.sft), recipe.sft, recipe.seed)
        others = [trace for trace in mixed if trace.question not in questions]
        overlaps = runs.overlaps(benchmarks, options.allow_overlap, train, others)
    from pipeline import base

    folder = base.resolve(options.base)
    if run_next:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder).get_text_config()
        context = getattr(config, "max_position_embeddings", None) or sys.maxsize
        base.preflight(base.load_tokenizer(folder), context, recipes.longest(recipe), options.base)
    return runs.Run(
        base=options.base,
        folder=folder,
        fingerprint=base.fingerprint(folder),
        root=options.runs / base.folder_name(options.base),
        profile=options.profile or default_profile(),
        recipe=recipe,
        benchmarks=benchmarks,
        overlaps=overlaps,
        held=held,
    )


def make_or_show_traces(opened, options: argparse.Namespace) -> None:
    """Write the traces of a source; or print some of them, made first where they are not there."""
    import random

    from data.sets import BUILT_IN
    from pipeline import trace_sources, traces
    from pipeline.progress import printable

    known = (*traces.STYLES, "own", "teacher", *BUILT_IN)
    if options.source.partition("?")[0] not in known and not re.search("[./]", options.source):
        raise BadInput(
            f"source {options.source!r} is unknown; {nearest(options.source, known)}, or a file, or OWNER/SET"
        )
    file = opened.root / "traces" / f"{traces.file_name(options.source, options.stage)}.jsonl"
    if options.command == "traces" or not file.is_file():
        file, account = trace_sources.make_traces(opened, options.source, options.stage)
        print(f"{traces.told(account)}\nwritten to {file}")
    if options.command == "show-traces":
        found = read_problems(file) if file.stat().st_size else []
        for trace in random.Random().sample(found, min(max(options.count, 0), len(found))):
            told = f"{trace.id}, level {trace.level}: {trace.question}\n{trace.rationale}\n-> {trace.answer}"
            print(f"\n{printable(told)}")


def first_turns(path: Path) -> dict[str, tuple[str, str]]:
    """id -> (first answer, feedback), from JSONL with ``id, text, feedback``."""
    turns = {}
    for where, row in rows_of(path):
        if not all(isinstance(row.get(key), str) for key in ("id", "text", "feedback")):
            raise BadInput(f"{where}: every line needs the texts id, text and feedback")
        turns[row["id"]] = (row["text"], row["feedback"])
    return turns


def complete(options: argparse.Namespace) -> None:
    """Write the completions of a base, or of a trained stage's folder (its adapter on the base it was made from)."""
    recipes.check_thinking(options.budget, options.min_thinking)
    quiet()
    from data.splits import take
    from eval.grade import read_benchmark
    from pipeline import answers, base, prompts, runs

    if options.limit is not None and options.limit < 1:
        raise BadInput(f"--limit is {options.limit}; it must be 1 or more problems")
    benchmark = read_benchmark(options.benchmark)
    problems = take(benchmark.problems, options.limit) if options.limit else benchmark.problems
    after = first_turns(options.after) if options.after else {}
    if after:
        problems = [problem for problem in problems if problem.id in after]
    if options.shots < 0:
        raise BadInput(f"--shots is {options.shots}; it must be 0 or more worked examples")
    if not 0 <= (options.temperature or 0.0) < math.inf:
        raise BadInput(f"--temperature is {options.temperature}; it must be 0 (greedy) or more")
    if not options.temperature and len(options.out) > len(prompts.WORDINGS[options.prompt]):
        raise BadInput(
            f"{len(options.out)} wordings of the {options.prompt} instruction are asked for, there are "
            f"{len(prompts.WORDINGS[options.prompt])} (pipeline/prompts.py)"
        )
    if options.server and (options.budget is not None or options.min_thinking):
        raise BadInput("--server: a server knows no --budget and no --min-thinking; leave them out, or the server")
    made = runs.manifest(Path(options.model)) if Path(options.model).is_dir() else {}
    if options.server and made:
        raise BadInput(f"--model {options.model}: a server has no stages; export it and serve that")
    adapter = Path(options.model) / "adapter" if "training" in made else None
    if adapter:
        runs.check_adapter(adapter)
    name = next((made[part]["base"] for part in ("training", "scoring") if part in made), options.model)
    recipe = recipes.load(default_profile(), base=name)
    settings, asked = recipe.eval, made.get("scoring", {}).get("inputs", {})  # a stage is asked as it was scored
    if options.server:
        from pipeline.served import Served

        model = Served(options.server, base.resolve(name), os.environ.get("OPENAI_API_KEY", ""))
        tokenizer = model.tokenizer
    else:
        model, tokenizer = base.load(base.resolve(name), adapter, setting=asked.get("load", recipe.base.load))
    for i, out in enumerate(options.out):
        completions = answers.complete(
            model,
            tokenizer,
            problems,
            options.prompt,
            options.shots,
            max_tokens=asked.get("settings", {}).get("max_tokens", settings.max_tokens),
            batch_size=settings.batch_size,
            budget=options.budget,
            least=options.min_thinking,
            temperature=options.temperature or 0.0,
            seed=1_000_003 * options.seed + i,
            wording=0 if options.temperature else i,
            after=after,
            label=benchmark.name + (f" {i + 1} of {len(options.out)}" if len(options.out) > 1 else ""),
        )
        write_records(out, completions)


def run(options: argparse.Namespace) -> None:
    """Carry out one command."""
    if options.command not in SHARED and os.environ.get("WORLD_SIZE", "1") != "1":
        raise BadInput(f"{options.command} runs in one process; start it with: {PROGRAM} {options.command}")
    if options.command in (*SHARED, "compare", "tradeoff", "bench"):
        check_cards()
    from eval import table

    if options.command == "complete":
        return complete(options)
    if options.command == "table":
        from pipeline.base import folder_name

        rows = table.write(options.runs / folder_name(options.base), options.controls)
        return print(table.FORMATS[options.format](rows), end="") if options.format else table.show(rows)
    if options.command == "report":
        from eval import report
        from pipeline.base import folder_name

        folders = {name: options.runs / folder_name(name) for name in options.bases or [options.base]}
        out = options.out or (options.runs if len(folders) > 1 else [*folders.values()][0]) / "report.html"
        report.write(folders, out)
        return print(out)
    if options.command == "ask":
        recipes.check_thinking(options.budget, options.min_thinking)
        quiet()
        from pipeline.ask import ask, chat

        opened, how = open_run(options, run_next=False), (options.stages, options.budget, options.min_thinking)
        return ask(opened, options.question, *how) if options.question else chat(opened, *how)
    from pipeline import processes, runs, stages

    if options.command == "status":
        for stage, state in stages.status(open_run(options, run_next=False)).items():
            print(f"{stage:8}  {state}")
        return None
    if options.command == "check":
        quiet()
        from pipeline import check

        recipe = recipes.load(options.profile or default_profile(), options.overrides, options.base)
        if not check.show(options.base, check.check(options.base, recipe)):
            raise BadInput(f"base {options.base} will not do: see the lines that say NO; take another base or recipe")
        return None
    quiet()
    if options.command == "compare":
        from eval import bases
        from pipeline.base import folder_name

        names = [folder_name(name) for name in dict.fromkeys(options.bases)]
        if same := next((name for name in names if names.count(name) > 1), None):
            raise BadInput(f"--bases: two of them would share the folder {same}; rename a file or a folder")
        for name in dict.fromkeys(options.bases):
            opened = open_run(argparse.Namespace(**(vars(options) | {"base": name})))
            with runs.alone(opened.root):
                for stage in STAGES:
                    stages.run_stage(opened, stage)
        folders = {name: options.runs / folder_name(name) for name in dict.fromkeys(options.bases)}
        return print(bases.write(folders, options.runs))
    opened = processes.by_main(lambda: open_run(options))
    if options.command == "bench":
        from pipeline.bench import bench

        return print(bench(opened))
    if options.command == "export":
        from pipeline.export import export

        return print(export(opened, options.stage, options.to))
    with runs.alone(opened.root):
        work(opened, options)
    return processes.end()


def work(opened, options: argparse.Namespace) -> None:
    """Carry out a command that writes into the run's folder."""
    from eval import table
    from eval.summary import summary
    from pipeline import processes, stages

    if options.command in ("traces", "show-traces"):
        return make_or_show_traces(opened, options)
    if options.command == "tradeoff":
        from eval import tradeoff as measured
        from pipeline import progress, tradeoff

        with progress.logged(opened.root / "tradeoff"):
            folder = tradeoff.run(opened)
        return print(f"{measured.write(opened.root)}\nThe plot is {folder / 'tradeoff.png'}")
    # A control is held to the real stage, which therefore is brought up to date before it.
    controls = [stage for control, (real, _) in stages.CONTROLS.items() for stage in (real, control)]
    for stage in {"all": [*STAGES], "controls": controls}.get(options.command, [options.command]):
        stages.run_stage(opened, stage)
    if not processes.main():
        return None
    rows = table.write(opened.root, options.command == "controls")
    table.show(rows)
    print(f"\n{summary(opened.root, rows, variables(options))}", end="")
    return None


def variables(options: argparse.Namespace) -> str:
    """The options as variables of `make`, those aside that are the default."""
    default = parser().parse_args(["all"])
    names = {"BASE": "base", "PROFILE": "profile", "RUNS": "runs", "LIMIT": "limit"}
    names |= {"BENCHMARK": "benchmark", "SET": "overrides"}
    given = {}
    for variable, name in names.items():
        if (value := getattr(options, name)) != getattr(default, name):
            given[variable] = " ".join(value) if isinstance(value, list) else str(value)
    return " ".join(f"{variable}={shlex.quote(value)}" for variable, value in given.items())


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 on success, 2 on bad input; anything else that fails is a traceback and 1."""
    hush()
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise BadInput(f"stage or command {arguments[0]!r} is unknown; {nearest(arguments[0], COMMANDS)}")
    run(parser().parse_args(arguments))
    return 0


if __name__ == "__main__":
    from pipeline.processes import leave

    leave(main())
