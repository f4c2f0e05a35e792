"""The token view: whole, escaped, readable in both colour schemes; also in the report."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from test_report import Page

from minirlhf.look_inside import html
from minirlhf.look_inside.looks import Alternative, TextLook, TokenLook, to_json
from minirlhf.reports.run_report import write_report
from minirlhf.runs.look_inside import Shown

HOSTILE = "<script>alert(1)</script>\"'&\u202e\u2066\x00\x1b[2J\ud800 \U0001f600"
TOKEN = TokenLook(HOSTILE, 84, 0.75, -0.5, -1.25, 0.125, 2.5, (Alternative(HOSTILE, 7, 0.25),))


def text(*tokens: TokenLook, **changed) -> TextLook:
    given = {
        "prompt": HOSTILE,
        "text": HOSTILE,
        "stage": "tuned",
        "tokens": tokens or (TOKEN,),
        "score": 0.75,
        "initial_score": 0.5,
        "judge": 0.25,
        "reasons": (HOSTILE,),
        "kl": 0.125,
        "ended": True,
    }
    return TextLook(**given | changed)


def test_everything_foreign_is_escaped_and_visible():
    page = Shown([text()])._repr_html_()
    parsed = Page(page)
    assert parsed.open == [] and not {tag for tag, _ in parsed.tags} & {"script", "img", "link"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;" in page
    for character in "\u202e\u2066\x00\x1b\ud800":
        assert character not in page
    for escaped in ("\\u202e", "\\u2066", "\\x00", "\\x1b[2J", "\\ud800", "\U0001f600"):
        assert page.count(escaped) >= 4  # prompt, reason, token, alternative
    assert "://" not in page and "url(" not in page
    page.encode("utf-8")


def test_the_numbers_of_a_token_stand_in_its_card():
    view = html.view(text(), "a")
    card = re.search(r'class="card">(.*)</span></span></p>', view)[1]
    values = re.findall(r"</small> ([^<]+)</span>", card)
    assert values == ["84", "0.750", "−0.500", "−1.250", "0.125", "2.500"]
    assert "25.0%" in card and 'tabindex="0"' in view
    # prefix score half way up, advantage the largest of the text, a log-probability a fifth down
    assert 'class="t prefix_score2 advantage-4 log_probability-1 log_ratio4 entropy2"' in view
    assert "KL 0.12 nats" in view and "cut off" not in view
    assert "cut off" in html.view(text(ended=False), "a")


def test_what_is_not_known_cannot_be_chosen():
    bare = dataclasses.replace(TOKEN, prefix_score=None, advantage=None)
    view = html.view(text(bare, score=None, judge=None), "a")
    chosen = re.findall(r'class="q-(\w+)" name="a" id="a-\w+"( checked)?', view)
    assert chosen == [("log_probability", " checked"), ("log_ratio", ""), ("entropy", "")]
    assert "reward –" in view and "judge –" in view
    assert html.level(None, "entropy", 5.0) == html.level(0.3, "advantage", 0.0) == 0


@pytest.mark.parametrize(
    "value, key, farthest, step",
    [
        (0.0, "prefix_score", 0.5, -4),
        (0.5, "prefix_score", 0.5, 0),
        (1.0, "prefix_score", 0.5, 4),
        (-9.0, "log_probability", 6.0, -4),
        (-3.0, "log_probability", 6.0, -2),
        (2.0, "log_ratio", 4.0, 2),
        (99.0, "entropy", 5.0, 4),
    ],
)
def test_colours_follow_the_values(value, key, farthest, step):
    assert html.level(value, key, farthest) == step


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as the WCAG define it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colours, ink", [(html.LIGHT, html.LIGHT_INK), (html.DARK, html.DARK_INK)])
def test_text_stands_out_from_every_colour(colours, ink):
    assert len(set(colours)) == 9
    for colour in colours:
        dark, light = sorted((luminance(colour), luminance(ink)))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, colour
    # Blue on one side, orange on the other.
    red, blue = (slice(1, 3), slice(5, 7))
    assert all(colour[red] < colour[blue] for colour in colours[:4])
    assert all(colour[red] > colour[blue] for colour in colours[5:])


def test_each_quantity_and_step_has_a_rule():
    for key in html.QUANTITIES:
        for step in range(-4, 5):
            rule = f".q-{key}:checked~.tokens .{key}{step}{{background:var(--s{step})}}"
            assert rule in html.CSS


def test_the_report_holds_the_view(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = write_report(tmp_path).read_text()
    assert "Token by token" not in before  # nor among what is missing
    rows = [to_json(text()), to_json(text(stage="base"))]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "looks.jsonl").write_text(lines)
    page = write_report(tmp_path).read_text()
    assert "<h2>Token by token</h2>" in page and "<script" not in page
    assert page.count('class="look"') == 2
    ids = re.findall(r'\bid="(look\d[^"]*)"', page)
    assert len(ids) == len(set(ids)) == 10
    (tmp_path / "looks.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(ValueError, match="looks.jsonl: expected the tokens of samples"):
        write_report(tmp_path)
