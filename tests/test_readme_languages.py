"""README.md and README.zh-CN.md say the same: the same commands, links, numbers and tables."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
HAN = re.compile(r"[\u4e00-\u9fff]")


def read(name: str) -> str:
    """The page without the line that leads to the other language."""
    other = CHINESE if name == ENGLISH else ENGLISH
    text = (ROOT / name).read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if f"]({other})" not in line)


def commands(text: str) -> list[str]:
    """The lines of all blocks, in order; of the map of the folders only their names."""
    lines = "\n".join(re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).splitlines()
    return [line.split("  ")[0] if "/" in line.split(" ")[0] else line for line in lines]


def spans(text: str) -> list[str]:
    """Everything in code font, in order."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", text)


def numbers(text: str) -> Counter[str]:
    """Of the prose and the tables, in any order: two languages order a sentence differently."""
    plain = re.sub(r"```.*?```|`[^`\n]+`|\]\([^)]+\)", " ", text, flags=re.DOTALL)
    return Counter(re.findall(r"\d*\.?\d+%?", plain))


def tables(text: str) -> list[int]:
    """The columns of every row of a table, in order."""
    return [line.count("|") for line in text.splitlines() if line.startswith("|")]


def headings(text: str) -> list[str]:
    return re.findall(r"^#+(?= )", text, re.MULTILINE)


@pytest.mark.parametrize(
    "part", [commands, spans, links, numbers, tables, headings], ids=lambda part: part.__name__
)
def test_both_readmes_hold_the_same(part):
    english, chinese = part(read(ENGLISH)), part(read(CHINESE))
    assert english, "nothing found to compare"
    if isinstance(english, list):
        english, chinese = Counter(english), Counter(chinese)
    assert english - chinese == Counter(), "only in README.md"
    assert chinese - english == Counter(), "only in README.zh-CN.md"


def test_the_chinese_page_is_chinese_and_leads_to_the_english_one():
    text = (ROOT / CHINESE).read_text(encoding="utf-8")
    assert f"]({ENGLISH})" in text.split("##")[0]
    english = HAN.findall(read(ENGLISH))
    assert len(HAN.findall(text)) > 10 * len(english)
    for line in text.splitlines():  # headings, and list items but for names of files
        if line.startswith(("## ", "- ")):
            assert HAN.search(line), line


@pytest.mark.parametrize(
    "part, changed",
    [
        (numbers, lambda text: text.replace("**.90**", "**.91**")),
        (links, lambda text: text.replace("(CONTRIBUTING.md)", "(contributing.md)")),
        (commands, lambda text: text.replace("make test\n", "make tests\n", 1)),
        (spans, lambda text: text.replace("`--resume`", "`--again`")),
        (tables, lambda text: text.replace("| 8 ", "8 ", 1)),
    ],
    ids=["number", "link", "command", "span", "table"],
)
def test_a_difference_would_be_noticed(part, changed):
    text = read(CHINESE)
    assert changed(text) != text
    assert part(changed(text)) != part(text)
