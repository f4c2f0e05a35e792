"""What the server answers: the page and its files, and what the page asks for."""

from __future__ import annotations

from pathlib import PurePosixPath

from tornado.iostream import StreamClosedError

from minirlhf.play.guard import GuardedHandler, Refused, to_line
from minirlhf.play.workshop import Workshop

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}


class Static(GuardedHandler):
    """A file of the page, by its name alone."""

    async def get(self, token: str, name: str) -> None:
        files: dict[str, bytes] = self.settings["files"]
        if name not in files:
            raise Refused(404, "no such file")
        self.set_header("Content-Type", TYPES[PurePosixPath(name).suffix])
        self.write(files[name])


class Page(Static):
    async def get(self, token: str, name: str = "index.html") -> None:
        await super().get(token, name)


class WorkshopHandler(GuardedHandler):
    @property
    def workshop(self) -> Workshop:
        return self.settings["workshop"]


class RunPage(WorkshopHandler):
    async def get(self, token: str) -> None:
        self.send(await self.workshop.description())


class Curves(WorkshopHandler):
    async def get(self, token: str) -> None:
        self.send(await self.workshop.curves())


class Look(WorkshopHandler):
    """A given text, as a model sees it: {"prompt", "stage", "text"} -> {"look"}."""

    async def post(self, token: str) -> None:
        self.send({"look": await self.workshop.look(self.body())})


class Judge(WorkshopHandler):
    """What the judge says of a text: {"prompt", "text"} -> {"judge", "reasons"}."""

    async def post(self, token: str) -> None:
        self.send(await self.workshop.judge(self.body()))


class Rate(WorkshopHandler):
    """A rating: {"prompt", "texts", "writers", "key"} -> {"file", "answers"}."""

    async def post(self, token: str) -> None:
        self.send(await self.workshop.rate(self.body()))


class Write(WorkshopHandler):
    """Writes texts; the answer is a stream of events, one JSON object per line.

    Everything that can be wrong with the request is found before the first line.
    """

    async def post(self, token: str) -> None:
        texts = await self.workshop.asked_texts(self.body())
        self.set_header("Content-Type", "application/x-ndjson; charset=utf-8")
        try:
            async with self.workshop.turn(self.line):
                await self.workshop.write(texts, self.line)
        except ValueError as error:
            await self.line({"event": "error", "message": " ".join(str(error).split("\n"))})
        except StreamClosedError:
            pass  # the page stopped it

    async def line(self, event: dict) -> None:
        """Send one event at once. Raises StreamClosedError if nobody reads any more."""
        self.write(to_line(event))
        await self.flush()
