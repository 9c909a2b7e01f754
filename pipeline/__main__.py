"""The command line: ``python -m pipeline COMMAND [options]``. Each command is a handler that calls one module.

Nothing heavy is imported before it is needed: ``--help``, ``status``, ``table`` and ``report`` load no torch.
"""

import argparse
import ctypes
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from data.command_line import ArgumentParser, at_least, exit_on_user_error
from data.files import UserError, suggest, write_text
from eval.report import render_report
from eval.seeds import summarize_seeds
from eval.table import print_table
from pipeline import processes
from pipeline.config import check_grpo, check_trainers
from pipeline.models.check import check_base, print_findings
from pipeline.models.load import base_folder_name, check_name
from pipeline.progress import say
from pipeline.run import Run, check_vllm, load_benchmarks, open_results, open_run, read_recipe
from pipeline.run_dir import FIRST_SEED, find_run_dir, find_seed_runs
from pipeline.score import add_score_arguments, score_model
from pipeline.stages import CONTROLS, STAGES, list_controls
from pipeline.stages.rl import check_guessable
from pipeline.stages.run import UP_TO_DATE, get_settings, run_stage, stage_status
from pipeline.stages.stage import Stage
from pipeline.studies import STUDIES
from pipeline.tools.compare import compare
from pipeline.tools.plan import make_plan
from pipeline.traces.sources import make_traces

PROGRAM = "python -m pipeline"

# Options of mallopt(3), as malloc.h numbers them.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

# What only reads, and imports no torch.
READERS = ("table", "seeds", "report", "status")


def run_stages(options: argparse.Namespace) -> None:
    """Run stages, each after those that it starts from, and print the table."""
    # The others wait while the main process fetches the base.
    run = processes.on_main_process(lambda: open_run(options))
    with run.dir.lock():
        check_controls(run, options.to_run)
        # One process of several cannot measure alone what they do together.
        if options.command == "all" and not processes.is_shared():
            say(make_plan(run)[0])
        for stage in options.to_run:
            run_stage(run, stage)
        if processes.is_main():
            show_table(run.dir, controls=options.command == "controls")
        if options.samples:
            print_samples(run, options.to_run, options.samples)
        if processes.is_main():
            closing = CLOSING_LINES.get(options.command, STAGE_LINES)
            print(closing.format(root=run.dir.root))
    processes.disconnect()


def check_controls(run: Run, stages: Sequence[Stage]) -> None:
    """Raise UserError where a control of stage 4 cannot be trained: it has settings of its own."""
    from pipeline.training import split_batch

    for stage in stages:
        if not stage.control_of or stage.section != "rl":
            continue

        settings = get_settings(run, stage)
        try:
            check_guessable(run.recipe, settings)
            check_vllm(settings)
            if settings.algorithm != "expert_iteration":
                check_grpo(settings.grpo.trainer)
                split_batch(settings.grpo.trainer, "rl.grpo.trainer")
        except UserError as error:
            raise UserError(f"{stage.name}: {error}; `make controls NAME=` runs only those that it names") from None


def print_samples(run: Run, stages: Sequence[Stage], count: int) -> None:
    """Sample the trained stages, and print pass@k and maj@k."""
    from pipeline.tools.samples import sample_stages

    table = sample_stages(run, stages, count)
    if processes.is_main():
        print(f"\n{table}")


def run_controls(options: argparse.Namespace) -> None:
    """Run the controls that are named, or all, and print the table."""
    options.to_run = list_controls(options.names)
    run_stages(options)


CLOSING_LINES = {
    "all": """
Results are in {root}: table.md; of each stage scores.json, completions/, grades/ and log.txt.
Next, with the same BASE: make report (every answer on one page), make ask (all stages, side by side),
make controls (is a gain real?) and make tradeoff (what thinking costs).""",
    "controls": """
Results are in {root}. What a control gains is not the doing of the stage that it imitates.
Next, with the same BASE: make report.""",
}

STAGE_LINES = """
Results are in {root}. Next, with the same BASE: make (the stages that are left), make ask or make report."""


# Results


def show_table(run_dir, controls: bool) -> None:
    """Write table.json and table.md of what has been run, and print them."""
    print_table(run_dir.update_table(controls))


def print_results(options: argparse.Namespace) -> None:
    """Print the table of what has been run."""
    show_table(open_results(options), options.controls)


def print_seeds(options: argparse.Namespace) -> None:
    """Write seeds.json and seeds.md of all seeds of a base, and print them."""
    base_folder = base_folder_name(options.base)
    run_dirs = find_seed_runs(options.runs, base_folder)
    views = [run_dir.read_view() for run_dir in run_dirs]

    # Beside the run of the first seed, whose folder holds those of the others.
    first = find_run_dir(options.runs, base_folder, FIRST_SEED)
    table = first.write_seeds(summarize_seeds(views))
    print(table, end="")


def write_report(options: argparse.Namespace) -> None:
    """Write one HTML page of a run, or of several bases."""
    run_dirs = []
    for base in options.bases or [options.base]:
        # Each base may have a recipe of its own, which says its seed.
        base_options = argparse.Namespace(**vars(options) | {"base": base})
        run_dirs.append(open_results(base_options))
    folder = run_dirs[0].root if len(run_dirs) == 1 else options.runs

    views = [run_dir.read_view() for run_dir in run_dirs]
    out = options.out or folder / "report.html"
    write_text(out, render_report(views))
    print(out)
    say("Open it in a browser.")


def print_status(options: argparse.Namespace) -> None:
    """Print which stages are up to date, and why the others are not."""
    if open_results(options).root.is_dir():
        states = stage_status(open_run(options, for_training=False))
    else:
        # Nothing was made of the base yet, so it may not be here, and would have to be fetched.
        check_name(options.base)
        evaluation = read_recipe(options).eval
        load_benchmarks(options.benchmark or evaluation.benchmarks, evaluation.limit)
        states = {stage.name: "not run yet" for stage in STAGES}
    for stage, state in states.items():
        print(f"{stage:8}  {state}")

    # On standard error: what reads the lines above need not know it.
    if set(states.values()) == {UP_TO_DATE}:
        say("Next: make table, make report or make ask, with the same variables.")
    else:
        say("Next: make, with the same variables, runs what is not up to date and nothing else.")


def print_plan(options: argparse.Namespace) -> None:
    """Print how long each stage will take here."""
    # What `make` would refuse has no plan.
    run = open_run(options)
    print("\n".join(make_plan(run)))
    say("Next: make, with the same variables. You may stop it at any time; the same command goes on.")


# Tools


def print_check(options: argparse.Namespace) -> None:
    """Print whether a base will do, before its weights are fetched."""
    recipe = read_recipe(options)
    check_trainers(recipe)
    findings = check_base(options.base, recipe)
    if not print_findings(options.base, findings):
        raise UserError(f"base {options.base} will not do: see the lines that say NO; take another base or recipe")


def export_stage(options: argparse.Namespace) -> None:
    """Write a stage as one merged model."""
    from pipeline.tools.export import export

    run = open_run(options, for_training=False)
    print(export(run, options.stage, options.to))


def ask_stages(options: argparse.Namespace) -> None:
    """Ask every stage one question, or chat with them."""
    from pipeline.tools.ask import ask

    run = open_run(options, for_training=False)
    ask(run, options.question, options.answer, options.stages, options.budget)


def write_traces(options: argparse.Namespace) -> None:
    """Write verified solutions of one source."""
    run = open_run(options)
    with run.dir.lock():
        print(make_traces(run, options.source, options.stage))


def measure_tradeoff(options: argparse.Namespace) -> None:
    """Print accuracy against tokens, of all ways to decide how long to think."""
    from pipeline.tools.tradeoff import measure_tradeoff

    run = open_run(options)
    with run.dir.lock():
        print(measure_tradeoff(run))


def make_studies(options: argparse.Namespace) -> None:
    """Measure claims on bases at hand, and print the verdicts."""
    from pipeline.studies.study import run_studies

    run_studies(options.names, options.base, options.runs, options.overrides)


# Options


def build_parser() -> tuple[ArgumentParser, list[str]]:
    """Return the parser, and the names of all commands."""
    parser = ArgumentParser(
        prog=PROGRAM,
        description="Five stages of reasoning training on one small model.",
        epilog=f"Begin with: {PROGRAM} all --base nano. The options of a command: {PROGRAM} COMMAND --help.",
    )
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
    )

    # After the command, where users write them.
    common = ArgumentParser(add_help=False)
    add_common_options(common.add_argument)

    def add(
        name: str,
        handler: Callable,
        text: str,
        to_run: Sequence = (),
    ) -> Callable:
        command = commands.add_parser(name, parents=[common], help=text, description=text)
        command.set_defaults(handler=handler, to_run=to_run, samples=None)

        # The prompted stages have nothing that training could have changed.
        if any(stage.train for stage in to_run):
            text = "samples of each problem, for pass@k and maj@k of the trained stages"
            command.add_argument("--samples", type=at_least(1), metavar="N", help=text)
        return command.add_argument

    for stage in STAGES:
        add(stage.name, run_stages, f"stage {stage.number}: {stage.help}", [stage])
    add("all", run_stages, "run all stages and print the table", STAGES)

    text = "train stages without what they should learn from; the table with them"
    option = add("controls", run_controls, text, list_controls())
    names = ", ".join(control.name for control in CONTROLS)
    option("names", nargs="*", metavar="NAME", help=f"default: all ({names})")
    add_tools(add)

    # It knows no run, so it has none of the common options.
    text = "score any model on any benchmark"
    command = commands.add_parser("score", help=text, description=text)
    command.set_defaults(handler=score_model, to_run=())
    add_score_arguments(command)

    # A study has a recipe of its own, which the common options do not fit.
    text = "measure claims about language models, each with a control"
    command = commands.add_parser("studies", help=text, description=text)
    command.set_defaults(handler=make_studies, to_run=())
    add_study_options(command.add_argument)
    return parser, list(commands.choices)


def add_study_options(add: Callable) -> None:
    """Add the options of ``studies``."""
    names = ", ".join(STUDIES)
    add("names", nargs="*", metavar="NAME", help=f"default: all ({names})")
    add("--base", help="default: the one that the study's recipe names")
    add("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where results go (default: runs)")
    text = "a value of a study's recipe, such as planning.seed=2; repeatable"
    add("--set", action="append", default=[], dest="overrides", metavar="NAME.KEY=VALUE", help=text)


def add_common_options(add: Callable) -> None:
    """Add the options of every command but ``score``."""
    add("--base", default="smollm2-135m", help="a name, a hub id, a folder or a GGUF file (default: smollm2-135m)")
    add("--profile", help="cpu, gpu, quick or long (default: cpu or gpu, by what is there)")
    add("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where results go (default: runs)")
    add("--limit", type=int, metavar="N", help="problems of each benchmark, spread evenly over the levels")
    add("--seed", type=int, metavar="N", help="of training and sampling (default: 1); another has a folder seed-N")
    text = "a value of a recipe, such as sft.trainer.max_steps=9; repeatable"
    add("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help=text)
    add("--benchmark", action="append", default=[], metavar="FILE|NAME", help="scored in place of ours; repeatable")
    add("--allow-overlap", action="store_true", help="score problems that are trained on, and say so in the table")


def add_tools(add: Callable) -> None:
    """Add the commands that run no stage; ``add`` adds a command and returns what adds its options."""
    add("status", print_status, "which stages are up to date, and why the others are not; runs nothing")
    add("plan", print_plan, "how long each stage will take here, by a short measurement")
    add("check", print_check, "whether a base will do, before its weights are fetched")
    add("tradeoff", measure_tradeoff, "accuracy against tokens, of all ways to decide how long to think")

    option = add("table", print_results, "print the table of what has been run")
    option("--controls", action="store_true", help="with the rows of the controls (make controls)")

    add("seeds", print_seeds, "mean and spread of all seeds that have been run, and tests over them")

    option = add("report", write_report, "write one HTML page of a run, or of several")
    option("--bases", nargs="+", metavar="BASE", help="several on one page, compared with the first")
    option("--out", type=Path, metavar="FILE", help="default: report.html beside the results")

    option = add("compare", compare, "several bases or finished runs in one table, tested problem by problem")
    option("--bases", nargs="+", metavar="BASE", help="run all stages on each of them")
    option("--folders", nargs="+", type=Path, metavar="RUN", help="finished runs, such as runs/nano")

    option = add("export", export_stage, "write a stage as one merged model")
    names = [stage.name for stage in STAGES]
    option("--stage", default="adaptive", choices=names, help="default: adaptive")
    option("--to", required=True, type=Path, metavar="FOLDER", help="a new folder for the model")

    option = add("ask", ask_stages, "ask every stage one question, or chat with them")
    option("question", nargs="?", help="a question, or the id of a problem; without one: a chat")
    option("--answer", metavar="TEXT", help="the right answer; each stage's verdict is shown (benchmarks have theirs)")
    option("--stages", nargs="+", default=[], metavar="STAGE", help="default: all that have been run")
    option("--budget", type=at_least(0), metavar="N", help="the most tokens a thought may have")

    option = add("traces", write_traces, "write solutions of one source to train on, verified")
    option("--source", required=True, metavar="SOURCE", help="a style, own, teacher, a data set or a file")
    option("--stage", default="sft", metavar="STAGE", help="whose samples own stands for (default: sft)")


# Before the libraries


def configure_libraries() -> None:
    """Set what must be set before the libraries are imported, and keep their messages off the terminal."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    # The tokenizers warn where a process forks after they have used threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Huge pages for large tensors: less memory at the peak of sft on a CPU (4.3 GB against 5.0).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    keep_freed_memory()
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")

    # The terminal gets errors only; a stage's log gets the rest.
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.ERROR)
    logging.basicConfig(level=logging.WARNING, handlers=[terminal])
    logging.captureWarnings(True)
    # A full disk is reported by the stage, not by its log.
    logging.raiseExceptions = False


def keep_freed_memory() -> None:
    """Let the C library keep the memory of large tensors for the next ones.

    It gives each back to the system otherwise, which clears every page before the next tensor gets it. On a CPU steps
    of sft took 1.25 s in place of 1.5, at the same peak of memory (measured with bf16 on two cores).
    """
    libc = ctypes.CDLL(None)
    # Other C libraries have no such switch.
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def silence_libraries() -> None:
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


def check_gpus(can_share: bool) -> None:
    """Refuse one process where there are several GPUs, before anything is run: TRL would refuse it later.

    Args:
        can_share: Whether the command can run in several processes.
    """
    count = processes.count_gpus()
    if count > 1 and not processes.is_shared():
        several = f"start one for each (make PROCESSES={count}), or " if can_share else ""
        raise UserError(f"there are {count} GPUs and one process; {several}show it one GPU: CUDA_VISIBLE_DEVICES=0")


@exit_on_user_error
def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command; returns 0. Bad input gives 2, what fails otherwise is a traceback and 1."""
    configure_libraries()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = build_parser()

    # argparse would list them all, without the nearest.
    if arguments:
        first = arguments[0]
        is_option = first.startswith("-")
        if not is_option and first not in commands:
            raise UserError(f"stage or command {first!r} is unknown; {suggest(first, commands)}")

    options = parser.parse_args(arguments)
    command = options.command
    if processes.is_shared() and not options.to_run:
        raise UserError(f"{command} runs in one process; start it with: {PROGRAM} {command}")

    # A wrong recipe is refused before the libraries are imported, which takes seconds.
    if options.to_run:
        read_recipe(options)

    # These use a GPU as the stages do.
    if options.to_run or command in ("compare", "plan", "tradeoff"):
        check_gpus(can_share=bool(options.to_run))
    if command not in READERS:
        silence_libraries()
    options.handler(options)
    return 0


if __name__ == "__main__":
    processes.leave(main())
