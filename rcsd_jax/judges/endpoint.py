"""A judge behind any OpenAI-compatible endpoint: a commercial one, or vLLM, SGLang or llama.cpp on a machine nearby.

The client of openai keeps the connections and tries again after 408, 409, 429, 5xx, timeouts and lost connections, with
exponential backoff and jitter or when the server says so. Here are the deadline around all of it, the strict reading of
replies, and the file that keeps what was paid for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import importlib
import json
import os
from collections.abc import Sequence
from typing import Any

from rcsd_jax.journal import Journal
from rcsd_jax.judges.cases import Case, Judgement, VerdictError


@dataclasses.dataclass(frozen=True)
class EndpointConfig:
    """Where the judge is and how it is asked; its key, if it wants one, is the environment's OPENAI_API_KEY.

    ``url`` ends in /v1, ``model`` is the name that the server knows. ``temperature`` None leaves it to the server.
    ``max_tokens`` is the room for a reply, thinking included. ``concurrency`` judgements are under way at a time. One
    request may take ``timeout`` seconds and is sent again up to ``retries`` times; a judgement must be there within
    ``deadline`` seconds, all told. ``cache`` is a local file that keeps the replies, by (model, prompt, settings);
    several runs may share it, and a run that resumes needs it to get the same rewards again.

    Raises:
      ValueError: a value out of range, or a cache in a bucket.
    """

    url: str = ""
    model: str = ""
    temperature: float | None = 0.0
    max_tokens: int = 1024
    concurrency: int = 32
    retries: int = 5
    timeout: float = 60.0
    deadline: float = 300.0
    cache: str = "runs/judgements.jsonl"

    def __post_init__(self) -> None:
        least = {"max_tokens": 1, "concurrency": 1, "retries": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least {bound}")
        if not 0 < self.timeout <= self.deadline:
            raise ValueError(f"timeout is {self.timeout} s, deadline {self.deadline} s: give 0 < timeout <= deadline")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}: give 0 (greedy) or more")
        if not self.cache or "://" in self.cache:
            raise ValueError(f"cache is {self.cache!r}: name a local file, a bucket cannot be appended to")


class Endpoint:
    """Judges cases at an endpoint; ``attempts`` is how many replies that are no verdict it takes before giving up.

    Raises:
      ValueError: the openai package is missing, or the cache holds a line that is no judgement.
    """

    def __init__(self, config: EndpointConfig, attempts: int):
        try:
            self._openai: Any = importlib.import_module("openai")  # optional, hence not in requirements.txt
        except ImportError as error:
            raise ValueError("a judge at an endpoint is asked with the openai package: pip install openai") from error
        self._config, self._attempts = config, attempts
        self._replies = Replies(config.cache)

    def __call__(self, cases: Sequence[Case]) -> list[Judgement]:
        """One judgement a case; one that fails costs the others nothing."""
        return asyncio.run(self._judge_all(cases))

    async def _judge_all(self, cases: Sequence[Case]) -> list[Judgement]:
        config, room = self._config, asyncio.Semaphore(self._config.concurrency)
        client = self._openai.AsyncOpenAI(
            base_url=config.url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            max_retries=config.retries,
            timeout=config.timeout,
        )

        async def judge(case: Case) -> Judgement:
            async with room:
                try:
                    async with asyncio.timeout(config.deadline):
                        return await self._judge(client, case)
                except TimeoutError:
                    return Judgement(float("nan"), "deadline")

        async with client:
            return await asyncio.gather(*map(judge, cases))

    async def _judge(self, client: Any, case: Case) -> Judgement:
        failure = ""
        for attempt in range(self._attempts):
            request = self._request(case, attempt)
            key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
            try:
                kept = self._replies.get(key)
                reply = await self._reply(client, request) if kept is None else kept
                judgement = Judgement(case.read(reply))
            except VerdictError as error:
                failure = str(error)
            except self._openai.APIStatusError as error:
                return Judgement(float("nan"), f"HTTP {error.status_code}")
            except self._openai.OpenAIError as error:
                return Judgement(float("nan"), type(error).__name__)
            else:
                if kept is None:
                    self._replies.add(key, self._config.model, reply)
                return judgement
        return Judgement(float("nan"), failure)

    def _request(self, case: Case, attempt: int) -> dict[str, Any]:
        """What is sent, and what the reply is kept under."""
        messages = [{"role": message.role, "content": message.content} for message in case.messages(attempt)]
        request = {"model": self._config.model, "messages": messages, "max_completion_tokens": self._config.max_tokens}
        return request if self._config.temperature is None else {**request, "temperature": self._config.temperature}

    async def _reply(self, client: Any, request: dict[str, Any]) -> str:
        try:
            answer = await client.chat.completions.create(**request)
            text = answer.choices[0].message.content
        except (ValueError, TypeError, AttributeError, LookupError) as error:  # the client does not look at a body
            raise VerdictError("no chat completion") from error
        if not isinstance(text, str):
            raise VerdictError("no text")
        return text


class Replies:
    """The replies that were verdicts, in a file of JSON lines: key, model, reply.

    Raises:
      ValueError: a line that is none of them, named by file and number.
    """

    def __init__(self, path: str):
        self._journal = Journal(path)
        self._by_key: dict[str, str] = {}
        for number, line in enumerate(self._journal.read(), start=1):
            try:
                record = json.loads(line)
                self._by_key[record["key"]] = record["reply"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number} is no judgement: remove the line, or name another cache") from error

    def get(self, key: str) -> str | None:
        """The reply, if there is one."""
        return self._by_key.get(key)

    def add(self, key: str, model: str, reply: str) -> None:
        """Keeps a reply; when this returns it is on disk."""
        self._by_key[key] = reply
        record = {"key": key, "model": model, "reply": reply}
        with self._journal.locked() as append:
            self._journal.read()  # what other runs have added is theirs
            append([json.dumps(record).encode("ascii")])
