"""Three SIMULATED raters (模拟评分者): they see the judge's rubric through their own bias and
noise.

No person scored the feedback of `openings`; every page that shows it says so.
"""

from __future__ import annotations

import hashlib
import random

from minirlhf.tasks.openings.judge import explain


def rate(topic: str, text: str, seed: int) -> tuple[float, float, float]:
    """The simulated raters' scores, three whole numbers from 1 to 5.

    They depend on nothing but (topic, text, seed), on every machine. A is lenient and likes length
    a little; B is strict and dislikes padding more; C is unbiased but noisier.
    """
    digest = hashlib.sha256(f"{seed}\x1f{topic}\x1f{text}".encode()).digest()
    rng = random.Random(int.from_bytes(digest[:8], "big"))
    points = explain(topic, text)
    rubric = points["rubric"]
    length = min(len(text.split()), 40)
    seen = (
        rubric + 0.3 + 0.015 * (length - 20) + rng.gauss(0, 0.38),
        rubric - 0.3 + 0.25 * points.get("padding", 0.0) + rng.gauss(0, 0.38),
        rubric + rng.gauss(0, 0.5),
    )
    a, b, c = (float(min(max(round(score), 1), 5)) for score in seen)
    return a, b, c
