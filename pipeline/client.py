"""A model behind an OpenAI-compatible address: a teacher that writes solutions, or a served model that is scored.

The ``openai`` package sends requests and repeats those that fail on the way. Two hooks add what it lacks: a cap on the
number of requests, and that an answer which arrives whole with an error in it counts as lost.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from data.files import UserError
from pipeline.generate import OnProgress, OnSequence, TokenSequence, find_stop_ids
from pipeline.models.load import load_config, load_tokenizer
from pipeline.progress import printable
from pipeline.prompts import END_THINK, THINK

# Times that the package repeats a request that was refused for now, or lost, or whose answer cannot be read.
RETRIES = 5

# For scoring a served model: requests under way together, and seconds for an answer with the wait for its turn.
SERVED_CONCURRENCY = 256
SERVED_TIMEOUT = 600.0

# Without these a server samples by what stands in the model's generation_config.json.
FULL_DISTRIBUTION = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}

SHOWN_CHARACTERS = 120


class RequestLimit(Exception):
    """No request may be sent any more."""


@dataclass(frozen=True)
class ChatAnswer:
    """What a teacher wrote, with its thought between our tags."""

    text: str
    finish: str


class Client:
    """One model of one server; safe to use from several threads.

    Args:
        url: Up to /v1.
        model: Its name there; empty for the only one that is served.
        key: Sent with each request; empty where the server wants none.
        timeout: Seconds for an answer.
        max_requests: The most that are sent, repeated ones counted; None for any number.

    Raises:
        UserError: here and in every request, where the server refuses, cannot be reached, or answers with an error.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str,
        timeout: float,
        max_requests: int | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.max_requests = max_requests
        self.requests = 0
        self.lock = Lock()

        check_url(url)

        # They are called for each request, repeated ones too.
        hooks: dict[str, Any] = {"request": [self._count_request], "response": [_check_answer]}
        self.openai = openai.OpenAI(
            base_url=self.url,
            api_key=key or "none",
            max_retries=RETRIES,
            # Twice, since openai takes httpx's default of 5 s for none that was asked for.
            timeout=timeout,
            http_client=openai.DefaultHttpxClient(event_hooks=hooks, timeout=timeout),
        )
        self.model = model or self._find_only_model()

    def chat(self, messages: Sequence[Mapping[str, str]], **sampling: float) -> ChatAnswer:
        """Return the answer to a chat; ``sampling`` is max_tokens, temperature and seed.

        Raises:
            RequestLimit: ``max_requests`` have been sent.
        """
        return self._ask("/chat/completions", messages=messages, **sampling)

    def complete(self, prompt_ids: Sequence[int], stop_ids: set[int], **sampling: float) -> TokenSequence:
        """Return the completion of a prompt, both in token ids, as vLLM serves it; ``sampling`` as in :meth:`chat`.

        So nothing depends on a server's template, tokenizer or reading of a text. The log-probabilities are the
        server's (vLLM: before the temperature, unless it was started otherwise).
        """
        return self._ask(
            "/completions",
            prompt=prompt_ids,
            logprobs=0,
            return_token_ids=True,
            stop_token_ids=sorted(stop_ids),
            **sampling,
            **FULL_DISTRIBUTION,
        )

    def _find_only_model(self) -> str:
        listing = self._ask("/models")
        if len(listing) != 1:
            raise UserError(f"server {self.url}: it serves {len(listing)} models ({listing}); start it with one")
        return listing[0]

    def _count_request(self, request) -> None:
        """Count a request; an error here ends the call that it is of."""
        with self.lock:
            if self.max_requests is not None and self.requests >= self.max_requests:
                raise RequestLimit
            self.requests += 1

    def _ask(self, path: str, **body) -> Any:
        """What a server answers to a request with a body, or to one without."""
        try:
            # The raw answer: the package would make an object of any JSON, an error too.
            if body:
                reply = self.openai.post(path, body={"model": self.model, **body}, cast_to=httpx2.Response)
            else:
                reply = self.openai.get(path, cast_to=httpx2.Response)
        except openai.APIStatusError as error:
            said = _shorten(error.response.text)
            raise UserError(
                f"server {self.url}: it refuses (status {error.status_code}: {said}); check the address, the model's "
                "name and OPENAI_API_KEY"
            ) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            problem = f"no answer ({type(cause).__name__}, {RETRIES + 1} times)"
            if isinstance(cause, httpx2.DecodingError):
                problem = f"its answer cannot be read ({cause})"
            raise UserError(f"server {self.url}: {problem}; check the address (http://HOST:PORT/v1)") from None
        return READERS[path](reply.json())


def _check_answer(response) -> None:
    """Raise what the package takes for a request lost on the way where an answer cannot be read."""
    response.read()
    if not response.is_success:
        return

    # The first that fits: "/chat/completions" ends like "/completions".
    path = next(path for path in READERS if response.url.path.endswith(path))
    try:
        READERS[path](response.json())
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise httpx2.DecodingError(_shorten(response.text), request=response.request) from None


def _shorten(text: str) -> str:
    # A server may write what clears a screen.
    return printable(" ".join(text.split())[:SHOWN_CHARACTERS])


def _read_models(answer: Any) -> list[str]:
    return [model["id"] for model in answer["data"]]


def _get_choice(answer: Any) -> Any:
    """The one choice of an answer. Some servers send what they had before an error with status 200, and name it."""
    [choice] = answer["choices"]
    if answer.get("error") or choice.get("error") or choice.get("finish_reason") == "error":
        raise ValueError
    return choice


def _read_chat(answer: Any) -> ChatAnswer:
    choice = _get_choice(answer)
    message = choice["message"]

    # Where the limit stopped a thought that the server keeps apart, there is no content.
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    text = (message.get("content") if thought else message["content"]) or ""
    if not isinstance(text, str) or not isinstance(thought, str):
        raise TypeError

    if thought.strip():
        text = f"{THINK}\n{thought}\n{END_THINK}\n{text}"
    return ChatAnswer(text, "length" if choice.get("finish_reason") == "length" else "stop")


def _read_sequence(answer: Any) -> TokenSequence:
    choice = _get_choice(answer)
    ids = choice["token_ids"]
    logprobs = choice["logprobs"]["token_logprobs"]

    # Not every server that calls itself compatible gives one for each.
    if len(ids) != len(logprobs) or not all(isinstance(token, int) for token in ids):
        raise ValueError

    finish = "stop" if choice.get("finish_reason") == "stop" else "length"
    return TokenSequence(ids, [False] * len(ids), logprobs, finish)


READERS: dict[str, Callable[[Any], Any]] = {
    "/chat/completions": _read_chat,
    "/completions": _read_sequence,
    "/models": _read_models,
}


def check_url(url: str) -> None:
    """Raise UserError where a text is no address of a server."""
    try:
        parts = urlsplit(url)
        # Reading the port fails where it is no number.
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False

    # It would stand in messages and in scores.json.
    if is_address and parts.password:
        raise UserError("the server's address has a password; leave it out, and put the key into OPENAI_API_KEY")
    if not is_address or re.search(r"\s", url):
        raise UserError(f"server {url!r}: no address; write http://HOST:PORT/v1, such as http://localhost:8000/v1")


class ServedModel:
    """A model that vLLM serves, to be evaluated as if it were here.

    Args:
        url: Where it is served, as the only model.
        folder: Its base, for tokenizer and configuration.
    """

    def __init__(self, url: str, folder: Path) -> None:
        from transformers import GenerationConfig

        self.client = Client(url, "", os.environ.get("OPENAI_API_KEY", ""), SERVED_TIMEOUT)
        self.tokenizer = load_tokenizer(folder)
        self.config = load_config(folder)

        # It may name more tokens that end a turn than the tokenizer does.
        file = folder / "generation_config.json"
        self.generation_config = GenerationConfig.from_pretrained(folder) if file.is_file() else GenerationConfig()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        places: Sequence[int],
        prefixes: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        on_progress: OnProgress | None = None,
        on_sequence_end: OnSequence | None = None,
    ) -> list[TokenSequence]:
        """Complete every prompt; arguments and sequences are those of :func:`pipeline.generate.generate`."""
        stops = find_stop_ids(self, self.tokenizer)
        lock = Lock()

        def complete(i: int) -> TokenSequence:
            beginning = prefixes[i]
            sequence = self.client.complete(
                [*prompts[i], *beginning],
                stops,
                max_tokens=max_new_tokens - len(beginning),
                temperature=temperature,
                # The same prompt may be asked several times.
                seed=seed + places[i],
            )
            # What it begins with counts as part of the completion.
            sequence.ids[:0] = beginning
            sequence.forced[:0] = [True] * len(beginning)
            sequence.logprobs[:0] = [0.0] * len(beginning)
            # Both write to files and bars that know no threads.
            with lock:
                if on_sequence_end:
                    on_sequence_end(i, sequence)
                if on_progress:
                    on_progress(1, len(sequence.ids))
            return sequence

        # Where one fails, those that have not begun are cancelled.
        with ThreadPoolExecutor(SERVED_CONCURRENCY) as pool:
            return list(pool.map(complete, range(len(prompts))))
