"""What is sent to a terminal: foreign text in a harmless form, command lines that can be pasted.

A text may come from a model, a feedback file or the name of a folder. It must neither steer the
terminal nor fail because the terminal's encoding lacks a character.
"""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
import unicodedata

# Invisible, but harmless and part of ordinary writing: the joiners of Persian words and of emoji.
JOINERS = "\u200c\u200d"
# Control, format (such as a change of direction), half of a surrogate pair, line and paragraph end.
STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")


def accept_any_text() -> None:
    """From now on a character that the terminal's encoding lacks is printed as an escape.

    Bytes on standard input that are not in its encoding are read as U+FFFD.
    """
    for stream, errors in (
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
        (sys.stdin, "replace"),
    ):
        if isinstance(stream, io.TextIOWrapper):  # not None, nor a notebook's own stream
            stream.reconfigure(errors=errors)


def visible(text: str) -> str:
    r"""The text with each control character as an escape, such as \x1b; new lines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible_character(character) for character in text)


def visible_line(text: str) -> str:
    """As `visible`, on one line: new lines and tabs are escapes, too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _visible_character(character: str) -> str:
    if character in "\n\t" or character in JOINERS:
        return character
    if unicodedata.category(character) not in STEERING:
        return character
    return character.encode("unicode_escape").decode()


def quoted(*words: str) -> str:
    """The words as a command line that this system's usual shell reads as just these words."""
    if os.name == "nt":
        return subprocess.list2cmdline(words)
    return " ".join(_quoted_word(word) for word in words)


def _quoted_word(word: str) -> str:
    if visible_line(word) == word:
        return shlex.quote(word)
    # The form $'...' of bash and zsh holds any byte, in visible characters.
    parts = []
    for byte in os.fsencode(word):
        plain = 32 <= byte < 127 and byte not in b"'\\"
        parts.append(chr(byte) if plain else f"\\x{byte:02x}")
    return "$'" + "".join(parts) + "'"
