"""``make ask``: a question to every stage that has been run, side by side; without a question, a chat.

Where the right answer is known, each stage's answer has its verdict: of a problem of the run's benchmarks, which may be
named by its id, or where the user gives it.
"""

import contextlib
import readline  # noqa: F401 - gives input() arrow keys and a history
from collections.abc import Sequence

from peft import PeftModel
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from data.files import UserError, suggest
from data.problem import Completion, Problem, parse_problem
from data.splits import normalize_text
from eval.extract import split_thought
from eval.grade import grade
from pipeline.evaluate import evaluate
from pipeline.models.load import load_model
from pipeline.progress import printable
from pipeline.prompts import END_THINK, THINK, format_question
from pipeline.run import Run
from pipeline.stages import STAGES
from pipeline.stages.run import list_rows
from pipeline.stages.stage import Stage
from pipeline.thinking_budget import ThinkingLimits

# Columns of an output that is no terminal, and of the narrowest panel.
FILE_WIDTH = 160
PANEL_WIDTH = 30


class StageModels:
    """The stages that answer: the weights of the base once, and the adapter of each stage on them."""

    def __init__(self, run: Run, stages: Sequence[Stage]) -> None:
        self.run = run
        self.stages = stages
        self.model, self.tokenizer = load_model(run.base_folder, load=run.recipe.base.load)

        for stage in stages:
            if stage.train:
                folder = run.dir.stage(stage.name)
                folder.check_adapter(run.fingerprint)
                self.add_adapter(stage.name, folder.adapter)
        self.model.eval()

    def add_adapter(self, name: str, adapter) -> None:
        """Load an adapter under a name."""
        if isinstance(self.model, PeftModel):
            self.model.load_adapter(adapter, name)
        else:
            self.model = PeftModel.from_pretrained(self.model, adapter, name)

    def use_adapter(self, stage: Stage) -> contextlib.AbstractContextManager[None]:
        """Return the context in which the model is that of a stage."""
        if stage.train:
            self.model.set_adapter(stage.name)
        elif isinstance(self.model, PeftModel):
            return self.model.disable_adapter()
        return contextlib.nullcontext()

    def answer(self, stage: Stage, problem: Problem, budget: int | None) -> Completion:
        """Return a stage's completion, after the most worked examples that it was scored with.

        They are those of the problem's benchmark; of the first one where it is of none.
        """
        rows = list_rows(self.run, stage)
        row = max(rows, key=lambda row: (row.shots, problem in row.benchmark.problems))
        with self.use_adapter(stage):
            evaluation = evaluate(
                self.model,
                self.tokenizer,
                [problem],
                stage.prompt,
                examples=row.examples,
                max_new_tokens=self.run.recipe.eval.generation["max_new_tokens"],
                batch_size=1,
                thinking=ThinkingLimits(max_tokens=budget),
                label=stage.name,
            )
        return evaluation.completions[0]


def find_problem(run: Run, question: str, answer: str | None = None) -> Problem:
    """Return a question as a problem: with the answer given, or that of the benchmarks, or none where nobody knows it.

    Args:
        run: Whose benchmarks are looked through.
        question: Its text, or the id of a problem.
        answer: The right answer.
    """
    if answer is not None:
        return parse_problem({"id": "ask", "question": question, "answer": answer}, "--answer")

    for benchmark in run.benchmarks:
        for problem in benchmark.problems:
            if question == problem.id or normalize_text(question) == normalize_text(problem.question):
                return problem
    return Problem("ask", question, answer="", kind="number")


def select_stages(run: Run, names: Sequence[str]) -> list[Stage]:
    """Return the stages of these names; all that have been run where none is named."""
    scored = {}
    for stage in STAGES:
        if run.dir.stage(stage.name).read_part("scoring"):
            scored[stage.name] = stage

    if not scored:
        raise UserError(f"{run.dir.root}: no stage has been run yet; run `make` or `make plain` first")

    for name in names:
        if name not in scored:
            raise UserError(f"stage {name!r} has not been run in {run.dir.root}; {suggest(name, scored)}")
    return [stage for stage in scored.values() if not names or stage.name in names]


def ask(run: Run, question: str | None, answer: str | None, names: Sequence[str], budget: int | None) -> None:
    """Print what each stage answers to a question, or to each line of the standard input."""
    if answer is not None and not question:
        raise UserError("--answer (ANSWER=): it is that of one question; give the question, too (Q=)")
    stages = select_stages(run, names)
    problem = find_problem(run, question, answer) if question else None

    models = StageModels(run, stages)
    if problem:
        print_answers(models, problem, budget)
        return

    with contextlib.suppress(EOFError):
        print("A question a line, or the id of a problem; Ctrl-D ends.")
        while True:
            line = input("> ").strip()
            if line:
                print_answers(models, find_problem(run, line), budget)


def print_answers(models: StageModels, problem: Problem, budget: int | None) -> None:
    """Print the question and the answers of all stages side by side."""
    panels = []
    for stage in models.stages:
        panels.append(make_panel(stage.name, problem, models.answer(stage, problem, budget)))

    console = Console()
    # rich takes a file for a terminal of 80 columns.
    if not console.is_terminal:
        console.width = FILE_WIDTH
    width = max(PANEL_WIDTH, console.width // len(panels) - 1)
    known = f"\nThe right answer is {problem.answer}." if problem.answer else ""
    console.print(Text(printable(f"{format_question(problem)}{known}\n")), soft_wrap=True)
    console.print(Columns(panels, equal=True, expand=True, width=width))


def make_panel(title: str, problem: Problem, completion: Completion) -> Panel:
    """Return a completion as a panel, its thought dimmed; it is shown as text, never as markup."""
    # The same split as the grader's, so what is dim is what does not count.
    thought, rest, is_closed = split_thought(completion.text)
    body = Text()
    if thought is not None:
        end = END_THINK if is_closed else ""
        body.append(printable(f"{THINK}{thought}{end}\n"), style="dim")

    body.append(f"{printable(rest.strip())}\n\n")
    body.append(describe_outcome(problem, completion), style="bold")
    return Panel(body, title=title)


def describe_outcome(problem: Problem, completion: Completion) -> str:
    """Return the answer that is graded, its verdict where the right one is known, and the tokens that it took."""
    graded = grade(problem, completion)
    answer = "none" if graded.extracted is None else printable(graded.extracted)
    verdict = f" ({graded.verdict})" if problem.answer else ""
    truncated = ", truncated by the limit" if completion.finish == "length" else ""
    tokens = f"{completion.tokens} tokens, {completion.thinking_tokens} of them thinking{truncated}"
    return f"answer: {answer}{verdict}\n{tokens}"
