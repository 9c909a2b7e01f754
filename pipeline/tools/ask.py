"""``make ask``: one question to every stage that has been run, side by side; or without a question, a chat."""

import contextlib
import signal
import sys
from collections.abc import Callable, Sequence

from peft import PeftModel
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

from data.files import UserError, suggest
from data.problem import Completion, Problem
from eval.extract import split_thought
from eval.grade import grade
from pipeline.evaluate import evaluate
from pipeline.models.load import load_model
from pipeline.progress import printable
from pipeline.prompts import END_THINK, THINK
from pipeline.run import Run
from pipeline.stages import STAGES
from pipeline.stages.run import list_rows
from pipeline.stages.stage import Stage
from pipeline.thinking_budget import ThinkingLimits

HELP = """\
/stages sft rl     who answers; /stages alone: all that have been run
/budget 16         the most tokens that a thought may have; /budget alone: no maximum
/min-thinking 8    the fewest that it may end with; /min-thinking alone: no minimum
/help              this list
/quit              the end, as Ctrl-D; Ctrl-C stops an answer
"""
COMMANDS = ("/stages", "/budget", "/min-thinking", "/help", "/quit")

# Columns of an output that is no terminal, and of the narrowest panel.
FILE_WIDTH = 160
PANEL_WIDTH = 30

DIM = Style(dim=True)


class StageModels:
    """The stages that answer: the weights of the base once, and the adapter of each stage on them."""

    def __init__(self, run: Run, stages: Sequence[Stage]) -> None:
        self.run = run
        self.model, self.tokenizer = load_model(run.base_folder, load=run.recipe.base.load)

        for stage in stages:
            if stage.train:
                folder = run.dir.stage(stage.name)
                folder.check_adapter()
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

    def answer(
        self,
        stage: Stage,
        question: str,
        limits: ThinkingLimits,
        on_text: Callable[[str], None] | None = None,
    ) -> Completion:
        """Return a stage's completion, after the most worked examples that it was scored with."""
        row = max(list_rows(self.run, stage), key=lambda row: row.shots)
        with self.use_adapter(stage):
            evaluation = evaluate(
                self.model,
                self.tokenizer,
                [make_problem(question)],
                stage.prompt,
                examples=row.examples,
                max_new_tokens=self.run.recipe.eval.generation["max_new_tokens"],
                batch_size=1,
                thinking=limits,
                label=stage.name,
                on_text=on_text,
            )
        return evaluation.completions[0]


def make_problem(question: str) -> Problem:
    """Return a question as a problem, whose answer nobody knows."""
    return Problem("ask", question, answer="0", kind="number")


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


def make_limits(max_tokens: int | None, min_tokens: int) -> ThinkingLimits:
    """Return limits on a thought, which must be possible."""
    if min_tokens < 0 or (max_tokens or 0) < 0:
        raise UserError(f"BUDGET ({max_tokens}) and MIN_THINKING ({min_tokens}) must be 0 or more")
    if max_tokens is not None and min_tokens > max_tokens:
        raise UserError(f"MIN_THINKING is {min_tokens}, above BUDGET ({max_tokens}); lower it")
    return ThinkingLimits(min_tokens, max_tokens)


def ask(run: Run, question: str, names: Sequence[str], budget: int | None, min_thinking: int) -> None:
    """Print what each stage answers, side by side."""
    limits = make_limits(budget, min_thinking)
    stages = select_stages(run, names)
    models = StageModels(run, stages)
    panels = [make_panel(stage.name, models.answer(stage, question, limits)) for stage in stages]

    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    width = max(PANEL_WIDTH, console.width // len(panels) - 1)
    console.print(Columns(panels, equal=True, expand=True, width=width))


def make_panel(title: str, completion: Completion) -> Panel:
    """Return a completion as a panel, its thought dimmed; it is shown as text, never as markup."""
    thought, rest, is_closed = split_thought(completion.text)
    body = Text()
    if thought is not None:
        end = END_THINK if is_closed else ""
        body.append(printable(f"{THINK}{thought}{end}\n"), style=DIM)

    body.append(f"{printable(rest.strip())}\n\n")
    return Panel(body + describe_outcome(completion), title=title)


def describe_outcome(completion: Completion) -> Text:
    """Return the answer that would be graded, and the tokens that it took."""
    extracted = grade(make_problem(""), completion).extracted
    total = completion.thinking_tokens + completion.answer_tokens
    tokens = f"{total} tokens, {completion.thinking_tokens} of them thinking"
    if completion.finish == "length":
        tokens += ", truncated by the limit"
    return Text.assemble((f"answer: {printable(str(extracted))}\n", "bold"), (tokens, "italic"))


class StreamPrinter:
    """Prints a completion as it grows, its thought dimmed."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.printed = 0
        self.is_stopped = False

    def stop(self, *_: object) -> None:
        """Stop the completion after the token that is being made."""
        self.is_stopped = True

    def print_text(self, text: str) -> None:
        """Print what is new of the text so far."""
        if self.is_stopped:
            raise KeyboardInterrupt

        # The last character may be half of one, for which this mark stands.
        self.print_until(text, len(text.rstrip("\ufffd")))

    def print_until(self, text: str, end: int) -> None:
        """Print what is new of the first ``end`` characters of a text."""
        begin = text.find(THINK) + len(THINK) if THINK in text else end
        close = text.find(END_THINK, begin)
        thought_end = end if close < 0 else min(end, close + len(END_THINK))

        for stop, style in ((begin, None), (thought_end, DIM), (end, None)):
            piece = printable(text[self.printed : stop])
            self.console.print(Segments([Segment(piece, style)]), end="", soft_wrap=True)
            self.printed = max(self.printed, stop)


class Chat:
    """Questions and commands, a line each."""

    def __init__(self, run: Run, names: Sequence[str], limits: ThinkingLimits) -> None:
        self.run = run
        self.stages = select_stages(run, names)
        self.limits = limits
        self.models = StageModels(run, select_stages(run, []))
        self.console = Console(markup=False, highlight=False)

    def respond(self, line: str) -> None:
        """Carry out a command, or answer a question."""
        word, *values = line.split() or [""]
        if word == "/help":
            self.console.print(HELP, end="")
        elif word == "/stages":
            self.stages = select_stages(self.run, values)
            self.describe()
        elif word == "/budget":
            self.limits = make_limits(read_number(word, values), self.limits.min_tokens)
            self.describe()
        elif word == "/min-thinking":
            self.limits = make_limits(self.limits.max_tokens, read_number(word, values) or 0)
            self.describe()
        elif word.startswith("/"):
            raise UserError(f"command {word!r} is unknown; {suggest(word, COMMANDS)}")
        elif line:
            for stage in self.stages:
                self.answer(stage, line)

    def answer(self, stage: Stage, question: str) -> None:
        """Print a stage's answer as it is written."""
        self.console.print(f"\n{stage.name}", style="bold")
        printer = StreamPrinter(self.console)

        # Ctrl-C stops it between two tokens, which leaves the model whole.
        before = signal.signal(signal.SIGINT, printer.stop)
        try:
            completion = self.models.answer(stage, question, self.limits, printer.print_text)
        finally:
            signal.signal(signal.SIGINT, before)

        printer.print_until(completion.text, len(completion.text))
        self.console.print()
        self.console.print(describe_outcome(completion))

    def describe(self) -> None:
        """Print who answers, and within which limits."""
        names = ", ".join(stage.name for stage in self.stages)
        most = "no maximum" if self.limits.max_tokens is None else f"at most {self.limits.max_tokens}"
        self.note(f"{names} answer; tokens of a thought: at least {self.limits.min_tokens}, {most}")

    def note(self, text: str) -> None:
        """Print a line that no model wrote."""
        self.console.print(text, style="dim")


def read_number(word: str, values: Sequence[str]) -> int | None:
    """Return the one whole number of a command, None where it has none."""
    if not values:
        return None
    if len(values) > 1 or not values[0].isdecimal() or len(values[0]) > 9:
        raise UserError(f"{word} takes one whole number of 0 or more, such as {word} 16, or nothing")
    return int(values[0])


def chat(run: Run, names: Sequence[str], budget: int | None, min_thinking: int) -> None:
    """Answer the lines of standard input as they come, to its end.

    Raises:
        UserError: where it is no terminal and has no line, or the options will not do.
    """
    talk = Chat(run, names, make_limits(budget, min_thinking))
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        # Arrow keys and history for input().
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
        talk.describe()
        talk.note("/help lists the commands, Ctrl-D ends")

    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    count = 0
    while True:
        try:
            line = input("> " if is_terminal else "").strip()
            count += 1
            if not is_terminal:
                talk.console.print(f"> {printable(line)}", soft_wrap=True)
            if line == "/quit":
                break
            talk.respond(line)
        except EOFError:
            talk.console.print()
            break
        except UserError as error:
            talk.console.print(f"error: {printable(str(error))}", style="red", soft_wrap=True)
        except KeyboardInterrupt:
            talk.note("\nstopped; /quit or Ctrl-D ends")

    if not count and not is_terminal:
        raise UserError("no question: give one (make ask Q='What is 1 + 1?'), or a line each on standard input")
