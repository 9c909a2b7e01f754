"""Do stupid errors vanish with a hint, and intelligent ones stay?

The base solves problems step by step. Where its answer is wrong it is told which step to check, or a step that is not
the wrong one, or asked whether it is sure. An error is stupid where an equation is false (a slip): a look at it is
enough. It is intelligent where every equation is true, and the plan is wrong (eval/errors.py). Others, such as answers
that were cut off, are not asked. Right answers get a hint too, which should not make them wrong; since a small base has
few of its own, worked solutions are put into its mouth.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from data.dataset_spec import Take
from data.datasets import load
from data.files import UserError
from data.problem import Completion, Problem
from data.splits import take_stratified
from eval.errors import GradedCompletion
from eval.grade import grade, grade_all
from eval.steps import find_wrong_step
from eval.studies import Findings, estimate_mean, make_line, subtract
from pipeline.evaluate import evaluate
from pipeline.generate import find_stop_ids, generate, to_completion
from pipeline.progress import progress_bar
from pipeline.prompts import build_messages, encode_forced_opening, encode_text, format_example_answer, render_prompt
from pipeline.settings import Count, Greedy, refuse_twice
from pipeline.studies.study import Base, Level, StudySettings

CLAIM = "Stupid errors vanish with a hint, intelligent ones do not."
LIMITS = (
    "It says how often this base answers rightly when it is asked again in these words; a model that was trained to "
    "talk about its answers may do otherwise. Right second answers are no proof that the hint was understood. The hint "
    "for a wrong plan names the last step, as nothing tells which one it went wrong at. Most right first answers are "
    "not the base's own."
)
NEEDS = "chat"


class Settings(StudySettings):
    """The study's recipe."""

    problems: Count
    levels: Annotated[list[Level], Field(min_length=1), AfterValidator(refuse_twice)]
    examples: Take
    batch_size: Count
    generation: Greedy


AGAIN = " Write all steps again, then the answer as \\boxed{answer}."
SURE = "Are you sure?" + AGAIN

SLIP, PLAN, RIGHT = KINDS = ("slip", "plan", "right answer")
HINT, WRONG_HINT, ASKED = WAYS = ("right hint", "wrong hint", "are you sure?")


@dataclass(frozen=True)
class Turn:
    """A first answer, its kind, and the second question in each way that it can be asked."""

    problem: Problem
    completion: Completion
    kind: str
    asked: dict[str, str]


def measure(settings: Settings, base: Base) -> Findings:
    """Measure how many second answers are right, by the kind of the first one and by the hint."""
    model, tokenizer = base.load()
    examples = load("arithmetic_v1", "train", settings.examples).problems
    # The base was not trained on them either, and there are more of them than on dev.
    levels = ",".join(map(str, settings.levels))
    train = load("arithmetic_v1", "train", levels=levels).problems
    # The examples are answered in the prompt.
    unanswered = [problem for problem in train if problem not in examples]
    problems = take_stratified(unanswered, settings.problems)

    first = evaluate(
        model,
        tokenizer,
        problems,
        "cot",
        examples=examples,
        max_new_tokens=settings.generation["max_new_tokens"],
        batch_size=settings.batch_size,
        label="dialogue: first answers",
    ).completions

    own = make_turns(problems, first)
    if not own:
        raise UserError(f"dialogue: {base.name} answered nothing in two steps or more; choose another base by BASE=")

    worked = [write_worked_answer(problem) for problem in problems]
    turns = own + make_turns(problems, worked)

    # Whether each second answer is right, in the order of the turns.
    right: dict[tuple[str, str], list[float]] = {pair: [] for pair in itertools.product(KINDS, WAYS)}
    for way in WAYS:
        answers = ask_again(model, tokenizer, turns, way, examples, settings)
        for turn, answer in zip(turns, answers, strict=True):
            verdict = grade(turn.problem, answer)
            right[turn.kind, way].append(float(verdict.correct))
    return summarize(right)


def write_worked_answer(problem: Problem) -> Completion:
    """Return a problem's worked solution as if the base had written it."""
    text = format_example_answer(problem, "cot")
    return Completion(problem.id, text, 0, 0, 0, "stop")


def make_turns(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Turn]:
    """Return a turn of each first answer that has one."""
    grades = grade_all(problems, completions)
    turns = []
    for problem, completion, verdict in zip(problems, completions, grades, strict=True):
        turn = make_turn(GradedCompletion(problem, completion, verdict))
        if turn:
            turns.append(turn)
    return turns


def make_turn(graded: GradedCompletion) -> Turn | None:
    """Return what a first answer is asked next; None where it has no two steps to choose from, or another error."""
    kind = RIGHT if graded.grade.correct else graded.kind
    if kind not in KINDS:
        return None

    steps = []
    for line in graded.completion.text.split("\n"):
        # The answer may stand in an equation too, and is no step of its own.
        if "=" in line and "\\boxed" not in line:
            steps.append(line.strip())
    if len(steps) < 2:
        return None

    # Every kind has all three questions, or they would be asked of different problems.
    wrong = find_wrong_step(graded.problem, graded.completion.text)
    places = [i for i, line in enumerate(steps) if wrong and wrong.text in line]
    # Where no step is false, the plan may have gone wrong anywhere: the last one is what the answer rests on.
    place = places[0] if places else len(steps) - 1
    # A neighbour, which looks as much like a wrong step as any.
    other = place - 1 if place else 1

    asked = {
        HINT: f'Check step {place + 1}: "{steps[place]}".' + AGAIN,
        WRONG_HINT: f'Check step {other + 1}: "{steps[other]}".' + AGAIN,
        ASKED: SURE,
    }
    return Turn(graded.problem, graded.completion, kind, asked)


def ask_again(model, tokenizer, turns: Sequence[Turn], way: str, examples, settings) -> list[Completion]:
    """Return the second answers."""
    prompts = []
    for turn in turns:
        messages = build_messages(turn.problem, "cot", examples)
        messages.append({"role": "assistant", "content": turn.completion.text})
        messages.append({"role": "user", "content": turn.asked[way]})
        prompt = render_prompt(tokenizer, messages, "cot")
        prompts.append(encode_text(tokenizer, prompt))

    opening = encode_forced_opening(tokenizer, "cot")
    with progress_bar(f"dialogue: {way}", len(prompts)) as on_progress:
        sequences = generate(
            model,
            tokenizer,
            prompts,
            max_new_tokens=settings.generation["max_new_tokens"],
            batch_size=settings.batch_size,
            prefixes=[opening] * len(prompts),
            on_progress=on_progress,
        )

    stops = find_stop_ids(model, tokenizer)
    completions = []
    for turn, sequence in zip(turns, sequences, strict=True):
        completions.append(to_completion(tokenizer, turn.problem, sequence, stops))
    return completions


def summarize(right: dict[tuple[str, str], list[float]]) -> Findings:
    """Return what it comes to; ``right`` has by kind and way whether each second answer is right."""

    def compare(kind: str, way: str) -> list[float]:
        """Return what a hint gains over being asked, of each answer of a kind."""
        pairs = zip(right[kind, way], right[kind, ASKED], strict=True)
        # To be asked again is a hint by itself: whoever asks may have seen an error.
        return [hinted - asked for hinted, asked in pairs]

    slips = estimate_mean("slips put right by a right hint, above being asked", compare(SLIP, HINT))
    others = estimate_mean("wrong plans", compare(PLAN, HINT))
    misled = compare(SLIP, WRONG_HINT) + compare(PLAN, WRONG_HINT)

    counts = {kind: len(right[kind, ASKED]) for kind in KINDS}
    counted = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)

    return Findings(
        n=sum(counts.values()),
        unit="first answers",
        effects=[
            slips,
            # The two kinds are of different problems, so nothing here is paired.
            subtract("the same, above that of wrong plans", slips, others),
        ],
        controls=[
            estimate_mean("errors put right by a wrong hint, above being asked", misled),
            estimate_mean("right answers kept after a hint, above being asked", compare(RIGHT, HINT)),
        ],
        lines=[make_line(way, {kind: right[kind, way] for kind in KINDS}) for way in WAYS],
        x_label="first answer",
        y_label="second answers that are right",
        notes=[f"First answers of two steps or more: {counted}."],
    )
