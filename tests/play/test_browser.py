"""The page in a real browser: Debian's chromium through selenium. One browser for all flows."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from served import NASTY, TOPIC, light_run, light_task, serving

from minirlhf.runs import run_task

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
PATIENCE = 60  # seconds; a busy machine is slow
# The smallest contrast between a text and what is behind it, over all kinds of text on the page.
CONTRAST = """
const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
function behind(one) {
  for (; one; one = one.parentElement) {
    const found = parts(getComputedStyle(one).backgroundColor);
    if (found.length === 3 || found[3] === 1) return light(found);
  }
  throw new Error("nothing is behind it");
}
const probe = document.querySelector(".token").cloneNode(true);
document.querySelector(".tokens").append(probe);
let least = 99;
for (let step = -4; step <= 4; step += 1) {
  probe.dataset.step = step;
  const pair = [light(parts(getComputedStyle(probe).color)), behind(probe)].sort((a, b) => a - b);
  least = Math.min(least, (pair[1] + 0.05) / (pair[0] + 0.05));
}
probe.remove();
const texts = "h1, p, label, dt, dd, button:enabled, .scores b, summary";
for (const one of document.querySelectorAll(texts)) {
  if (!one.textContent.trim() || !one.checkVisibility()) continue;
  const pair = [light(parts(getComputedStyle(one).color)), behind(one)].sort((a, b) => a - b);
  least = Math.min(least, (pair[1] + 0.05) / (pair[0] + 0.05));
}
return least;
"""


class Page:
    """The open page: short words for what a user does and sees."""

    def __init__(self, driver):
        self.driver = driver

    def all(self, selector: str):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def texts(self, selector: str) -> list[str]:
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)",
            selector,
        )

    def run(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def click(self, selector: str) -> None:
        self.run(
            "arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()",
            self.one(selector),
        )

    def keys(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def until(self, condition, what: str):
        """Wait for a condition: a script that returns something true, or a function."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if found := condition() if callable(condition) else self.run("return " + condition):
                return found
            time.sleep(0.02)
        pytest.fail(f"waited in vain: {what}; the page says: {self.text('#message')}")

    def media(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def width(self, width: int) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def written(self, texts: int) -> None:
        """Wait until so many texts stand there, coloured and judged."""
        done = (
            f"document.querySelectorAll('.tokens .token:last-child[data-step]').length === {texts}"
        )
        self.until(f"{done} && document.getElementById('stop').disabled", f"{texts} texts")


@pytest.fixture
def page():
    if not CHROMIUM or not DRIVER:
        pytest.skip("no chromium with its driver on this machine (apt install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield Page(driver)
    driver.quit()


def test_the_page_in_a_browser(page, tmp_path, monkeypatch):
    monkeypatch.setattr(run_task, "load_task", lambda name, *_: light_task(name))
    runs = {task: light_run(tmp_path / task, task) for task in ("openings", "assistant")}
    page.width(1200)
    with serving(runs["openings"]) as served:
        page.driver.get(served.address)
        it_begins_with_a_text_of_each_model(page)
        colours_are_switched_and_can_be_read(page)
        tokens_are_reached_by_keyboard(page)
        another_token_writes_on(page)
        an_edited_text_is_scored_again(page)
        a_rating_is_stored(page, runs["openings"].path)
        a_nasty_prompt_is_shown_as_text(page)
        the_slider_shows_the_samples_of_its_moment(page)
        a_narrow_window_does_not_scroll_sideways(page)
    with serving(runs["assistant"]) as served:
        page.driver.get(served.address)
        one_chats_over_several_turns(page)
    messages = [entry["message"] for entry in page.driver.get_log("browser")]
    assert messages == []


def it_begins_with_a_text_of_each_model(page):
    page.written(2)
    assert page.texts("article h2") == ["pretrained", "after fine-tuning"]
    page.until("document.querySelectorAll('.reasons')[1].textContent", "the judge's reasons")
    scores = page.texts(".scores")[0]
    assert "reward model 0." in scores and "judge 0." in scores and "nats" in scores
    page.one("#seed").clear()
    page.one("#seed").send_keys("5")
    before = page.texts(".tokens")
    page.click("#write")
    page.until(lambda: page.texts(".tokens") != before, "another seed")
    page.written(2)


def colours_are_switched_and_can_be_read(page):
    steps = {}
    for metric in ("prefix_score", "advantage", "log_probability", "log_ratio", "entropy"):
        page.run(
            "const box = document.getElementById('metric'); box.value = arguments[0];"
            "box.dispatchEvent(new Event('change'))",
            metric,
        )
        steps[metric] = page.run(
            "return [...document.querySelectorAll('.token')].map((one) => one.dataset.step).join()"
        )
        assert page.text("#legend .meaning")
    assert len(set(steps.values())) == 5
    assert "-" not in steps["entropy"] and "-" in steps["log_probability"]
    for scheme in ("dark", "light"):
        page.media(scheme)
        assert page.run(CONTRAST) >= 4.5, scheme
    page.width(1200)


def tokens_are_reached_by_keyboard(page):
    page.run("document.querySelector('.token').focus()")
    page.keys("\ue014", "\ue014")  # arrow right
    assert (
        page.run(
            "return [...document.querySelector('.tokens').children].indexOf(document.activeElement)"
        )
        == 2
    )
    panel = page.text("#panel")
    assert "prefix score" in panel and "log-probability−" in panel
    assert len(page.all("#panel button")) == 5
    page.keys("\ue007")  # Enter: to the alternatives
    assert page.run("return document.activeElement.closest('#panel') !== null")
    page.keys("\ue00c")  # Escape: back to the token
    assert page.run("return document.activeElement.className") == "token"


def another_token_writes_on(page):
    tokens = page.run(
        "return [...document.querySelectorAll('.tokens')[0].children].map((one) => one.textContent)"
    )
    page.keys("\ue007")
    chosen = page.run("return document.activeElement.textContent").rpartition(" ")[0]
    page.keys("\ue007")
    page.until("document.querySelector('article h2').textContent.includes('edited')", "what if")
    page.written(2)
    after = page.run(
        "return [...document.querySelectorAll('.tokens')[0].children].map((one) => one.textContent)"
    )
    assert after[:3] == [*tokens[:2], chosen]
    page.click("article .bar button")  # back
    assert page.run("return document.querySelector('.tokens').textContent") == "".join(tokens)


def an_edited_text_is_scored_again(page):
    page.click("article:nth-of-type(2) summary")
    box = page.one("article:nth-of-type(2) textarea")
    box.clear()
    box.send_keys("Exercise makes the heart stronger.")
    page.until(
        "document.querySelectorAll('.tokens')[1].textContent.startsWith('Exercise makes the heart')"
        " || document.querySelectorAll('.tokens')[1].textContent.startsWith(' Exercise makes the')",
        "the edited text",
    )
    page.until(
        r"/reward model 0\.\d\d \([+−]0\.\d\d\)judge 0\.\d\d \(/.test("
        "document.querySelectorAll('.scores')[1].textContent)",
        "both scores with their change",
    )


def a_rating_is_stored(page, folder):
    page.click("article:nth-of-type(2) [aria-label='rate this text 4 of 5']")
    page.until(
        "document.querySelectorAll('article')[1].textContent.includes('ratings.jsonl (1)')",
        "a rating",
    )
    rows = [json.loads(line) for line in (folder / "ratings.jsonl").read_text("utf-8").splitlines()]
    assert [(row["topic"], row["text"], row["score"], row["model"]) for row in rows] == [
        (TOPIC, "Exercise makes the heart stronger.", 4, "edited")
    ]
    page.click("#compare [data-key='2']")
    page.until("document.getElementById('compared').textContent.includes('(1)')", "a comparison")
    (row,) = [
        json.loads(line) for line in (folder / "comparisons.jsonl").read_text("utf-8").splitlines()
    ]
    assert row["better"] == "Exercise makes the heart stronger." and row["first"] == "worse"


def a_nasty_prompt_is_shown_as_text(page):
    page.run(
        "const box = document.getElementById('prompt'); box.value = arguments[0];"
        "box.dispatchEvent(new Event('input'))",
        NASTY + "x" * 1000,
    )
    page.click("#write")
    page.until(
        "document.querySelectorAll('.reasons')[0].textContent.includes('knows only')", "judge"
    )
    page.written(2)
    page.run(
        "const box = document.querySelector('article textarea'); box.value = arguments[0];"
        "box.dispatchEvent(new Event('input'))",
        NASTY,
    )
    # The mark's three bytes are tokens of their own here.
    page.until(
        r"document.querySelector('.tokens').textContent.includes('\\xe2\\x80\\xae')", "the mark"
    )
    assert "<script>" in page.text(".tokens") and len(page.all("script")) == 1


def the_slider_shows_the_samples_of_its_moment(page):
    page.click("[data-view='curves']")
    page.until("document.querySelectorAll('#charts svg').length === 4", "four curves")
    assert page.text("#sample-title").endswith("update 5") and page.text("#update") == "8 of 8"
    page.run("document.getElementById('slider').focus()")
    page.keys("\ue012", "\ue012", "\ue012", "\ue012")  # four updates back
    assert page.text("#update") == "4 of 8" and page.text("#sample-title").endswith("update 1")
    assert page.text("svg.reward .value") == "0.40" and "\\u202e" in page.text("#sample-text")
    page.click("#sample-look")
    page.until("document.querySelectorAll('.tokens').length === 1", "its tokens")
    page.until("document.querySelector('.tokens').textContent.includes('Sample')", "its text")
    assert page.texts("article h2") == ["a saved sample, seen by: after fine-tuning"]
    page.click("#write")
    page.written(2)
    assert page.texts("article h2") == ["pretrained", "after fine-tuning"]


def a_narrow_window_does_not_scroll_sideways(page):
    for view in ("curves", "write"):
        page.click(f"[data-view='{view}']")
        page.width(400)
        wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert page.run("return " + wide), view


def one_chats_over_several_turns(page):
    page.written(2)
    page.click("[data-view='chat']")
    for turn, question in enumerate(("Why sleep?", f"And {NASTY}?")):
        page.one("#question").send_keys(question.replace("🌊", ""), "\ue007")
        page.until(
            f"document.querySelectorAll('.turn.assistant .token[data-step]').length > {turn}"
            " && !document.getElementById('send').disabled"
            f" && document.querySelectorAll('.turn.assistant').length === {turn + 1}",
            "an answer",
        )
    assert len(page.all(".turn")) == 4
    page.run("document.querySelectorAll('.turn.assistant .token')[1].focus()")
    page.keys("\ue007", "\ue007")
    page.until("document.querySelectorAll('.turn').length === 2", "what if: later turns are gone")
    page.until("!document.getElementById('send').disabled", "the answer that goes on")
    page.click("#start-over")
    assert not page.all(".turn")
