"""``make ask``: one question to every stage that has been run, side by side; or without a question, a chat."""

import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from peft import PeftModel
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text

from data.records import BadInput, Completion, Problem, nearest
from eval.extract import Extraction, extract, split_thought
from pipeline import answers, runs, stages
from pipeline.progress import printable
from pipeline.prompts import END_THINK, THINK
from pipeline.recipe import check_thinking
from pipeline.runs import Run

HELP = """\
/stages sft rl     who answers; /stages alone: all that have been run
/budget 16         the most tokens a thought may have; /budget alone: no cap
/min-thinking 8    the fewest a thought may end with; 0: no floor
/help              this list
/quit              the end, as Ctrl-D; Ctrl-C stops an answer
"""
COMMANDS = ("/stages", "/budget", "/min-thinking", "/help", "/quit")


class Models:
    """The stages that answer: the base's weights once, and each stage's adapter on them."""

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        self.run = run
        self.model, self.tokenizer = run.load()
        for stage in names:
            adapter = stages.adapter_of(run, stage)
            if adapter:
                runs.check_adapter(adapter)
            if adapter and isinstance(self.model, PeftModel):
                self.model.load_adapter(adapter, stage)
            elif adapter:
                self.model = PeftModel.from_pretrained(self.model, adapter, stage)
        self.model.eval()

    def answer(
        self, stage: str, question: str, budget: int | None, least: int, written: Callable[[str], None] | None = None
    ) -> Completion:
        """One stage's completion, under its last prompt (the one with most exemplars for a prompted stage); ``written``
        is told the text so far after each token."""
        bare: Any = contextlib.nullcontext()
        if stages.adapter_of(self.run, stage):
            self.model.set_adapter(stage)
        elif isinstance(self.model, PeftModel):
            bare = self.model.disable_adapter()
        _, prompt, shots = stages.variants(self.run, stage)[-1]
        with bare:
            [completion] = answers.complete(
                self.model,
                self.tokenizer,
                [Problem("ask", question, "0", "number")],
                prompt,
                shots,
                max_tokens=self.run.recipe.eval.max_tokens,
                batch_size=1,
                budget=budget,
                least=least,
                label=stage,
                written=written,
            )
        return completion


def chosen(run: Run, names: Sequence[str]) -> list[str]:
    """The stages of these names, all that have been run where none is named. Raises BadInput where one is not there."""
    done = stages.done(run.root)
    if not done:
        raise BadInput(f"{run.root}: no stage has been run yet; run `make` or `make plain` first")
    for name in names:
        if name not in done:
            raise BadInput(f"stage {name!r} has not been run in {run.root}; {nearest(name, done)}")
    return [stage for stage in done if stage in names] if names else done


def ask(run: Run, question: str, names: Sequence[str], budget: int | None, least: int = 0) -> None:
    """Print what each stage answers, its thought dimmed, with its tokens and the answer that would be graded."""
    asked = chosen(run, names)
    models = Models(run, asked)
    panels = [panel(stage, models.answer(stage, question, budget, least)) for stage in asked]
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(Columns(panels, equal=True, expand=True, width=max(30, console.width // len(panels) - 1)))


def panel(stage: str, completion: Completion) -> Panel:
    """A completion as a panel; model text is shown as text, never as markup."""
    thought, rest, closed = split_thought(completion.text)
    body = Text()
    if thought is not None:
        body.append(printable(f"<think>{thought}{'</think>' if closed else ''}\n"), style="dim")
    body.append(f"{printable(rest.strip())}\n\n")
    return Panel(body + outcome(completion), title=stage)


def outcome(completion: Completion) -> Text:
    """The answer that would be graded, and the tokens it took."""
    thought, rest, closed = split_thought(completion.text)
    finished = completion.finish == "stop"
    found = extract(rest, "number", finished=finished) if closed or thought is None else Extraction(None)
    guesses = " (of several guesses, which earn nothing)" if found.ambiguous else ""
    total = completion.thinking_tokens + completion.answer_tokens
    cut = ", cut by the limit" if completion.finish == "length" else ""
    return Text.assemble(
        (f"answer: {printable(str(found.answer))}{guesses}\n", "bold"),
        (f"{total} tokens, {completion.thinking_tokens} of them thinking{cut}", "italic"),
    )


class Written:
    """Prints a completion as it grows, the thought dimmed. Characters that may be half of one are held back."""

    def __init__(self, console: Console) -> None:
        self.console, self.shown = console, 0
        self.stop = False

    def __call__(self, text: str, last: bool = False) -> None:
        if self.stop and not last:
            raise KeyboardInterrupt
        end = len(text if last else text.rstrip("\ufffd"))
        begin = text.find(THINK) + len(THINK) if THINK in text else end
        close = text.find(END_THINK, begin)
        thought = range(begin, end if close < 0 else close + len(END_THINK))
        while self.shown < end:
            dim = self.shown in thought
            until = min(end, thought.stop if dim else begin if self.shown < begin else end)
            piece = Segment(printable(text[self.shown : until]), Style(dim=True) if dim else None)
            self.console.print(Segments([piece]), end="", soft_wrap=True)
            self.shown = until


def chat(run: Run, names: Sequence[str], budget: int | None, least: int = 0) -> None:
    """Read questions and commands (``HELP``), a line each, from standard input to its end, and answer as they come.

    Raises BadInput where that is no terminal and holds no line."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  arrow keys and history for input()
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    asked, everyone = chosen(run, names), chosen(run, [])
    console, typed = Console(markup=False, highlight=False), sys.stdin.isatty()
    models, lines = Models(run, everyone), 0
    if typed:
        console.print(f"{', '.join(asked)} answer; /help lists the commands, Ctrl-D ends", style="dim")
    while True:
        try:
            line = input("> " if typed else "").strip()
        except EOFError:
            console.print()
            break
        except KeyboardInterrupt:
            console.print("\n/quit or Ctrl-D ends", style="dim")
            continue
        lines += 1
        if not typed:
            console.print(f"> {printable(line)}", soft_wrap=True)
        word, *given = line.split() or [""]
        try:
            if word == "/quit":
                break
            if word == "/help":
                console.print(HELP, end="")
            elif word == "/stages":
                asked = chosen(run, given)
                console.print(f"{', '.join(asked)} answer", style="dim")
            elif word == "/budget":
                cap = number(word, given)
                check_thinking(cap, least)
                budget = cap
                console.print("no cap" if budget is None else f"at most {budget} tokens of thought", style="dim")
            elif word == "/min-thinking":
                floor = number(word, given) or 0
                check_thinking(budget, floor)
                least = floor
                console.print(f"at least {least} tokens of thought" if least else "no floor", style="dim")
            elif word.startswith("/"):
                raise BadInput(f"command {word!r} is unknown; {nearest(word, COMMANDS)}")
            elif line:
                for stage in asked:
                    show(console, models, stage, line, budget, least)
        except BadInput as error:
            console.print(f"error: {printable(str(error))}", style="red", soft_wrap=True)
        except KeyboardInterrupt:
            console.print("\nstopped", style="dim")
    if not lines and not typed:
        raise BadInput("no question: give one (make ask Q='What is 1 + 1?'), or a line each on standard input")


def number(word: str, given: Sequence[str]) -> int | None:
    """The one whole number of a command, None where there is none. Raises BadInput where it is something else."""
    if len(given) > 1 or any(not (text.isascii() and text.isdigit()) or len(text) > 9 for text in given):
        raise BadInput(f"{word} takes one whole number of 0 or more, such as {word} 16, or nothing")
    return int(given[0]) if given else None


def show(console: Console, models: Models, stage: str, question: str, budget: int | None, least: int) -> None:
    """Print a stage's answer as it is written. Ctrl-C stops it between two tokens, which leaves the model whole."""
    console.print(f"\n{stage}", style="bold")
    written = Written(console)

    def stop(*_: object) -> None:
        written.stop = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        completion = models.answer(stage, question, budget, least, written)
    finally:
        signal.signal(signal.SIGINT, before)
    written(completion.text, last=True)
    console.print()
    console.print(outcome(completion))
