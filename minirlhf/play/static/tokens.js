// A text as coloured tokens: one tab stop, arrow keys move inside, Enter pins, Escape lets go.
import { METRICS, adapt, drawLegend, stepOf } from "./colours.js";
import { digits, element, isEnd, wordsOf } from "./visible.js";
import { free, isPinned, pin, show } from "./panel.js";

const views = new Set();
let metric = "prefix_score";

/** Colour all texts by this quantity from now on. */
export function colourBy(name) {
  metric = name;
  rescale();
  for (const view of views) view.recolour();
  drawLegend(document.getElementById("legend"), metric);
}

/** Let the scale hold all values that are shown. */
function rescale() {
  const shown = [...views].filter((view) => view.box.isConnected);
  return adapt(metric, shown.flatMap((view) => view.tokens.map((token) => token[metric])));
}

export class TokenView {
  /** `choose(place, alternative)` is called when another token is chosen. */
  constructor(box, choose) {
    Object.assign(this, { box, choose, tokens: [] });
    box.classList.add("tokens");
    box.dir = "auto"; // a text of a script that is written from the right is shown so
    box.addEventListener("keydown", (event) => this.move(event));
    box.addEventListener("pointerover", (event) => this.point(event));
    box.addEventListener("focusin", (event) => this.point(event));
    box.addEventListener("click", (event) => this.pin(event.target));
    views.add(this);
  }

  /** No longer shown. */
  close() {
    views.delete(this);
  }

  clear() {
    if (isPinned(this)) free();
    this.tokens = [];
    this.box.replaceChildren();
  }

  add(token) {
    const place = this.tokens.push(token) - 1;
    const span = element("span", { className: "token", tabIndex: place ? -1 : 0 }, wordsOf(token));
    span.classList.toggle("end", isEnd(token));
    span.setAttribute("role", "button");
    this.box.append(span);
    this.colour(span, token);
  }

  set(tokens) {
    this.clear();
    for (const token of tokens) this.add(token);
    if (rescale()) colourBy(metric);
  }

  colour(span, token) {
    const step = stepOf(token[metric], metric);
    if (step === null) delete span.dataset.step;
    else span.dataset.step = step;
    const number = digits(token[metric]);
    const words = span.textContent.trim();
    span.setAttribute("aria-label", `${words}, ${METRICS[metric].name} ${number}`);
  }

  recolour() {
    this.tokens.forEach((token, place) => this.colour(this.box.children[place], token));
  }

  placeOf(target) {
    return [...this.box.children].indexOf(target.closest?.(".token"));
  }

  point(event) {
    const place = this.placeOf(event.target);
    if (place >= 0) show(this, place);
  }

  pin(target) {
    const place = this.placeOf(target);
    if (place >= 0) pin(this, place);
  }

  move(event) {
    const here = this.placeOf(document.activeElement);
    if (here < 0) return;
    const last = this.tokens.length - 1;
    const step = getComputedStyle(this.box).direction === "rtl" ? -1 : 1;
    const aims = {
      ArrowRight: here + step, ArrowLeft: here - step, ArrowDown: here + 1, ArrowUp: here - 1,
      Home: 0, End: last,
    };
    if (event.key === "Enter" || event.key === " ") {
      pin(this, here, true);
    } else if (event.key in aims) {
      const aim = this.box.children[Math.max(0, Math.min(last, aims[event.key]))];
      this.box.children[here].tabIndex = -1;
      aim.tabIndex = 0;
      free();
      aim.focus();
    } else {
      return;
    }
    event.preventDefault();
  }
}
