"""Stage 3: supervised fine-tuning of an adapter on worked solutions, by TRL's SFTTrainer.

Every solution is graded before the model sees it. Most answers think first; some are direct (``<think></think>``), so
that both ways of answering exist for the stages after. Prompts and completions are tokenized here: what is trained is,
token for token, what generation is asked with.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.files import UserError
from data.problem import Completion, Problem
from data.splits import LEVELS
from eval.grade import grade
from pipeline.learnability import NoSignal
from pipeline.processes import on_main_process
from pipeline.prompts import DIRECT, encode_text, format_direct_answer, format_thinking_answer, has_think_tags
from pipeline.settings import SftSettings
from pipeline.stages.stage import Stage, TrainingContext

if TYPE_CHECKING:
    from pipeline.training import Row

# Trained tokens of a row up to which it counts as an answer without steps.
SHORT = 16

# Rows are sorted by length within so many batches.
SORTED_BATCHES = 16


@dataclass(frozen=True)
class Answer:
    """A completion that a model is trained to give."""

    problem: Problem
    text: str


def build_answers(problems: Sequence[Problem], settings: SftSettings, seed: int) -> list[Answer]:
    """Return an answer with the steps of every solution, and for ``direct_share`` of each level a direct one too.

    Raises:
        UserError: Where a solution has not the right answer.
    """
    rng = random.Random(seed)
    answers = []

    for problem in problems:
        texts = []
        if problem.rationale is not None and settings.steps != "none":
            steps = problem.rationale
            if settings.steps == "shuffled":
                steps = shuffle_lines(steps, f"{seed} {problem.id}")
            texts.append(format_thinking_answer(steps, problem.answer))

        # A problem of unknown level counts as one of the hardest.
        place = problem.level - 1 if problem.level in LEVELS else -1
        if rng.random() < settings.direct_share[place] or not texts:
            texts.append(format_direct_answer(problem.answer))

        # A wrong one would be learnt as well as a right one.
        for text in texts:
            check_answer(problem, text)
            answers.append(Answer(problem, text))
    return answers


def check_answer(problem: Problem, text: str) -> None:
    """Raise UserError where the grader does not take an answer for right."""
    if has_think_tags(problem.rationale or ""):
        raise UserError(f"sft.solutions: the solution of {problem.id} has think tags of its own; take them out")

    graded = grade(problem, Completion(problem.id, text, 0, 0, 0, "stop"))
    if not graded.correct:
        raise UserError(
            f"sft.solutions: the solution of {problem.id} is graded {graded.verdict}: {text!r}; take it out, or fix it"
        )


def shuffle_lines(text: str, seed: str) -> str:
    """Return the lines in another order, where there are different ones."""
    lines = text.split("\n")
    if len(set(lines)) == 1:
        return text

    # By chance it may be the order that was.
    rng = random.Random(seed)
    shuffled = lines
    while shuffled == lines:
        shuffled = rng.sample(lines, len(lines))
    return "\n".join(shuffled)


def build_training_rows(
    tokenizer,
    problems: Sequence[Problem],
    settings: SftSettings,
    seed: int,
) -> list["Row"]:
    """Return the rows to train on, from problems with solutions.

    Of most direct answers only the content is trained; ``direct_choice_share`` of them also train when to answer so.
    """
    from pipeline.training import build_row

    rng = random.Random(f"{seed} told")
    opening = len(encode_text(tokenizer, DIRECT))
    rows = []

    for answer in build_answers(problems, settings, seed):
        is_direct = answer.text.startswith(DIRECT)
        skips_choice = is_direct and rng.random() >= settings.direct_choice_share
        untrained = opening if skips_choice else 0
        rows.append(build_row(tokenizer, answer.problem, answer.text, "think", untrained))
    return rows


def deal_batches(rows: Sequence["Row"], size: int, seed: int) -> list["Row"]:
    """Return the rows in a random order in which those of like length share a batch.

    That needs less padding than a plain random order. On a CPU short rows are also faster than packed ones, whose
    attention spans the whole pack (measured: 1,024 tokens took 3.9 s as 10 rows, 7.3 s as one). The ``group_by_length``
    of transformers sorts the batches too, so each of its cycles ends on the shortest texts: here the direct answers,
    which sft then gave to everything.
    """
    rng = random.Random(seed)
    shuffled = rng.sample(list(rows), len(rows))
    short = [row for row in shuffled if sum(row["completion_mask"]) <= SHORT]
    worked = [row for row in shuffled if sum(row["completion_mask"]) > SHORT]

    # The direct answers are dealt out evenly. Whole batches of them taught, each time, that there is no other way to
    # answer (measured: 13.8 tokens an answer half-way, of 60 at the end).
    count = -(-len(rows) // size)
    hands = [short[i::count] for i in range(count)]

    # The last batch may be the one that is not full.
    hands.sort(key=len, reverse=True)

    window = SORTED_BATCHES * size
    similar: list[Row] = []
    for start in range(0, len(worked), window):
        similar += sorted(worked[start : start + window], key=lambda row: len(row["input_ids"]))

    batches = []
    start = 0
    for hand in hands:
        end = start + size - len(hand)
        batches.append(hand + similar[start:end])
        start = end

    # The trainer cuts the rows into batches by count, so a short one must come last.
    full = [batch for batch in batches if len(batch) == size]
    rest = [batch for batch in batches if len(batch) < size]
    rng.shuffle(full)
    return [row for batch in full + rest for row in batch]


def train_adapter(
    context: TrainingContext,
    rows: Sequence["Row"],
    trainer: Mapping[str, Any],
    work: Path,
    adapter: Path | None = None,
    last_layers: int | None = None,
    **options: Any,
) -> Path:
    """Train an adapter on rows and return its folder: a new one with sft's LoRA, or ``adapter`` further.

    Args:
        context: Of the stage.
        rows: As :func:`build_training_rows` gives them.
        trainer: Keys of SFTConfig.
        work: Where the training writes.
        adapter: The one to go on from.
        last_layers: Of that one, how many layers are trained; None for all.
        options: More arguments of :func:`pipeline.training.train_sft`.
    """
    from pipeline.models.adapters import freeze_first_layers, save_adapter
    from pipeline.training import build_dev_scorer, count_batch_rows, train_sft

    # A training that came to its end is not begun again: transformers would do one step more.
    final = work / "final"
    if on_main_process(final.is_dir):
        return final

    recipe = context.run.recipe
    label = context.stage.name
    model, tokenizer = context.load_model(adapter, trainable=True)
    if last_layers:
        freeze_first_layers(model, last_layers)

    whole = drop_long_rows(rows, recipe.eval.generation["max_new_tokens"], label)
    common: dict[str, Any] = {
        "seed": context.seed,
        "lora": None if adapter else recipe.stages["sft"].lora,
        "score_dev": build_dev_scorer(
            tokenizer, context.dev_problems(), recipe.eval.generation, recipe.eval.batch_size
        ),
        "fast": recipe.base.fast_training,
        "report_to": recipe.report_to,
        "run_name": f"{context.run.base}/{label}",
    }
    dealt = deal_batches(whole, count_batch_rows(trainer), context.seed)
    # Stage 5 scores dev in its own way.
    common |= options
    trained = train_sft(
        model,
        tokenizer,
        dealt,
        trainer,
        work=work,
        label=label,
        **common,
    )
    return save_adapter(trained, final)


def drop_long_rows(rows: Sequence["Row"], max_new_tokens: int, label: str) -> list["Row"]:
    """Return the rows whose completion a model can write whole, and say how many others there are."""
    from pipeline.progress import say

    whole = [row for row in rows if sum(row["completion_mask"]) <= max_new_tokens]
    if len(whole) < len(rows):
        left_out = len(rows) - len(whole)
        say(f"{label}: {left_out} of {len(rows)} answers are longer than eval.generation.max_new_tokens; left out")

    if not whole:
        raise UserError(
            f"{label}: no solution is left to train on; name more problems, or raise eval.generation.max_new_tokens"
        )
    return whole


def train(context: TrainingContext) -> Path:
    """Train the adapter of this stage on the solutions that the recipe names."""
    from pipeline.models.load import load_tokenizer
    from pipeline.traces.sources import choose_solutions

    tokenizer = load_tokenizer(context.run.base_folder)

    def build_rows(settings: SftSettings) -> list["Row"]:
        problems = choose_solutions(context.train_problems(), settings.solutions, context.seed)
        return build_training_rows(tokenizer, problems, settings, context.seed)

    settings = context.settings
    rows = build_rows(settings)

    name = context.stage.control_of
    if name:
        real = context.run.recipe.stages[name]
        is_alike = settings.trainer == real.trainer and settings.lora == real.lora
        # nano learns from the older solutions as it is.
        if is_alike and rows == build_rows(real):
            raise NoSignal(f"{context.stage.name}: it would train on what {name} trains on")
    return train_adapter(context, rows, settings.trainer, context.work)


SFT = Stage(
    name="sft",
    number=3,
    help="fine-tune an adapter on worked solutions",
    prompt="think",
    compared_to=("plain", "cot"),
    settings=SftSettings,
    train=train,
)
