"""A run of random weights and a server on it in a thread, for the tests of the page."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from conftest import TINY

from minirlhf.config import ModelConfig
from minirlhf.models import build
from minirlhf.play import server
from minirlhf.play.workshop import Workshop
from minirlhf.runs import products, run_models
from minirlhf.runs.folder import Run
from minirlhf.tasks.openings import judge as rubric
from minirlhf.tasks.task import Task
from minirlhf.tokenizer import Tokenizer, train_bpe

TOPIC = "The benefits of exercise"
TURNS = [{"role": "user", "text": "Why?"}]
# Words that nothing may come of: they are shown as they are.
NASTY = "<script>alert(1)</script>\u202eبالعربية 中文 🌊<b>"


def light_task(name: str) -> Task:
    """Prompts and a judge, without the seconds that a real task takes to load."""
    prompts = [TOPIC]
    return Task(
        name=name,
        train_prompts=prompts,
        heldout_prompts=prompts,
        judge=rubric.judge,
        judge_name="rubric",
        explain=rubric.explain,
    )


def light_run(folder: Path, task: str = "openings") -> Run:
    """A run with two policies and a reward model, all random, and a log of eight updates."""
    config = dataclasses.replace(
        TINY,
        task=task,
        model=ModelConfig(vocab_size=300, context=96, width=16, layers=1, heads=2),
        finetune=dataclasses.replace(TINY.finetune, max_new_tokens=24),
    )
    run = Run.create(folder, config)
    tokenizer = Tokenizer(train_bpe([TOPIC] * 9, 262))
    tokenizer.save(run.path / "tokenizer.json")
    for seed, stage in enumerate(("pretrain", "finetune")):
        torch.manual_seed(seed)
        policy = build.new_policy(config.model, tokenizer.vocab_size)
        run.save_model(products.RESULT[stage], policy)
    torch.manual_seed(2)
    reward = run_models.empty_reward_model(run, tokenizer)
    with torch.no_grad():
        for parameter in reward.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    run.save_model(products.RESULT["reward"], reward)
    prompt = {"topic": "Why?", "turns": TURNS} if task == "assistant" else {"topic": TOPIC}
    for step in range(1, 9):
        row = {"stage": "finetune", "step": step, "reward": step / 10, "judge": 0.9 - step / 10}
        run.append("metrics.jsonl", [row | {"kl_nats": step / 2, "length_tokens": 20 + step}])
    for step in (1, 5):
        row = {"stage": "finetune", "step": step, "when": f"step {step}", "split": "train"}
        row |= prompt | {"text": f"Sample {step} {NASTY}", "reward": 0.5, "judge": 0.25}
        run.append("samples.jsonl", [row])
    return run


class Served:
    """A server in a thread. `send` is one request, its headers under the test's control."""

    def __init__(self, workshop: Workshop):
        self.workshop = workshop
        self.loop = asyncio.new_event_loop()
        self.socket = server.listening(None)
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        _, self.address = self.in_loop(self._start())
        self.host, _, path = self.address.removeprefix("http://").partition("/")
        self.path = "/" + path

    async def _start(self):
        return server.start(self.workshop, self.socket)

    def in_loop(self, work):
        """The result of a coroutine that runs in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def send(self, path: str, body=None, **headers: str) -> http.client.HTTPResponse:
        """POST if there is a body (sent as JSON unless it is bytes), else GET."""
        connection = http.client.HTTPConnection(self.host, timeout=20)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is None:
            connection.request("GET", path, headers=headers)
        else:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers = {"Content-Type": "application/json"} | headers
            connection.request("POST", path, data, headers)
        return connection.getresponse()

    def api(self, name: str, body=None, **headers: str) -> tuple[int, dict]:
        response = self.send(f"{self.path}api/{name}", body, **headers)
        return response.status, json.loads(response.read())

    def written(self, body: dict) -> list[dict]:
        """All events of a text."""
        response = self.send(f"{self.path}api/write", body)
        return [json.loads(line) for line in response.read().splitlines()]

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.socket.close()


@contextlib.contextmanager
def serving(run: Run) -> Iterator[Served]:
    served = Served(Workshop(run.path.parent, run.path.name, "cpu", "me"))
    try:
        yield served
    finally:
        served.close()
