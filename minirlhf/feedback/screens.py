"""Two screens for a rating session (rate.py): the terminal, one key an answer, and buttons in a notebook."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable

from minirlhf.feedback.session import FIRST, SECOND, TIE, RatingSession

SKIP, UNDO, QUIT = "s", "u", "q"
LABELS = {FIRST: "first is better", SECOND: "second is better", TIE: "no difference"}


def read_key() -> str:
    """One key press, without Enter. From a pipe: the next character that is no white space, and "q" at its end."""
    if not sys.stdin.isatty():
        while (key := sys.stdin.read(1)).isspace():
            pass
        return key or QUIT
    if os.name == "nt":
        import msvcrt

        return msvcrt.getwch()
    import select
    import termios
    import tty

    file = sys.stdin.fileno()
    settings = termios.tcgetattr(file)
    try:
        tty.setcbreak(
            file, termios.TCSADRAIN
        )  # keys come at once, none is lost; Ctrl-C still interrupts
        key = os.read(file, 1)
        if key == b"\x1b":  # Page Up is Escape, "[", "5", "~": none of these is an answer
            while select.select([file], [], [], 0.02)[0]:
                os.read(file, 1)
        return key.decode("utf-8", "replace") or QUIT
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, settings)


def printable(text: str) -> str:
    """A model may write anything; nothing of it may steer the terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else "?" for character in text
    )


def question(session: RatingSession, keys: str = f"{SKIP} skip, {UNDO} undo, {QUIT} quit") -> str:
    """The current item in words, wrapped to the terminal; `keys` says what else can be pressed."""
    item, width = session.current, max(20, shutil.get_terminal_size().columns - 6)
    parts = [f"\n[{session.done + 1} of {session.total}]  Topic: {printable(item.topic)}\n"]
    for number, text in enumerate(item.texts, start=1):
        mark = f"{number}. " if len(item.texts) > 1 else ""
        parts.append(
            textwrap.fill(
                printable(text), width, initial_indent=f"   {mark}", subsequent_indent="   "
            )
        )
    if len(item.texts) == 1:
        ask = "Score 1 (poor) to 5 (excellent)"
    else:
        ask = ", ".join(f"{key}: {words}" for key, words in LABELS.items())
    return "\n".join([*parts, f"\n{ask}   [{keys}] "])


def rate_in_terminal(session: RatingSession, key: Callable[[], str] = read_key) -> None:
    """Ask until the rater quits (q, Ctrl-C, end of input). Every answer is in the file by then."""
    if session.file.dropped:
        print(
            f"{session.file.path}: cut off half a line that an interruption had left: {printable(session.file.dropped[:60])}"
        )
    if session.before:
        print(f"{session.before} of {session.total} are answered already.")
    try:
        while True:
            if session.current:
                print(question(session), end="", flush=True)
            else:
                print(f"\nThat was the last one. [{UNDO} undo, {QUIT} quit] ", end="", flush=True)
            while True:
                pressed = key()
                if pressed in (QUIT, "\x04"):
                    print("quit")
                    return
                elif pressed == UNDO:
                    print("one back" if session.undo() else "nothing to undo")
                elif session.current and pressed == SKIP:
                    session.skip()
                    print("skipped")
                elif session.current and pressed in session.keys():
                    session.answer(pressed)
                    print(pressed)
                else:
                    continue
                break
    except KeyboardInterrupt:
        print("quit")
    finally:
        print(f"\n{sum(session.answered)} answers given now -> {session.file.path}")


def rate_widget(session: RatingSession):
    """The same with buttons, for a notebook: show it as the last line of a cell. Needs ipywidgets (it comes with jupyter).

    Returns an ipywidgets.VBox: progress bar, topic, texts, a row of buttons, a line for messages.
    """
    import ipywidgets as widgets

    bar = widgets.IntProgress(min=0, max=max(1, session.total), layout=widgets.Layout(width="100%"))
    topic, message = widgets.Label(), widgets.Label()
    texts = [
        widgets.Textarea(disabled=True, rows=4, layout=widgets.Layout(width="100%"))
        for _ in range(max((len(item.texts) for item in session.queue), default=1))
    ]
    buttons = widgets.HBox()

    def press(act: Callable[[], object], said: str) -> None:
        try:
            found = act()
            message.value = "nothing to undo" if found is False else said
        except ValueError as error:  # the disk is full, another program wrote the file
            message.value = str(error)
        show()

    def button(words: str, act: Callable[[], object], said: str):
        made = widgets.Button(description=words)
        made.on_click(lambda _: press(act, said))
        return made

    def show() -> None:
        item = session.current
        bar.value = session.done
        keys = session.keys() if item else ()
        topic.value = (
            f"[{session.done + 1} of {session.total}] Topic: {item.topic}"
            if item
            else "All done, thank you."
        )
        for box, text in zip(texts, item.texts if item else [""] * len(texts)):
            box.value = text
        buttons.children = tuple(
            [
                button(
                    LABELS[key] if len(item.texts) > 1 else key,
                    lambda key=key: session.answer(key),
                    "saved",
                )
                for key in keys
            ]
            + ([button("skip", session.skip, "skipped")] if item else [])
            + [button("undo", session.undo, "one back")]
        )

    show()
    return widgets.VBox([bar, topic, *texts, buttons, message])
