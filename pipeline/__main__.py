"""The command line: ``python -m pipeline COMMAND [options]``. Each command is a handler that calls one module.

Nothing heavy is imported before it is needed: ``--help``, ``status``, ``table`` and ``report`` load no torch.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from data.command_line import ArgumentParser, exit_on_user_error
from data.files import UserError, suggest, write_text
from pipeline import processes
from pipeline.stages import CONTROLS, STAGES, get_stage
from pipeline.stages.stage import Stage

PROGRAM = "python -m pipeline"

Handler = Callable[[argparse.Namespace], None]


# Stages


def run_one_stage(options: argparse.Namespace) -> None:
    """Run one stage, after the stages that it starts from, and print the table."""
    _run_stages(options, [get_stage(options.command)])


def run_all(options: argparse.Namespace) -> None:
    """Run all stages, and print the table and what to do next."""
    _run_stages(options, STAGES)


def run_controls(options: argparse.Namespace) -> None:
    """Run every control after the stage that it imitates, and print the table with the controls."""
    stages: list[Stage] = []
    for control in CONTROLS:
        stages += [get_stage(control.section), control]
    _run_stages(options, stages)


def _run_stages(options: argparse.Namespace, stages: Sequence[Stage]) -> None:
    from pipeline.run import open_run, read_recipe
    from pipeline.stages.run import run_stage

    # A wrong recipe is refused before the libraries are imported, which takes seconds.
    read_recipe(options)
    _check_gpus()
    _silence_libraries()
    run = processes.on_main_process(lambda: open_run(options))

    with run.dir.lock():
        for stage in stages:
            run_stage(run, stage)
        if processes.is_main():
            show_table(run.dir, controls=options.command == "controls")
            if options.command == "all":
                print(_describe_next_steps(run.dir.root))
    processes.disconnect()


def _describe_next_steps(root: Path) -> str:
    return (
        f"\nResults are in {root}: table.md; of each stage scores.json, completions/, grades/ and log.txt.\n"
        "Next, with the same BASE: make report (every answer on one page), make ask (a chat with all stages),\n"
        "make controls (is a gain real?) and make tradeoff (what thinking costs)."
    )


# Results


def show_table(run_dir, controls: bool) -> None:
    """Write table.json and table.md of what has been run, and print them."""
    from eval.table import make_rows, print_table

    rows = make_rows(run_dir.read_stage_scores(controls))
    run_dir.write_table(rows)
    print_table(rows)


def print_results(options: argparse.Namespace) -> None:
    """Print the table of what has been run."""
    from pipeline.run import open_results

    show_table(open_results(options), options.controls)


def write_report(options: argparse.Namespace) -> None:
    """Write one HTML page of a run, or of several bases."""
    from eval.report import render_report
    from pipeline.run import open_results

    bases = options.bases or [options.base]
    run_dirs = [open_results(argparse.Namespace(**vars(options) | {"base": base})) for base in bases]
    folder = run_dirs[0].root if len(run_dirs) == 1 else options.runs

    out = options.out or folder / "report.html"
    write_text(out, render_report([run_dir.read_view() for run_dir in run_dirs]))
    print(out)


def print_status(options: argparse.Namespace) -> None:
    """Print which stages are up to date, and why the others are not."""
    from pipeline.run import open_run
    from pipeline.stages.run import stage_status

    for stage, state in stage_status(open_run(options, for_training=False)).items():
        print(f"{stage:8}  {state}")


# Tools


def check_base(options: argparse.Namespace) -> None:
    """Print whether a base will do, before its weights are fetched."""
    from pipeline.models.check import check_base, print_findings
    from pipeline.run import read_recipe

    _silence_libraries()
    recipe = read_recipe(options)
    if not print_findings(options.base, check_base(options.base, recipe)):
        raise UserError(f"base {options.base} will not do: see the lines that say NO; take another base or recipe")


def compare_runs(options: argparse.Namespace) -> None:
    """Print all stages of several bases, or of several runs, in one table."""
    from pipeline.tools.compare import compare

    _check_gpus()
    _silence_libraries()
    compare(options)


def export_stage(options: argparse.Namespace) -> None:
    """Write a stage as one merged model."""
    from pipeline.run import open_run
    from pipeline.tools.export import export

    _silence_libraries()
    print(export(open_run(options, for_training=False), options.stage, options.to))


def ask_stages(options: argparse.Namespace) -> None:
    """Ask every stage one question, or chat with them."""
    from pipeline.run import open_run
    from pipeline.tools.ask import ask, chat

    _silence_libraries()
    run = open_run(options, for_training=False)
    if options.question:
        ask(run, options.question, options.stages, options.budget, options.min_thinking)
    else:
        chat(run, options.stages, options.budget, options.min_thinking)


def make_traces(options: argparse.Namespace) -> None:
    """Write verified solutions of one source."""
    from pipeline.run import open_run
    from pipeline.traces.sources import make_traces

    _silence_libraries()
    run = open_run(options)
    with run.dir.lock():
        print(make_traces(run, options.source, options.stage))


def measure_tradeoff(options: argparse.Namespace) -> None:
    """Print accuracy against tokens, of all ways to decide how long to think."""
    from pipeline.run import open_run
    from pipeline.tools.tradeoff import measure_tradeoff

    _check_gpus()
    _silence_libraries()
    run = open_run(options)
    with run.dir.lock():
        print(measure_tradeoff(run))


def score(options: argparse.Namespace) -> None:
    """Score any model on any benchmark."""
    from pipeline.score import score_model

    _silence_libraries()
    score_model(options)


# Options


def build_parser() -> tuple[ArgumentParser, list[str]]:
    """Return the parser, and the names of all commands."""
    parser = ArgumentParser(prog=PROGRAM, description="Five stages of reasoning training on one small model.")
    common = _build_common_options()
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, handler: Handler, text: str, is_shared: bool = False) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[common], help=text, description=text)
        command.set_defaults(handler=handler, is_shared=is_shared)
        return command

    for stage in STAGES:
        add(stage.name, run_one_stage, f"stage {stage.number}: {stage.help}", is_shared=True)
    add("all", run_all, "run all stages and print the table", is_shared=True)
    add("controls", run_controls, "run what must not help, and print the table with it", is_shared=True)
    _add_results(add)
    _add_tools(add)
    _add_score(commands)
    return parser, list(commands.choices)


def _build_common_options() -> ArgumentParser:
    common = ArgumentParser(add_help=False)
    add = common.add_argument
    add("--base", default="smollm2-135m", help="a name, a hub id, a folder or a GGUF file")
    add("--profile", help="cpu, gpu, quick or long (default: cpu or gpu, by what is there)")
    add("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where results go")
    add("--limit", type=int, metavar="N", help="problems of each benchmark, stratified by level")
    add("--seed", type=int, metavar="N", help="of training and sampling; other seeds than 1 lie in seed-N")
    add("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="sft.trainer.max_steps=9")
    add("--benchmark", action="append", default=[], metavar="FILE|NAME", help="in place of ours; repeatable")
    add("--allow-overlap", action="store_true", help="score problems that are trained on, and say so in the table")
    return common


def _add_results(add: Callable[..., argparse.ArgumentParser]) -> None:
    table = add("table", print_results, "print the table of what has been run")
    table.add_argument("--controls", action="store_true", help="with the rows of the controls")

    report = add("report", write_report, "write one HTML page of a run, or of several")
    report.add_argument("--bases", nargs="+", metavar="BASE", help="several on one page, compared with the first")
    report.add_argument("--out", type=Path, metavar="FILE", help="default: report.html beside the results")

    add("status", print_status, "which stages are up to date, and why the others are not")


def _add_tools(add: Callable[..., argparse.ArgumentParser]) -> None:
    add("check", check_base, "whether a base will do, before its weights are fetched")
    add("tradeoff", measure_tradeoff, "accuracy against tokens, of all ways to decide how long to think")

    compare = add("compare", compare_runs, "bases, recipes or rewards in one table, paired by problem")
    compare.add_argument("--bases", nargs="+", metavar="BASE", help="run all stages on each of them")
    compare.add_argument("--folders", nargs="+", type=Path, metavar="RUN", help="finished runs, such as runs/nano")

    export = add("export", export_stage, "write a stage as one merged model")
    export.add_argument("--stage", default="adaptive", choices=[stage.name for stage in STAGES])
    export.add_argument("--to", required=True, type=Path, metavar="FOLDER")

    ask = add("ask", ask_stages, "ask every stage one question, or chat with them")
    ask.add_argument("question", nargs="?", help="without one: a chat")
    ask.add_argument("--stages", nargs="+", default=[], metavar="STAGE", help="default: all that have been run")
    ask.add_argument("--budget", type=int, metavar="N", help="the most tokens a thought may have")
    ask.add_argument("--min-thinking", type=int, default=0, metavar="N", help="the fewest it may end with")

    traces = add("traces", make_traces, "write verified solutions of one source")
    traces.add_argument("--source", required=True, metavar="SOURCE", help="a style, own, teacher, a data set or file")
    traces.add_argument("--stage", default="sft", metavar="STAGE", help="whose samples are own")


def _add_score(commands) -> None:
    from pipeline.score import add_score_arguments

    text = "score any model on any benchmark"
    command = commands.add_parser("score", help=text, description=text)
    command.set_defaults(handler=score, is_shared=False)
    add_score_arguments(command)


# Before the libraries


def _configure_libraries() -> None:
    """Set what must be set before the libraries are imported, and keep their messages off the terminal."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Huge pages for large tensors: less memory at the peak of sft on a CPU (4.3 GB against 5.0).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")

    # The terminal gets errors only; a stage's log gets the rest.
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.ERROR)
    logging.basicConfig(level=logging.WARNING, handlers=[terminal])
    logging.captureWarnings(True)
    # A full disk is reported by the stage, not by its log.
    logging.raiseExceptions = False


def _silence_libraries() -> None:
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


def _check_gpus() -> None:
    """Refuse one process where there are several GPUs, before anything is run: TRL would refuse it later."""
    count = processes.count_gpus()
    if count > 1 and not processes.is_shared():
        raise UserError(
            f"there are {count} GPUs and one process; start one for each (make PROCESSES={count}), or show it one "
            "GPU: CUDA_VISIBLE_DEVICES=0"
        )


@exit_on_user_error
def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command; returns 0. Bad input gives 2, what fails otherwise is a traceback and 1."""
    _configure_libraries()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = build_parser()

    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        raise UserError(f"stage or command {arguments[0]!r} is unknown; {suggest(arguments[0], commands)}")

    options = parser.parse_args(arguments)
    if processes.is_shared() and not options.is_shared:
        raise UserError(f"{options.command} runs in one process; start it with: {PROGRAM} {options.command}")
    options.handler(options)
    return 0


if __name__ == "__main__":
    processes.leave(main())
