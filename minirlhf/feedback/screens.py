"""Two screens for a rating session: the terminal, one key per answer, and buttons in a notebook."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable

from minirlhf.feedback.session import FIRST, SECOND, TIE, Item, RatingSession
from minirlhf.system.terminal import visible, visible_line

SKIP, UNDO, QUIT = "s", "u", "q"
END_OF_INPUT = "\x04"  # Ctrl-D
SPEAKERS = {"user": "User", "assistant": "Assistant"}
LABELS = {FIRST: "first is better", SECOND: "second is better", TIE: "no difference"}


def read_key() -> str:
    """One key press, without Enter.

    From a pipe: the next character that is not white space. "q" at the end of the input, and where
    there is none (a closed standard input).
    """
    if sys.stdin is None or sys.stdin.closed:
        return QUIT
    if not sys.stdin.isatty():
        while (key := sys.stdin.read(1)).isspace():
            pass
        return key or QUIT
    if sys.platform == "win32":
        import msvcrt

        return msvcrt.getwch()
    import select
    import termios
    import tty

    file = sys.stdin.fileno()
    settings = termios.tcgetattr(file)
    try:
        # Keys arrive at once and those pressed already are kept; Ctrl-C still interrupts.
        tty.setcbreak(file, termios.TCSADRAIN)
        key = os.read(file, 1)
        # A special key is a sequence: Page Up is Escape, "[", "5", "~". None of these is an answer.
        if key == b"\x1b":
            while select.select([file], [], [], 0.02)[0]:
                os.read(file, 1)
        return key.decode("utf-8", "replace") or QUIT
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, settings)


def question(session: RatingSession, keys: str = f"{SKIP} skip, {UNDO} undo, {QUIT} quit") -> str:
    """The current item as text, wrapped to the terminal; `keys` names the other keys."""
    item = session.current
    assert item is not None  # who asks has looked
    width = max(20, shutil.get_terminal_size().columns - 6)
    place = f"\n[{session.done + 1} of {session.total}]"
    only = ""  # what stands before an only text

    def paragraph(mark: str, text: str) -> str:
        return textwrap.fill(
            visible(text), width, initial_indent=f"   {mark}", subsequent_indent="   "
        )

    if isinstance(item.topic, str):
        parts = [f"{place}  Topic: {visible_line(item.topic)}\n"]
    else:
        turns = [paragraph(f"{SPEAKERS[turn.role]}: ", turn.text) for turn in item.topic]
        parts = [f"{place}  Conversation:\n", *turns, ""]
        only = "Answer: "
    for number, text in enumerate(item.texts, start=1):
        parts.append(paragraph(f"{number}. " if len(item.texts) > 1 else only, text))
    if len(item.texts) == 1:
        ask = "Score 1 (poor) to 5 (excellent)"
    else:
        ask = ", ".join(f"{key}: {label}" for key, label in LABELS.items())
    return "\n".join([*parts, f"\n{ask}   [{keys}] "])


def rate_in_terminal(session: RatingSession, key: Callable[[], str] = read_key) -> None:
    """Ask until the rater quits (q, Ctrl-C, end of input); every answer is in the file by then."""
    shown_path = visible_line(str(session.file.path))
    if session.file.dropped:
        start = visible_line(session.file.dropped[:60])
        print(f"{shown_path}: removed an incomplete line left by an interruption: {start}")
    if session.before:
        print(f"{session.before} of {session.total} are answered already.")
    try:
        while True:
            if session.current:
                print(question(session), end="", flush=True)
            else:
                print(f"\nThat was the last one. [{UNDO} undo, {QUIT} quit] ", end="", flush=True)
            done = None
            while done is None:  # a key without a meaning is ignored
                pressed = key()
                if pressed in (QUIT, END_OF_INPUT):
                    print("quit")
                    return
                done = _act(session, pressed)
            print(done)
    except KeyboardInterrupt:
        print("quit")
    finally:
        print(f"\n{sum(session.answered)} answers given now -> {shown_path}")


def _act(session: RatingSession, key: str) -> str | None:
    """Do what the key stands for and say what was done; None if it stands for nothing here."""
    if key == UNDO:
        return "one back" if session.undo() else "nothing to undo"
    if session.current is None:
        return None
    if key == SKIP:
        session.skip()
        return "skipped"
    if key in session.keys():
        session.answer(key)
        return key
    return None


def rate_widget(session: RatingSession):
    """The same with buttons, for a notebook: show it as the last line of a cell.

    Needs ipywidgets (part of jupyter). Returns an ipywidgets.VBox: progress bar, topic, the turns
    (if there are conversations), texts, a row of buttons, a line for messages.
    """
    import ipywidgets as widgets

    full_width = widgets.Layout(width="100%")
    bar = widgets.IntProgress(min=0, max=max(1, session.total), layout=full_width)
    topic, message = widgets.Label(), widgets.Label()
    turns = widgets.Textarea(disabled=True, rows=6, layout=full_width)
    has_turns = any(not isinstance(item.topic, str) for item in session.queue)
    most_texts = max((len(item.texts) for item in session.queue), default=1)
    boxes = []
    for _ in range(most_texts):
        layout = widgets.Layout(width="100%")
        boxes.append(widgets.Textarea(disabled=True, rows=4, layout=layout))
    buttons = widgets.HBox()

    def press(key: str) -> None:
        try:
            done = _act(session, key)
            message.value = "saved" if done == key else done
        except ValueError as error:  # the disk is full, or another program wrote to the file
            message.value = str(error)
        show()

    def button(label: str, key: str):
        made = widgets.Button(description=label)
        made.on_click(lambda _: press(key))
        return made

    def show() -> None:
        item = session.current
        bar.value = session.done
        topic.value = _heading(session)
        turns.value = _turns(item)
        texts = item.texts if item else [""] * len(boxes)
        for box, text in zip(boxes, texts, strict=False):
            box.value = text
        row = []
        if item:
            row += [button(_label(item, key), key) for key in session.keys()]
            row.append(button("skip", SKIP))
        row.append(button("undo", UNDO))
        buttons.children = tuple(row)

    show()
    return widgets.VBox([bar, topic, *([turns] if has_turns else []), *boxes, buttons, message])


def _heading(session: RatingSession) -> str:
    if session.current is None:
        return "All done, thank you."
    topic = session.current.topic
    what = f"Topic: {topic}" if isinstance(topic, str) else "Conversation:"
    return f"[{session.done + 1} of {session.total}] {what}"


def _turns(item: Item | None) -> str:
    """The turns of a conversation, each on a line of its own; "" for a topic."""
    if item is None or isinstance(item.topic, str):
        return ""
    return "\n".join(f"{SPEAKERS[turn.role]}: {turn.text}" for turn in item.topic)


def _label(item: Item, key: str) -> str:
    """The words on an answer's button."""
    return LABELS[key] if len(item.texts) > 1 else key
