"""A model behind an address, as vLLM serves one: asked in tokens, with the ids that our own decoding is given.

Prompts are tokenized here and answers come back as ids (`prompt` as ids and `return_token_ids` of vLLM's completions,
vllm/entrypoints/openai/completion/protocol.py), so that what is asked and what is graded does not hang on a server's
template, tokenizer or reading of a text.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx2
from transformers import AutoConfig, GenerationConfig

from data.records import BadInput
from pipeline import base
from pipeline.generate import Sample, stop_ids

AT_ONCE = 256  # requests; the server makes batches of them
TIMEOUT = 600  # seconds for one answer, the wait for its turn included
# Without these a server takes what the model's generation_config.json asks for.
PLAIN_SAMPLING = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


class Served:
    """The one model at ``url``, whose tokenizer and config are those of ``folder``. ``key`` is sent where there is one.

    Raises BadInput, also later, where the server cannot be reached, serves several models, or gives no ids."""

    def __init__(self, url: str, folder: Path, key: str = "") -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx2.Limits(max_connections=AT_ONCE)
        self.client = httpx2.Client(headers=headers, limits=limits, timeout=TIMEOUT)
        self.config = AutoConfig.from_pretrained(folder)
        file = folder / "generation_config.json"
        self.generation_config = GenerationConfig.from_pretrained(folder) if file.is_file() else GenerationConfig()
        self.tokenizer = base.load_tokenizer(folder)
        listed = self._call("GET", "models", None).get("data")
        models = listed if isinstance(listed, list) else []
        names = [model["id"] for model in models if isinstance(model, dict) and "id" in model]
        if len(names) != 1:
            raise BadInput(f"--server {url}: it serves {len(names)} models ({names}); start it with one")
        self.name = names[0]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        progress: Callable[[int, int], None],
        finished: Callable[[int, Sample], None],
    ) -> list[Sample]:
        """One completion of each prompt; arguments and samples are those of :func:`pipeline.generate.generate`, but
        log-probabilities are the server's (vLLM: before the temperature, unless it was started otherwise)."""
        body = {"model": self.name, "max_tokens": max_tokens, "temperature": temperature, "logprobs": 0}
        body |= {"return_token_ids": True, "stop_token_ids": sorted(stop_ids(self, self.tokenizer))} | PLAIN_SAMPLING
        samples = [Sample() for _ in prompts]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            asked = {
                pool.submit(self._call, "POST", "completions", body | {"prompt": list(ids), "seed": seed + i}): i
                for i, ids in enumerate(prompts)
            }
            try:
                for answer in as_completed(asked):
                    i = asked[answer]
                    samples[i] = self._sample(answer.result())
                    finished(i, samples[i])
                    progress(1, len(samples[i].ids))
            finally:
                pool.shutdown(cancel_futures=True)
        return samples

    def _sample(self, answer: dict[str, Any]) -> Sample:
        try:
            [choice] = answer["choices"]
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            if len(ids) != len(logprobs) or not all(isinstance(i, int) for i in ids):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise BadInput(f"--server {self.url}: its answer has no token_ids and logprobs; serve with vLLM") from None
        finish = "stop" if choice.get("finish_reason") == "stop" else "length"
        return Sample(ids, [False] * len(ids), logprobs, finish)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            reply = self.client.request(method, f"{self.url}/{path}", json=body)
            value = reply.json() if reply.status_code == 200 else None
        except (httpx2.InvalidURL, httpx2.TransportError, httpx2.DecodingError, ValueError) as error:
            raise BadInput(
                f"--server {self.url}: no answer to {path} ({type(error).__name__}); check the address (http://…/v1)"
            ) from None
        if not isinstance(value, dict):
            said = " ".join(reply.text.split())[:120]
            raise BadInput(f"--server {self.url}: {path} is refused (status {reply.status_code}: {said})")
        return value
