"""Texts of a teacher: any server that speaks OpenAI's chat completions (vLLM, llama.cpp and most services do).

Whatever goes wrong on the way, no text that came is lost, and no request is sent that could go beyond the cap: the most
it can cost is written down before, and set right after; what may have been billed without an answer counts in full, as
does a request in the middle of which the run was killed.
"""

import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from data.records import BadInput, Problem
from pipeline.prompts import messages
from pipeline.recipe import TeacherSettings
from pipeline.traces import Candidate, Texts, key_of

UNBILLED = {425, 429, 503}
RETRIED = {408, 409, 500, 502, 504} | UNBILLED
UNREADABLE = "an answer that cannot be read"
TEMPLATE_TOKENS = 100  # a chat template's own, at the most, in the bound of a prompt's tokens


class Spent(Exception):
    """The next request could go beyond the cap."""


class Teacher:
    """One server and one purse; safe to ask from several threads."""

    def __init__(self, settings: TeacherSettings, key: str, texts: Texts, sleep: Callable[[float], None] = time.sleep):
        if not settings.url.startswith(("http://", "https://")) or not settings.model:
            raise BadInput(
                "the teacher has no address or no model; "
                'set SET="traces.teacher.url=http://HOST:PORT/v1 traces.teacher.model=NAME"'
            )
        self.settings, self.key, self.texts, self.sleep = settings, key, texts, sleep
        try:
            httpx2.URL(settings.url)
        except httpx2.InvalidURL as error:
            raise BadInput(f"traces.teacher.url {settings.url!r} is no address ({error}); mend it") from None
        if key and not (settings.price_in or settings.price_out):
            raise BadInput(
                "there is an OPENAI_API_KEY and no price, so that traces.teacher.most_cost could hold nothing; set "
                "traces.teacher.price_in and price_out, for a million tokens each"
            )
        self.lock = threading.Lock()
        self.spent = sum(row["cost"] for row in texts.rows)

    def most(self, chat: Sequence[Mapping[str, str]]) -> float:
        """The most a request can cost: a token is at least a byte of the prompt."""
        prompt = sum(len(turn["content"].encode()) for turn in chat) + TEMPLATE_TOKENS
        return self._cost(prompt, self.settings.max_tokens)

    def name(self, problem: Problem, temperature: float, k: int) -> str:
        """The key of a text, which is its request."""
        return key_of(
            "teacher", self.settings.model, messages(problem, "cot"), temperature, self.settings.max_tokens, k
        )

    def ask(self, problem: Problem, temperature: float, k: int) -> None:
        """Have the ``k``-th text of a problem in ``texts``, unless it is there; nothing where none could be read.

        Raises :class:`Spent`, or BadInput where the server refuses or cannot be reached."""
        chat, name = messages(problem, "cot"), self.name(problem, temperature, k)
        if name in self.texts.by_key:
            return
        most, met = self.most(chat), ""
        for attempt in range(self.settings.attempts):
            with self.lock:
                if self.spent + most > self.settings.most_cost:
                    raise Spent
                self._note({"key": "", "id": problem.id, "met": "sent", "cost": most})
            answer, met, billed, wait = self._post(chat, temperature, k)
            with self.lock:
                if answer is not None:
                    usage = (answer["prompt_tokens"], answer["completion_tokens"])
                    cost = most if None in usage else self._cost(*usage)
                    return self._note({"key": name, "id": problem.id} | answer | {"cost": cost - most})
                self._note({"key": "", "id": problem.id, "met": met, "cost": 0.0 if billed else -most})
            if attempt + 1 < self.settings.attempts:
                self.sleep(wait if wait is not None else min(60.0, 2.0**attempt) * random.uniform(0.5, 1.0))
        if met != UNREADABLE:
            raise BadInput(
                f"the teacher at {self.settings.url} does not answer ({met}, {self.settings.attempts} times); "
                f"what came is kept in {self.texts.path}, and the same command goes on from there"
            )
        with self.lock:  # given up, so that the next run does not ask again
            self._note({"key": name, "id": problem.id, "text": "", "finish": "stop", "cost": 0.0})

    def _note(self, row: dict[str, Any]) -> None:
        """Write a row down, and what it changes of the sum."""
        self.spent += row["cost"]
        self.texts.add([row])

    def _cost(self, prompt: int, completion: int) -> float:
        return (prompt * self.settings.price_in + completion * self.settings.price_out) / 1e6

    def _post(self, chat, temperature: float, k: int) -> tuple[dict[str, Any] | None, str, bool, float | None]:
        """(the answer's row, what went wrong, whether that may have been billed, seconds the server says to wait)."""
        body = {"model": self.settings.model, "messages": chat, "temperature": temperature}
        body |= {"max_tokens": self.settings.max_tokens, "seed": k}
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        url = self.settings.url.rstrip("/") + "/chat/completions"
        try:
            reply = httpx2.post(url, json=body, headers=headers, timeout=self.settings.timeout)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return None, type(error).__name__, False, None
        except httpx2.DecodingError:
            return None, UNREADABLE, True, None
        except httpx2.TransportError as error:
            return None, type(error).__name__, True, None
        if reply.status_code in RETRIED:
            after = reply.headers.get("retry-after", "")
            wait = min(float(after), 120.0) if re.fullmatch(r"\d+(\.\d+)?", after) else None
            return None, f"status {reply.status_code}", reply.status_code not in UNBILLED, wait
        if reply.status_code != 200:
            said = " ".join(reply.text.split())[:120]
            raise BadInput(
                f"the teacher at {url} refuses (status {reply.status_code}: {said}); check the address, "
                "traces.teacher.model and OPENAI_API_KEY"
            )
        try:
            value = reply.json()
            choice, usage = value["choices"][0], value.get("usage")
            text, thought = choice["message"]["content"], choice["message"].get("reasoning_content")
            text = "" if text is None else text  # the limit cut a thought that the server keeps apart
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return None, UNREADABLE, True, None
        usage = usage if isinstance(usage, dict) else {}
        tokens = {
            name: usage.get(name) if isinstance(usage.get(name), int) else None
            for name in ("prompt_tokens", "completion_tokens")
        }
        text = f"<think>\n{thought}\n</think>\n{text}" if isinstance(thought, str) and thought.strip() else text
        finish = "length" if choice.get("finish_reason") == "length" else "stop"
        return {"text": text, "finish": finish, **tokens}, "", True, None


def taught(
    teacher: Teacher, problems: Sequence[Problem], samples: int, temperature: float, progress
) -> tuple[list[Candidate], dict[str, Any]]:
    """The teacher's texts of each problem, and what they cost; fewer where the cap was reached."""
    plan = [(p, k) for p in problems for k in range(samples)]
    capped, failed = threading.Event(), threading.Event()

    def one(item: tuple[Problem, int]) -> None:
        if capped.is_set() or failed.is_set():
            return
        try:
            teacher.ask(item[0], temperature, item[1])
        except Spent:
            capped.set()
        except BaseException:
            failed.set()
            raise
        progress(1, 0)

    with ThreadPoolExecutor(teacher.settings.at_once) as pool:
        list(pool.map(one, plan))  # raises what a thread raised
    rows, by_key = teacher.texts.rows, teacher.texts.by_key
    answered = [(p, by_key.get(teacher.name(p, temperature, k))) for p, k in plan]
    found = [Candidate(p, row["text"], row["finish"]) for p, row in answered if row is not None]
    return found, {
        "asked": len(plan),
        "answered": len(found),
        "failed": sum(row.get("met", "sent") != "sent" for row in rows),
        "prompt_tokens": sum(row.get("prompt_tokens") or 0 for row in rows),
        "completion_tokens": sum(row.get("completion_tokens") or 0 for row in rows),
        "cost": round(teacher.spent, 6),
        "capped": capped.is_set(),
    }
