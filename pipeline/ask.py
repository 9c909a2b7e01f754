"""``make ask``: one question to every stage that has been run, side by side."""

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from data.records import BadInput, Completion, Problem
from eval.extract import extract, split_thought
from pipeline import stages
from pipeline.runs import Run


def ask(run: Run, question: str, budget: int | None, least: int = 0) -> None:
    """Print what each stage answers, its thought dimmed, with its tokens and the answer that would be graded."""
    done = stages.done(run.root)
    if not done:
        raise BadInput(f"{run.root}: no stage has been run yet; run `make` or `make plain` first")
    problem = Problem("ask", question, "0", "number")
    panels = [panel(stage, answer(run, stage, problem, budget, least)) for stage in done]
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(Columns(panels, equal=True, expand=True, width=max(30, console.width // len(panels) - 1)))


def answer(run: Run, stage: str, problem: Problem, budget: int | None, least: int) -> Completion:
    """One stage's completion, under its last prompt (the one with most exemplars for a prompted stage)."""
    _, prompt, shots = stages.variants(run, stage)[-1]
    model, tokenizer = run.load(stages.adapter_of(run, stage))
    [completion] = stages.complete(
        model,
        tokenizer,
        [problem],
        prompt,
        shots,
        max_tokens=run.recipe.eval.max_tokens,
        batch_size=1,
        budget=budget,
        least=least,
        label=stage,
    )
    return completion


def panel(stage: str, completion: Completion) -> Panel:
    """A completion as a panel; model text is shown as text, never as markup."""
    thought, rest, closed = split_thought(completion.text)
    body = Text()
    if thought is not None:
        body.append(f"<think>{thought}{'</think>' if closed else ''}\n", style="dim")
    body.append(rest.strip())
    found = extract(rest, "number").answer if closed or thought is None else None
    total = completion.thinking_tokens + completion.answer_tokens
    body.append(f"\n\nanswer: {found}\n", style="bold")
    body.append(f"{total} tokens, {completion.thinking_tokens} of them thinking", style="italic")
    return Panel(body, title=stage)
