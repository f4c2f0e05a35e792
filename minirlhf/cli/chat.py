"""minirlhf chat: talk with the models of a run, over several turns, in the terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from minirlhf.cli.ending import Terminated
from minirlhf.cli.options import Chat as Options
from minirlhf.system.files import shown
from minirlhf.system.terminal import visible, visible_line

if TYPE_CHECKING:
    from minirlhf.runs.chat import Chat

COMMANDS = {
    "/compare": "the answers of all models of this run to your last question",
    "/score": "the reward model's score, from 0 to 1, of each answer to your last question",
    "/new": "start over: forget all turns",
    "/temperature X": "0: always the likeliest token; 1: as the model was trained",
    "/seed N": "other random numbers",
    "/help": "this list",
    "/quit": "leave (also Ctrl-D); Ctrl-C stops an answer",
}
LARGEST_SEED = 2**63 - 1


def chat(arguments: Options) -> None:
    from minirlhf.models.next_token import SamplingOptions
    from minirlhf.runs.chat import open_chat
    from minirlhf.runs.folder import Run, run_path

    run = Run.open(run_path(arguments.runs, arguments.run), arguments.device)
    options = SamplingOptions(arguments.temperature, arguments.top_k, arguments.top_p)
    soft_prompt = None
    if arguments.soft_prompt is not None:
        soft_prompt = run_path(arguments.runs, arguments.soft_prompt)
    talk = open_chat(
        run, arguments.model, options, arguments.max_new_tokens, arguments.seed, soft_prompt
    )
    interactive = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):  # Windows has none
            import readline  # noqa: F401 (from now on the arrow keys edit a line)

        print(f"{visible_line(str(run.path))}: {talk.name} answers. /help lists the commands.")
        if not talk.with_history:
            print("This run knows topics, not conversations: each line is a topic of its own.")
    converse(talk, read_line, interactive)


def read_line(prompt: str) -> str:
    """A line that the user types. Raises EOFError at the end, also if there is no input at all."""
    if sys.stdin is None or sys.stdin.closed:
        raise EOFError
    return input(prompt)


def converse(chat: Chat, read: Callable[[str], str], interactive: bool) -> None:
    """Answer line by line until /quit or the end of the input.

    Ctrl-C stops an answer or a command; before a question it leaves, as it does everywhere.
    Without `interactive` (a pipe) nothing but the answers is printed.
    """
    while True:
        try:
            line = read("you> " if interactive else "")
        except EOFError:
            if interactive:
                print()
            return
        line = line.removeprefix("\ufeff")  # which PowerShell puts before what it pipes
        if line.strip() == "/quit":
            return
        try:
            if line.startswith("/"):
                obey(chat, line)
            elif line.strip():
                for note in chat.ask(line.strip()):
                    print(f"note: {note}", file=sys.stderr)
                show(chat.answer(), f"{chat.name}> " if interactive else "")
        except KeyboardInterrupt as stop:
            if isinstance(stop, Terminated):
                raise
            print(" (stopped)", flush=True)
        except ValueError as error:
            print(f"error: {visible(str(error))}", file=sys.stderr)


def show(pieces: Generator[str, None, None], label: str) -> None:
    """Print an answer as it is written; whatever interrupts that also ends the writing."""
    print(label, end="", flush=True)
    with contextlib.closing(pieces):
        for piece in pieces:
            print(visible(piece), end="", flush=True)
    print()


def obey(chat: Chat, line: str) -> None:
    """Carry out a command. Raises ValueError if there is no such command, or it cannot be done."""
    command, _, value = line.strip().partition(" ")
    if command == "/compare":
        chat.asked(command)
        for name in chat.writers:
            show(chat.answer(name), f"{name}> ")
    elif command == "/score":
        scores = chat.scores()
        for name, score in scores.items():
            cut = "" if chat.answers[name].ended else "  (cut off)"
            print(f"{score:.3f}  {name}{cut}")
    elif command == "/new":
        chat.start_over()
    elif command == "/temperature":
        chat.options = dataclasses.replace(chat.options, temperature=temperature_of(value))
    elif command == "/seed":
        chat.use_seed(seed_of(value))
    elif command == "/help":
        for name, words in COMMANDS.items():
            print(f"{name:15s} {words}")
    else:
        raise ValueError(
            f"{visible_line(command)}: no such command; /help lists them (a question may begin "
            "with a space)"
        )


def temperature_of(words: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (temperature := float(words)) < math.inf:
            return temperature
    raise ValueError(f"/temperature: expected a number of at least 0, found {shown(words)}")


def seed_of(words: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= (seed := int(words)) <= LARGEST_SEED:
            return seed
    raise ValueError(f"/seed: expected a whole number from 0 to 2^63 - 1, found {shown(words)}")
