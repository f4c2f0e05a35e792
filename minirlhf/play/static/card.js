// One text: who wrote it, its tokens, its scores, the judge's reasons; editing and rating it.
import { post } from "./api.js";
import { complain, say } from "./settings.js";
import { TokenView } from "./tokens.js";
import { digits, element, visible } from "./visible.js";

const PAUSE = 250; // milliseconds without a key before an edited text is scored

export class Card {
  /** `whatIf(card, start)` writes on from the token ids `start`. */
  constructor(stage, title, whatIf) {
    Object.assign(this, { stage, title, whatIf, look: null, original: null, edited: false, earlier: [] });
    this.heading = element("h2", {}, title);
    this.view = new TokenView(element("div"), (place, other) => this.instead(place, other));
    this.scores = element("div", { className: "scores" });
    this.reasons = element("ul", { className: "reasons" });
    this.area = element("textarea", { rows: 4, dir: "auto", maxLength: 20000 });
    this.area.setAttribute("aria-label", `edit the text of: ${title}`);
    this.area.addEventListener("input", () => this.changed());
    this.edit = element("details", {}, element("summary", {}, "Edit and see the scores change"), this.area);
    this.back = element("button", { type: "button", disabled: true }, "Back");
    this.back.addEventListener("click", () => this.undo());
    this.rated = element("span", { className: "muted" });
    this.rated.setAttribute("role", "status");
    const stars = [1, 2, 3, 4, 5].map((score) => {
      const button = element("button", { type: "button" }, String(score));
      button.setAttribute("aria-label", `rate this text ${score} of 5`);
      button.addEventListener("click", () => this.rate(String(score)));
      return button;
    });
    this.actions = element("div", { className: "bar" }, this.back, element("span", {}, "rate"), ...stars, this.rated);
    this.element = element(
      "article", { className: "card" },
      this.heading, this.view.box, this.scores, this.reasons, this.edit, this.actions,
    );
  }

  /** A new text begins; the last one can be taken back. */
  begin(label = "") {
    if (this.look) this.earlier.push([this.look, this.edited]);
    this.heading.textContent = label ? `${this.title} (${label})` : this.title;
    this.view.clear();
    this.rated.textContent = "";
  }

  /** The text is there. `edited`: it was changed by hand, or steered. */
  show(look, edited = false, keepArea = false) {
    this.look = look;
    this.edited = edited;
    if (!edited || !this.original) this.original = look;
    this.heading.textContent = edited ? `${this.title} (edited)` : this.title;
    this.view.set(look.tokens);
    const rows = [
      scoreOf("reward model", look.score, edited ? this.original.score : null),
      scoreOf("judge", look.judge, edited ? this.original.judge : null),
      element("span", {}, "KL ", element("b", {}, digits(look.kl)), " nats"),
      element("span", {}, `${look.tokens.length} tokens${look.ended ? "" : ", cut off"}`),
    ];
    this.scores.replaceChildren(...rows);
    this.reasons.replaceChildren(...look.reasons.map((words) => element("li", {}, visible(words))));
    if (!keepArea) this.area.value = look.text;
    this.back.disabled = this.earlier.length === 0;
  }

  undo() {
    const [look, edited] = this.earlier.pop();
    this.show(look, edited);
    this.back.disabled = this.earlier.length === 0;
  }

  instead(place, other) {
    const start = this.view.tokens.slice(0, place).map((token) => token.token);
    this.whatIf(this, [...start, other.token]);
  }

  changed() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.rescore(this.area.value), PAUSE);
  }

  async rescore(text) {
    if (!this.look) return;
    const number = (this.asked = (this.asked ?? 0) + 1);
    try {
      const { look } = await post("look", { prompt: this.look.prompt, stage: this.stage, text });
      if (number !== this.asked) return; // typed on since
      if (!this.edited) this.earlier.push([this.look, false]);
      this.show(look, true, true);
      say("");
    } catch (error) {
      complain(error);
    }
  }

  async rate(key) {
    if (!this.look) return;
    const { prompt, text } = this.look;
    const stage = this.edited ? "edited" : this.stage;
    try {
      const { file, answers } = await post("rate", { prompt, texts: [text], writers: [stage], key });
      this.rated.textContent = `${key}: in ${file} (${answers})`;
      say("");
    } catch (error) {
      complain(error);
    }
  }

  close() {
    this.view.clear();
    this.view.close();
    this.element.remove();
  }
}

function scoreOf(name, value, before) {
  const parts = [`${name} `, element("b", {}, digits(value))];
  if (before !== null && before !== undefined && value !== null) {
    const change = value - before;
    parts.push(` (${change >= 0 ? "+" : ""}${digits(change)})`);
  }
  return element("span", {}, ...parts);
}
