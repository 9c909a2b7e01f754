"""Which candidate solutions are kept, and why the others are not.

Kept is what earns enough, has no wrong step and no think tags in its steps, and ends where they end. It must fit the
limit on tokens, differ from the other solutions of its problem, and stand on no problem that is held out. Both `make
traces` and expert iteration keep by these rules (STaR, arXiv 2203.14465, section 3.1; RFT, arXiv 2308.01825, section
3.3).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from data.contamination import find_overlaps
from data.problem import Completion, Grade, Problem, record_to_json
from data.solutions import has_procedure
from data.splits import normalize_text
from eval.extract import split_thought
from eval.grade import grade, is_equal
from eval.steps import find_steps, find_wrong_step, is_checked
from pipeline.prompts import build_messages, encode_text, format_thinking_answer, has_think_tags
from pipeline.rewards import CombinedReward, RewardScore, combine_rewards

HELD_OUT = "a problem that is held out"


@dataclass(frozen=True)
class Candidate:
    """A text that may become a solution of its problem."""

    problem: Problem
    completion: Completion


@dataclass(frozen=True)
class Rules:
    """What a candidate must meet.

    Args:
        max_tokens: The most tokens of a solution with its answer and end of turn.
        max_per_problem: The most solutions of one problem.
        keep_at: The weighted reward from which a candidate is kept.
        require_checked_steps: Whether a solution whose answer could be guessed needs steps that come to it.
    """

    max_tokens: int
    max_per_problem: int
    keep_at: float
    require_checked_steps: bool


@dataclass(frozen=True)
class Selection:
    """What is kept of candidates.

    Args:
        solutions: The problems, each with its solution as ``rationale``.
        dropped: The other candidates, each with the reason; what is held out is only counted.
        account: How many were dropped for which reason.
    """

    solutions: list[Problem]
    dropped: list[tuple[Candidate, str]]
    account: dict[str, Any]


def make_candidate(problem: Problem, text: str, finish: str = "stop") -> Candidate:
    """Return a text that no model of ours has written."""
    return Candidate(problem, Completion(problem.id, text, 0, 0, 0, finish))


# One candidate


def extract_steps(text: str) -> str:
    """Return the steps of a completion, one a line.

    They are its thought. Without one they are what stands before the last box, or before the end, except a last line
    that has no step.
    """
    steps = split_thought(text).thought
    if steps is None:
        before, boxed, _ = text.rpartition("\\boxed")
        steps = before if boxed else text

        others, _, last = steps.rpartition("\n")
        if others and not find_steps(last):
            steps = others

    lines = [line.strip() for line in steps.split("\n")]
    return "\n".join(line for line in lines if line)


def write_solution(candidate: Candidate) -> Problem | None:
    """Return a candidate's problem with the candidate's steps, and its answer where that is a wrong one.

    None where it has no answer, or one that the grader cannot read: sft takes only what it can.
    """
    problem = candidate.problem
    graded = grade(problem, candidate.completion)
    # A right answer is written as the data set writes it.
    if graded.correct:
        answer: str | None = problem.answer
    else:
        answer = graded.extracted

    if answer is None:
        return None
    solution = replace(problem, answer=answer, rationale=extract_steps(candidate.completion.text))

    rewritten = make_candidate(solution, format_thinking_answer(solution.rationale or "", answer))
    return solution if grade(solution, rewritten.completion).correct else None


def find_step_fault(solution: Problem) -> str | None:
    """Return what is wrong with the steps of a solution; None where nothing is."""
    steps = solution.rationale
    if not steps:
        return "no steps"
    if has_think_tags(steps):
        return "think tags in its steps"

    if find_wrong_step(solution, format_thinking_answer(steps, solution.answer)) is not None:
        return "a wrong step"

    # A right answer after steps to another one was guessed.
    equations = find_steps(steps)
    if solution.kind == "number" and equations:
        result = equations[-1].result
        if not is_equal(solution.answer, result, "number"):
            return "steps that end elsewhere"
    return None


def describe_grade(graded: Grade) -> str:
    """Return why an answer that is not correct is none to learn from."""
    return "a wrong answer" if graded.verdict == "wrong" else f"no answer ({graded.verdict})"


def is_guessable(problem: Problem) -> bool:
    """Return whether an answer can be right by chance: there are few to choose from."""
    return problem.kind == "label" or bool(problem.choices)


# All candidates


def select_solutions(
    candidates: Sequence[Candidate],
    source: str,
    *,
    tokenizer,
    rules: Rules,
    held_out: Sequence[Problem],
    reward: CombinedReward | None = None,
) -> Selection:
    """Keep the candidates that meet the rules.

    Args:
        candidates: The first of several that are alike is kept.
        source: What the kept ones say they come from.
        tokenizer: Counts their tokens.
        rules: What they must meet.
        held_out: Problems that none may overlap with.
        reward: What ``rules.keep_at`` is compared with, as combine_rewards gives it; None for correctness.
    """
    reward = reward or combine_rewards(["correctness"], [1.0])
    scores = _score_candidates(candidates, reward, tokenizer)
    selector = _Selector(tokenizer, rules)

    kept = []
    for candidate, score in zip(candidates, scores, strict=True):
        solution = selector.check(candidate, score)
        if solution is not None:
            # Other extra keys may hold lists of mixed types, which TRL's tables cannot.
            kept.append(replace(solution, extra={"source": source}))

    reasons = Counter(reason for _, reason in selector.dropped)
    kept = _drop_held_out(kept, held_out, reasons)

    levels = Counter(solution.level for solution in kept)
    account = {
        "source": source,
        "candidates": len(candidates),
        "kept": len(kept),
        "dropped": dict(reasons.most_common()),
        "levels": {str(level): levels[level] for level in sorted(levels)},
    }
    return Selection(kept, selector.dropped, account)


def _score_candidates(candidates: Sequence[Candidate], reward: CombinedReward, tokenizer) -> list[RewardScore]:
    problems = [candidate.problem for candidate in candidates]
    completions = [candidate.completion for candidate in candidates]
    ids = []
    for completion in completions:
        # With the end of turn, as TRL gives them.
        end = [tokenizer.eos_token_id] if completion.finish == "stop" else []
        ids.append(encode_text(tokenizer, completion.text) + end)
    return reward(problems, completions, ids)


class _Selector:
    """Checks candidates one after the other; what is kept counts against those that follow."""

    def __init__(self, tokenizer, rules: Rules) -> None:
        self.tokenizer = tokenizer
        self.rules = rules
        self.dropped: list[tuple[Candidate, str]] = []
        self.paths: set[tuple] = set()
        self.solutions_of: Counter[str] = Counter()

    def check(self, candidate: Candidate, score: RewardScore) -> Problem | None:
        """Return the solution that a candidate is; None where it is dropped."""
        solution = write_solution(candidate)
        reason = self.find_reason(candidate, solution, score)
        if reason or solution is None:
            self.dropped.append((candidate, str(reason)))
            return None

        self.paths.add(find_path(solution))
        self.solutions_of[solution.id] += 1
        number = self.solutions_of[solution.id]
        return solution if number == 1 else replace(solution, id=f"{solution.id}#{number}")

    def find_reason(self, candidate: Candidate, solution: Problem | None, score: RewardScore) -> str | None:
        """Return why a candidate is dropped; None where it is kept."""
        rules = self.rules
        if solution is None or score.total < rules.keep_at:
            graded = grade(candidate.problem, candidate.completion)
            return f"a reward below {rules.keep_at:g}" if graded.correct else describe_grade(graded)

        # A procedure is one for the problem's own answer, whatever the solution's is.
        checked = solution
        if has_procedure(candidate.problem):
            checked = replace(solution, answer=candidate.problem.answer)

        fault = find_step_fault(checked)
        if fault:
            return fault

        text = format_thinking_answer(solution.rationale or "", solution.answer)
        if rules.require_checked_steps and is_guessable(solution) and not is_checked(checked, text):
            return "steps that do not reach the answer"

        # One more for the end of turn.
        if len(encode_text(self.tokenizer, text)) + 1 > rules.max_tokens:
            return f"more than {rules.max_tokens} tokens"
        if find_path(solution) in self.paths:
            return "a path that is there already"
        if self.solutions_of[solution.id] >= rules.max_per_problem:
            return f"more than {rules.max_per_problem} of a problem"
        return None


def find_path(solution: Problem) -> tuple:
    """What tells one solution of a problem from another.

    Equal equations in the same order are the same path, whatever the words.
    Source: Yuan et al. 2023, arXiv 2308.01825, section 3.3.
    """
    steps = solution.rationale or ""
    equations = tuple(step.text for step in find_steps(steps))
    return (solution.id, equations or normalize_text(steps))


def _drop_held_out(solutions: list[Problem], held_out: Sequence[Problem], reasons: Counter[str]) -> list[Problem]:
    # The question is the same in both directions, and asked this way every solution gets its answer.
    overlapping = {overlap.problem.id for overlap in find_overlaps(held_out, solutions)}
    if overlapping:
        reasons[HELD_OUT] += len(overlapping)
    return [solution for solution in solutions if solution.id not in overlapping]


# What is written


def to_conversation(solution: Problem) -> dict[str, Any]:
    """Return a solution as a line of a file: TRL's prompt and completion, and the fields of the problem.

    So the file trains with TRL as it is, and is a data set of ours.
    """
    text = format_thinking_answer(solution.rationale or "", solution.answer)
    conversation = {
        "prompt": build_messages(solution, "think"),
        "completion": [{"role": "assistant", "content": text}],
    }
    return record_to_json(solution) | conversation


def to_dropped_conversation(candidate: Candidate, reason: str) -> dict[str, Any]:
    """Return a dropped candidate as a line of a file: TRL's prompt and completion, and why it was dropped."""
    problem = candidate.problem
    return {
        "id": problem.id,
        "family": problem.family,
        "level": problem.level,
        "reason": reason,
        "prompt": build_messages(problem, "think"),
        "completion": [{"role": "assistant", "content": candidate.completion.text}],
    }


def describe_account(account: dict[str, Any]) -> str:
    """Return an account in one sentence."""
    sentence = f"{account['source']}: {account['candidates']} candidates, {account['kept']} kept"

    levels = [f"{count} of level {level}" for level, count in account["levels"].items() if level != "0"]
    if levels:
        sentence += f" ({', '.join(levels)})"

    reasons = [f"{count} {reason}" for reason, count in account["dropped"].items()]
    if reasons:
        sentence += f"; dropped: {', '.join(reasons)}"
    return sentence
