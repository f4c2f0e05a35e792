// One text: who wrote it, its tokens, its scores, the judge's reasons; editing and rating it.
import { post } from "./api.js";
import { complain, say } from "./settings.js";
import { TokenView } from "./tokens.js";
import { digits, element, visible } from "./visible.js";

const PAUSE = 250; // milliseconds without a key before an edited text is scored

export class Card {
  /** `stage`: the model that writes and looks; `whatIf(card, start)` writes on from token ids;
   * `writer`: who wrote the text, for its ratings. */
  constructor(stage, title, whatIf, writer = stage) {
    Object.assign(this, { stage, title, whatIf, writer });
    Object.assign(this, { look: null, original: null, edited: false, earlier: [] });
    this.heading = element("h2", {}, title);
    this.view = new TokenView(element("div"), (place, other) => this.instead(place, other));
    this.scores = element("div", { className: "scores" });
    this.reasons = element("p", { className: "reasons muted" });
    this.area = element("textarea", { rows: 4, dir: "auto", maxLength: 20000 });
    this.area.setAttribute("aria-label", `edit the text of: ${title}`);
    this.area.addEventListener("input", () => this.changed());
    const summary = element("summary", {}, "Edit and see the scores change");
    this.edit = element("details", {}, summary, this.area);
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
    const rate = element("span", {}, "rate");
    this.actions = element("div", { className: "bar" }, this.back, rate, ...stars, this.rated);
    this.element = element(
      "article", { className: "card" },
      this.heading, this.view.box, this.scores, this.reasons, this.edit, this.actions,
    );
  }

  /** A new text on this prompt begins; the last one can be taken back. */
  begin(prompt, label = "") {
    if (this.look && !this.writing) this.earlier.push([this.look, this.edited]);
    Object.assign(this, { prompt, writing: true });
    this.heading.textContent = label ? `${this.title} (${label})` : this.title;
    // As high as before, so that nothing below it jumps while the text grows.
    this.view.box.style.minHeight = `${this.view.box.offsetHeight}px`;
    this.view.clear();
    this.back.disabled = true;
    this.scores.replaceChildren();
    this.reasons.textContent = "";
    this.rated.textContent = "";
  }

  /** The text is there. `edited`: it was changed by hand, or steered. */
  show(look, edited = false, { keepArea = false, label = "" } = {}) {
    Object.assign(this, { look, edited, writing: false });
    if (!edited || !this.original) this.original = look;
    const words = [label, edited ? "edited" : ""].filter(Boolean).join(", ");
    this.heading.textContent = words ? `${this.title} (${words})` : this.title;
    this.view.set(look.tokens);
    this.view.box.style.minHeight = "";
    this.showScores();
    if (!keepArea) this.area.value = look.text;
    this.back.disabled = this.earlier.length === 0;
    if (look.judge === null && !look.reasons.length) this.askJudge(look);
  }

  /** The scores; of an edited text also how they have changed. */
  showScores() {
    const { look, edited, original } = this;
    this.scores.replaceChildren(
      scoreOf("reward model", look.score, edited ? original.score : null),
      scoreOf("judge", look.judge, edited ? original.judge : null),
      element("span", {}, "KL ", element("b", {}, digits(look.kl)), " nats"),
      element("span", {}, `${look.tokens.length} tokens${look.ended ? "" : ", cut off"}`),
    );
    const reasons = look.reasons.map(visible).join(", ");
    this.reasons.textContent = reasons && `The judge: ${reasons}.`;
  }

  /** The judge's score comes a little later: its task has to be loaded first. */
  async askJudge(look) {
    try {
      Object.assign(look, await post("judge", { prompt: look.prompt, text: look.text }));
      if (look === this.look || look === this.original) this.showScores();
    } catch (error) {
      complain(error);
    }
  }

  /** The writing was stopped: what is there is the text, or the one before. */
  async stopped() {
    if (!this.writing) return;
    const tokens = this.view.tokens.map((token) => token.token);
    if (!tokens.length) {
      if (this.earlier.length) this.undo();
    } else {
      const { look } = await post("look", { prompt: this.prompt, stage: this.stage, tokens });
      this.show(look, this.edited);
    }
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
      this.show(look, true, { keepArea: true });
      say("");
    } catch (error) {
      complain(error);
    }
  }

  async rate(key) {
    if (!this.look) return;
    const { prompt, text } = this.look;
    const writer = this.edited ? "edited" : this.writer;
    try {
      const rating = { prompt, texts: [text], writers: [writer], key };
      const { file, answers } = await post("rate", rating);
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
