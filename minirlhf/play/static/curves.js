// The view of the run's curves: reward, judge, KL, length; a slider, and the samples of a moment.
import { get } from "./api.js";
import { digits, element, visible } from "./visible.js";

const part = (name) => document.getElementById(name);
const WIDTH = 420, HEIGHT = 170, LEFT = 40, RIGHT = 12, TOP = 24, BOTTOM = 22;
let data = null;
let shown = null; // the saved sample on show

/** Draw them when the view is first opened; `look(sample)` shows a sample's tokens. */
export async function openCurves(look) {
  if (data) return;
  data = await get("curves");
  if (!data.curves.length) {
    part("charts").textContent = "This run has no curves yet: it is not fine-tuned.";
    return;
  }
  const steps = data.curves.flatMap(({ points }) => points.map(([step]) => step));
  const range = [Math.min(...steps), Math.max(...steps)];
  part("charts").append(...data.curves.map((curve) => chart(curve, range)));
  Object.assign(part("slider"), { min: range[0], max: range[1], value: range[1] });
  part("slider-label").hidden = false;
  part("slider").addEventListener("input", () => moveTo(Number(part("slider").value), range));
  part("sample-look").addEventListener("click", () => look(shown));
  moveTo(range[1], range);
}

function svg(tag, fields, words = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(fields)) made.setAttribute(name, value);
  made.textContent = words;
  return made;
}

const across = (step, [first, last]) =>
  LEFT + ((step - first) / (last - first || 1)) * (WIDTH - LEFT - RIGHT);

function chart({ name, title, unit, points }, range) {
  const values = points.map(([, value]) => value);
  const isShare = unit === "0 to 1";
  const low = isShare ? 0 : Math.min(0, ...values);
  const high = isShare ? 1 : Math.max(...values) * 1.05 || 1;
  const frame = { x: LEFT, y: TOP, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM };
  const down = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * frame.height;
  const places = high < 10 ? 1 : 0;
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: name, role: "img" });
  const span = `from ${digits(values[0])} to ${digits(values.at(-1))}`;
  picture.setAttribute("aria-label", `${title} (${unit}) ${span}`);
  const line = points.map(([step, value]) => `${across(step, range)},${down(value)}`);
  picture.append(
    svg("text", { x: LEFT, y: 15 }, `${title} (${unit})`),
    svg("rect", { ...frame, class: "frame" }),
    svg("text", { x: LEFT - 5, y: TOP + 9, "text-anchor": "end" }, digits(high, places)),
    svg("text", { x: LEFT - 5, y: HEIGHT - BOTTOM, "text-anchor": "end" }, digits(low, places)),
    svg("text", { x: LEFT, y: HEIGHT - 7 }, range[0]),
    svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 7, "text-anchor": "end" }, `update ${range[1]}`),
    svg("polyline", { class: "line", points: line.join(" ") }),
    svg("line", { class: "now", y1: TOP, y2: HEIGHT - BOTTOM }),
    svg("circle", { class: "dot", r: 4 }),
    svg("text", { class: "value", x: WIDTH - RIGHT, y: 15, "text-anchor": "end" }),
  );
  picture.show = (step) => {
    const [at, value] = points.findLast(([one]) => one <= step) ?? points[0];
    const x = across(step, range);
    for (const side of ["x1", "x2"]) picture.querySelector(".now").setAttribute(side, x);
    picture.querySelector(".dot").setAttribute("cx", across(at, range));
    picture.querySelector(".dot").setAttribute("cy", down(value));
    picture.querySelector(".value").textContent = digits(value);
  };
  return picture;
}

function moveTo(step, range) {
  part("update").textContent = `${step} of ${range[1]}`;
  for (const picture of part("charts").children) picture.show(step);
  const words = data.warnings.filter(([at]) => at === step).map(([, why]) => visible(why));
  part("warnings").textContent = words.join(" ");
  shown = data.samples.findLast((row) => row.step <= step) ?? null;
  part("sample").hidden = shown === null;
  if (shown === null) return;
  part("sample-title").textContent = `A sample saved at update ${shown.step}`;
  part("sample-prompt").textContent = visible(shown.topic);
  part("sample-text").textContent = visible(shown.text) || "(empty)";
  part("sample-numbers").textContent =
    `reward model ${digits(shown.reward)}, judge ${digits(shown.judge)}, ` +
    `KL ${digits(shown.kl_nats)} nats, ${shown.length_tokens ?? "–"} tokens`;
}
