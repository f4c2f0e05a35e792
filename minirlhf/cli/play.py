"""minirlhf play: a local page on which one plays with a run."""

from __future__ import annotations

from minirlhf.cli.ending import Terminated
from minirlhf.cli.options import Play


def play(arguments: Play) -> None:
    try:
        from minirlhf.play.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tornado":
            raise
        raise ValueError(
            "play: expected the package tornado, found none; run: pip install tornado"
        ) from None
    from minirlhf.play.workshop import Workshop
    from minirlhf.runs.folder import no_run
    from minirlhf.runs.products import is_run

    if not is_run(arguments.runs / arguments.run):  # before a page opens
        raise no_run(arguments.runs / arguments.run)
    workshop = Workshop(arguments.runs, arguments.run, arguments.device, arguments.rater)
    try:
        serve(workshop, arguments.port, browser=arguments.browser, ready=announce)
    except KeyboardInterrupt as stop:
        if isinstance(stop, Terminated):
            raise
        print("\nClosed.")


def announce(address: str) -> None:
    print(f"{address}  (Ctrl-C closes it)", flush=True)
