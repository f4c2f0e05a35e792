"""A text token by token as HTML: coloured by what one chooses, numbers on hover and focus.

Needs no script and no network: radio buttons and CSS do the choosing. Every text is escaped here.
The scale goes from blue over none to orange, which colour-blind people can tell apart.
"""

from __future__ import annotations

from html import escape

from minirlhf.feedback.conversation import as_conversation
from minirlhf.look_inside.looks import TextLook, TokenLook
from minirlhf.system.terminal import visible

STEPS = 4  # of colour on each side of the middle
# Backgrounds from -4 to 4, and the colour of the text on them; light and dark.
LIGHT = "#5a9fd4 #8fbfe3 #bcd9ef #e0eef8 #f6f6f6 #fdebd3 #fbd2a3 #f7b46a #ee9230".split()
DARK = "#1f5f9a #1a4d7c #173c5e #162d44 #23282e #3d2a14 #5a3911 #74460e #8a5008".split()
LIGHT_INK, DARK_INK = "#16191d", "#f2f4f6"

# What one can choose: its field, its name, and what blue and orange stand for.
QUANTITIES = {
    "prefix_score": ("prefix score", "blue: below 0.5; orange: above"),
    "advantage": ("advantage", "blue: training makes it rarer; orange: more frequent"),
    "log_probability": ("log-probability", "the bluer, the less likely the token was"),
    "log_ratio": ("log ratio", "blue: rarer than under the reference; orange: more likely"),
    "entropy": ("entropy", "the more orange, the more undecided the model was"),
}
FARTHEST = {"log_probability": 6.0, "entropy": 5.0}  # nats that get the full colour
SIGNED = ("advantage", "log_ratio")  # their full colour is the largest of the text
MISSING = "–"


def view(look: TextLook, name: str) -> str:
    """One text, without the style sheet (CSS).

    `name` tells it from others on the page: letters, digits and "-".
    """
    chosen = {key: quantity for key, quantity in QUANTITIES.items() if _known(look, key)}
    first = next(iter(chosen))
    choices = legends = ""
    for key, (label, meaning) in chosen.items():
        checked = " checked" if key == first else ""
        choices += (
            f'<input type="radio" class="q-{key}" name="{name}" id="{name}-{key}"{checked}/>'
            f'<label for="{name}-{key}">{label}</label> '
        )
        legends += f'<p class="legend l-{key}">{meaning}.</p>'
    farthest = {key: _farthest(look, key) for key in chosen}
    tokens = "".join(_token(token, farthest) for token in look.tokens)
    hint = "Point at a token, or go to it with the Tab key: its numbers appear here."
    return (
        f'<div class="look">{_heading(look)}<div class="choice" role="group" '
        f'aria-label="Colour the tokens by">{choices}{legends}'
        f'<p class="tokens" dir="ltr">{tokens}</p><p class="hint">{hint}</p></div></div>'
    )


def shown(text: str) -> str:
    """Foreign text as HTML: escaped, with control characters and changes of direction visible."""
    return escape(visible(text))


def level(value: float | None, key: str, farthest: float) -> int:
    """The step of colour of a value, -4 (blue) to 4 (orange); `farthest` gets the full colour."""
    if value is None or farthest <= 0:
        return 0
    if key == "prefix_score":
        value -= 0.5
    step = STEPS * value / farthest
    return max(-STEPS, min(STEPS, round(step)))


def _farthest(look: TextLook, key: str) -> float:
    if key in SIGNED:
        values = [getattr(token, key) for token in look.tokens]
        return max((abs(value) for value in values if value is not None), default=0.0)
    return FARTHEST.get(key, 0.5)


def _known(look: TextLook, key: str) -> bool:
    return any(getattr(token, key) is not None for token in look.tokens)


def _heading(look: TextLook) -> str:
    turns = "".join(
        f'<div class="turn"><small>{escape(turn.role)}</small> {shown(turn.text)}</div>'
        for turn in as_conversation(look.prompt)
    )
    facts = [
        f"written by: {shown(look.stage)}",
        f"reward {number(look.score)}",
        f"judge {number(look.judge)}",
        f"KL {number(look.kl)} nats",
        f"{len(look.tokens)} tokens" + ("" if look.ended else ", cut off (reward 0 in training)"),
    ]
    reasons = ""
    if look.reasons:
        reasons = f"<p class=why>The judge: {'; '.join(shown(one) for one in look.reasons)}.</p>"
    return f"{turns}<p class=facts>{' · '.join(facts)}</p>{reasons}"


def _token(token: TokenLook, farthest: dict[str, float]) -> str:
    """One token with its colours (as classes) and its card of numbers."""
    levels = " ".join(
        f"{key}{level(getattr(token, key), key, most)}" for key, most in farthest.items()
    )
    numbers = "".join(
        f"<span><small>{QUANTITIES[key][0]}</small> {number(getattr(token, key), 3)}</span>"
        for key in farthest
    )
    others = "".join(
        f"<span><b>{shown(other.text)}</b> {other.probability:.1%}</span>"
        for other in token.likeliest
    )
    return (
        f'<span class="t {levels}" tabindex="0"><bdi>{shown(token.text)}</bdi>'
        f'<span class="card"><span><b>{shown(token.text)}</b> <small>token</small> '
        f"{token.token}</span>{numbers}"
        f'<span class="others"><small>likeliest others:</small> {others}</span></span></span>'
    )


def number(value: float | None, digits: int = 2) -> str:
    """A number for the page, with a true minus sign."""
    if value is None:
        return MISSING
    return f"{value + 0.0:.{digits}f}".replace("-", "\u2212")


def _style() -> str:
    """The style sheet: variables for both colour schemes, and a rule for each quantity and step."""
    steps = range(-STEPS, STEPS + 1)

    def variables(backgrounds: list[str], ink: str, panel: str, muted: str) -> str:
        colours = "".join(
            f"--s{step}:{colour};" for step, colour in zip(steps, backgrounds, strict=True)
        )
        return f"{colours}--look-ink:{ink};--look-panel:{panel};--look-muted:{muted}"

    light = variables(LIGHT, LIGHT_INK, "#ffffff", "#59626b")
    dark = variables(DARK, DARK_INK, "#16191d", "#a9b3bd")
    rules = ""
    for key in QUANTITIES:
        rules += f".look .q-{key}:checked~.l-{key}{{visibility:visible}}\n"
        for step in steps:
            rules += f".look .q-{key}:checked~.tokens .{key}{step}{{background:var(--s{step})}}\n"
    return (
        f".look{{{light}}}\n@media (prefers-color-scheme:dark){{.look{{{dark}}}}}\n{LAYOUT}{rules}"
    )


LAYOUT = """\
.look{color:var(--look-ink);background:var(--look-panel);border:1px solid var(--look-muted);
border-radius:6px;padding:.6rem .9rem;margin:.8rem 0;font-size:1rem;line-height:1.5}
.look small,.look .legend,.look .facts,.look .hint,.look .why{color:var(--look-muted)}
.look p{margin:.3rem 0}
.look .facts,.look .why,.look .legend,.look .hint{font-size:.85rem}
.look .turn{overflow-wrap:anywhere;unicode-bidi:isolate}
.look .choice{position:relative;padding-bottom:8.2rem;margin-top:.4rem}
.look input{position:absolute;opacity:0;margin:0}
.look label{display:inline-block;margin:0 .3rem .3rem 0;padding:.05rem .55rem;white-space:nowrap;
border:1px solid var(--look-muted);border-radius:1rem;font-size:.9rem;cursor:pointer}
.look input:checked+label{background:var(--look-ink);color:var(--look-panel)}
.look input:focus-visible+label{outline:2px solid var(--look-ink);outline-offset:2px}
.look .legend{visibility:hidden;position:absolute;left:0;right:0}
.look .tokens{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.9;margin-top:2.4rem}
.look .t{border-radius:3px;padding:.1em 0;cursor:default}
.look .t bdi{unicode-bidi:isolate}
.look .t:hover,.look .t:focus{outline:2px solid var(--look-ink);outline-offset:0}
.look .card,.look .hint{position:absolute;left:0;right:0;bottom:0;height:7.8rem;overflow:auto;
box-sizing:border-box;padding:.4rem .6rem;border-top:1px solid var(--look-muted);
background:var(--look-panel);white-space:normal}
.look .card{visibility:hidden;font-size:.9rem;line-height:1.6}
@media (max-width:36rem){.look .tokens{margin-top:3.6rem}}
.look .card>span{display:inline-block;margin-right:1.1rem}
.look .card .others{display:block}
.look .others span{display:inline-block;margin-right:.9rem}
.look .card b{white-space:pre;background:var(--s0);padding:0 .15em;unicode-bidi:isolate}
.look .t:focus .card{visibility:visible;z-index:1}
.look .t:hover .card{visibility:visible;z-index:2}
"""
CSS = _style()
