"""One thread that does jobs in order, for a server whose own thread must not wait."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Worker:
    """A thread that does the jobs it is given, one after the other.

    What one worker alone touches needs no lock. The thread is a daemon: a long job, such as loading
    a task, does not keep Ctrl-C from ending the program.
    """

    def __init__(self, name: str):
        self.jobs: queue.SimpleQueue[tuple[Future, Callable, tuple]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def do(self, job: Callable[..., Any], *arguments: object) -> Any:
        """The job's result, or what it raises."""
        done: Future = Future()
        self.jobs.put((done, job, arguments))
        return await asyncio.wrap_future(done)

    def _work(self) -> None:
        while True:
            done, job, arguments = self.jobs.get()
            if not done.set_running_or_notify_cancel():
                continue  # whoever asked has gone
            try:
                done.set_result(job(*arguments))
            except BaseException as error:  # the one who asked gets it
                done.set_exception(error)
