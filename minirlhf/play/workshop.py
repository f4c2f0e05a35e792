"""The models of a run at work for the page: loading, writing, looking, judging, rating.

All models belong to one thread, which does one small job after another: between two tokens of a
text that is being written it may look at another text. The judge has a thread of its own, since
loading its task takes seconds. torch is imported in these threads, so the page is there at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from minirlhf.look_inside import looks
from minirlhf.play import asked
from minirlhf.play.curves import curves, saved_prompts
from minirlhf.play.guard import Refused
from minirlhf.play.ratings import EDITED, SAVED, Ratings
from minirlhf.play.worker import Worker
from minirlhf.reports.run_files import read_run

if TYPE_CHECKING:
    from minirlhf.feedback.conversation import Prompt
    from minirlhf.look_inside.tokens import LookModels
    from minirlhf.look_inside.write import Chosen, Written
    from minirlhf.runs.folder import Run
    from minirlhf.system.devices import DeviceName

Tell = Callable[[dict], Awaitable[None]]  # sends one event to the page
TITLES = {"base": "pretrained", "sft": "after SFT", "tuned": "after fine-tuning"}
MOST_PROMPTS = 200
MOST_WAITING = 8  # requests that wait for their turn to write


@dataclasses.dataclass
class Texts:
    """Texts that were asked for, one iterator per stage; nothing is drawn before it is read."""

    asked: asked.Writing
    kept: list[tuple[int, str]]  # the tokens with which each text begins, and their words
    writers: dict[str, Iterator[Written | Chosen]]


class Workshop:
    """The run called `name` in the folder `runs`. `rater` is stored with each rating."""

    def __init__(self, runs: Path, name: str, device: DeviceName, rater: str):
        self.runs, self.name, self.device = runs, name, device
        self.path = runs / name
        self.ratings = Ratings(self.path, rater)
        self.models_thread, self.judge_thread = Worker("models"), Worker("judge")
        self.loading: asyncio.Future | None = None
        self.writing = asyncio.Lock()
        self.waiting = 0  # requests that write or wait to write

    # Loading --------------------------------------------------------------------------------------

    async def loaded(self) -> tuple[Run, LookModels]:
        """The run and its models, loaded once. Raises ValueError if there are none."""
        if self.loading is None:
            self.loading = asyncio.ensure_future(self.models_thread.do(self._load))
        return await asyncio.shield(self.loading)

    def _load(self) -> tuple[Run, LookModels]:
        from minirlhf.runs.folder import Run, run_path
        from minirlhf.runs.look_inside import open_models

        run = Run.open(run_path(self.runs, self.name), self.device)
        return run, open_models(run)

    async def description(self) -> dict:
        """What the page shows of the run before anything is written."""
        run, models = await self.loaded()
        return await self.models_thread.do(self._description, run, models)

    def _description(self, run: Run, models: LookModels) -> dict:
        from minirlhf.runs.topics import has_conversations, known_topics

        prompts = saved_prompts(self.path, MOST_PROMPTS)
        saved = {one["words"] for one in prompts}
        for topic in known_topics(run)[:MOST_PROMPTS]:
            if topic not in saved:
                prompts.append({"words": topic, "prompt": topic, "split": ""})
        notes = read_run(self.path)[3].get("notes") or []
        return {
            "name": self.name,
            "words": "; ".join([f"task {run.config.task}", *map(str, notes)]),
            "stages": [{"name": name, "title": TITLES[name]} for name in models.writers],
            "end_token": models.tokenizer.end_id,
            "has_reward": models.reward_model is not None,
            "chat": has_conversations(run),
            "prompts": prompts,
        }

    async def curves(self) -> dict:
        """See curves.py."""
        await self.loaded()
        return curves(self.path)

    # Writing --------------------------------------------------------------------------------------

    async def asked_texts(self, body: dict) -> Texts:
        """The texts that are asked for. Raises ValueError if anything is wrong with that."""
        _, models = await self.loaded()
        wanted = asked.writing(body, tuple(models.writers))
        return await self.models_thread.do(_begun, models, wanted)

    @contextlib.asynccontextmanager
    async def turn(self, tell: Tell) -> AsyncIterator[None]:
        """Wait until nobody else writes; who waits is told so. Raises Refused if too many do."""
        if self.waiting > MOST_WAITING:
            raise Refused(429, f"write: {MOST_WAITING} requests are waiting already; try again")
        ahead = self.waiting
        self.waiting += 1
        try:
            if ahead:
                await tell({"event": "waiting", "ahead": ahead})
            async with self.writing:
                yield
        finally:
            self.waiting -= 1

    async def write(self, texts: Texts, tell: Tell) -> None:
        """Write all texts side by side, a token of each in turn.

        Events: begin (stage, number, of), token (stage, token), end (stage, look, scores).
        """
        from minirlhf.look_inside.write import Chosen

        number = dict.fromkeys(texts.writers, -1)  # of the text that each stage is writing
        open_stages = list(texts.writers)
        try:
            while open_stages:
                for stage in list(open_stages):
                    event = await self.models_thread.do(next, texts.writers[stage])
                    chosen = isinstance(event, Chosen)
                    if not chosen and event.number != number[stage]:
                        number[stage] = event.number
                        await self._begin(texts, stage, event.number, tell)
                    if chosen:
                        open_stages.remove(stage)
                        seen = await self._look(texts.asked.prompt, event.tokens, stage)
                        scores = {"scores": event.scores, "number": event.number}
                        await tell({"event": "end", "stage": stage, "look": seen, **scores})
                    else:
                        token = {"text": event.text, "token": event.token}
                        await tell({"event": "token", "stage": stage, "token": token})
        finally:
            for writer in texts.writers.values():
                await self.models_thread.do(writer.close)  # type: ignore[attr-defined]

    async def _begin(self, texts: Texts, stage: str, number: int, tell: Tell) -> None:
        """Tell that a text begins, and with what."""
        of = texts.asked.best_of
        await tell({"event": "begin", "stage": stage, "number": number + 1, "of": of})
        for token, words in texts.kept:
            kept = {"text": words, "token": token}
            await tell({"event": "token", "stage": stage, "token": kept})

    # Looking, judging, rating ---------------------------------------------------------------------

    async def look(self, body: dict) -> dict:
        """A text (or its tokens, as they were drawn), seen by the models; without the judge."""
        _, models = await self.loaded()
        prompt = asked.prompt(body)
        stage = asked.choice(body, "stage", tuple(models.writers))
        text = asked.tokens(body, "tokens") if "tokens" in body else asked.text(body)
        return await self._look(prompt, text, stage)

    async def _look(self, prompt: Prompt, text: str | list[int], stage: str) -> dict:
        _, models = await self.loaded()
        return await self.models_thread.do(_seen, models, prompt, text, stage)

    async def judge(self, body: dict) -> dict:
        """The judge's score of a text, and why: {"judge", "reasons"}."""
        _, models = await self.loaded()
        prompt, text = asked.prompt(body), asked.text(body)
        score, reasons = await self.judge_thread.do(_judged, models, prompt, text)
        return {"judge": score, "reasons": reasons}

    async def rate(self, body: dict) -> dict:
        """Write a rating of one text or of two: {"file", "answers"}."""
        _, models = await self.loaded()
        names = rated_names(tuple(models.writers))
        texts = asked.listed(body, "texts", 1, 2)
        writers = asked.listed(body, "writers", len(texts), len(texts))
        named = [names[asked.choice({"writers": one}, "writers", tuple(names))] for one in writers]
        said = [asked.text({"texts": one}, "texts") for one in texts]
        key = asked.choice(body, "key", tuple("012345"))
        return self.ratings.add(asked.prompt(body), said, named, key)


def rated_names(stages: tuple[str, ...]) -> dict[str, str]:
    """What `rate` calls the models: before and after fine-tuning (and base, if SFT is before)."""
    names = {"base": "base" if "sft" in stages else "before", "sft": "before", "tuned": "after"}
    return {stage: names[stage] for stage in stages} | {EDITED: EDITED, SAVED: SAVED}


def _begun(models: LookModels, wanted: asked.Writing) -> Texts:
    from minirlhf.look_inside.tokens import piece
    from minirlhf.look_inside.write import WritingOptions, write
    from minirlhf.models.next_token import SamplingOptions

    sampling = SamplingOptions(wanted.temperature, top_p=wanted.top_p)
    options = WritingOptions(sampling, wanted.seed, wanted.best_of)
    writers = {}
    for stage in wanted.stages:
        writers[stage] = write(models, wanted.prompt, stage, options, wanted.start)
    kept = [(token, piece(models.tokenizer, token)) for token in wanted.start]
    return Texts(wanted, kept, writers)


def _seen(models: LookModels, prompt: Prompt, text: str | list[int], stage: str) -> dict:
    from minirlhf.look_inside.tokens import look

    return looks.to_json(look(dataclasses.replace(models, judge=None), prompt, text, stage))


def _judged(models: LookModels, prompt: Prompt, text: str) -> tuple[float | None, tuple[str, ...]]:
    from minirlhf.look_inside.tokens import judged

    return judged(models.judge, prompt, text)
