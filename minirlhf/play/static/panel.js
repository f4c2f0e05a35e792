// The panel at the foot of the page: the numbers of one token, and what could stand in its place.
import { METRICS } from "./colours.js";
import { digits, element, wordsOf } from "./visible.js";

const panel = document.getElementById("panel");
let pinned = null; // {view, place}: stays until another token is clicked, or Escape

export function isPinned(view) {
  return pinned?.view === view;
}

/** Let go of the pinned token. */
export function free() {
  pinned?.view.box.children[pinned.place]?.classList.remove("pinned");
  pinned = null;
}

/** Keep this token in the panel; with `enter`, go on to its alternatives by keyboard. */
export function pin(view, place, enter = false) {
  const again = pinned?.view === view && pinned.place === place;
  free();
  if (again && !enter) return;
  show(view, place);
  pinned = { view, place };
  view.box.children[place].classList.add("pinned");
  if (enter) panel.querySelector("button")?.focus();
}

/** Show a token, unless another one is pinned. */
export function show(view, place) {
  if (pinned) return;
  const token = view.tokens[place];
  const numbers = element("dl");
  for (const [key, { name, unit }] of Object.entries(METRICS)) {
    const unitShown = unit === "nats" && Number.isFinite(token[key]) ? " nats" : "";
    const value = element("dd", {}, digits(token[key], 3) + unitShown);
    numbers.append(element("div", {}, element("dt", {}, name), value));
  }
  const others = element("div", { className: "bar" }, element("span", {}, "What if?"));
  for (const other of token.likeliest ?? []) {
    const share = `${(100 * other.probability).toFixed(other.probability < 0.1 ? 1 : 0)}%`;
    const button = element("button", { type: "button", dir: "auto" }, `${wordsOf(other)} ${share}`);
    button.setAttribute("aria-label", `write on with ${wordsOf(other).trim()}, ${share}`);
    button.addEventListener("click", () => {
      free();
      view.choose(place, other);
    });
    others.append(button);
  }
  const title = element("h2", { dir: "auto" }, `“${wordsOf(token)}”`);
  panel.replaceChildren(title, numbers, others);
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !pinned) return;
  const { view, place } = pinned;
  free();
  view.box.children[place]?.focus();
});
