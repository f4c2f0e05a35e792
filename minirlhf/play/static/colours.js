// Which quantity colours the tokens: its range, its unit, its legend.
import { digits, element } from "./visible.js";

// `low`, `middle`, `high`: the values of the first, the grey and the last colour. Where `middle`
// is an end of the range, the scale has one half only.
export const METRICS = {
  prefix_score: {
    name: "prefix score", unit: "score", low: 0, middle: 0.5, high: 1, reward: true,
    meaning: "What the reward model says of the text up to this token.",
  },
  advantage: {
    name: "advantage", unit: "reward", low: -1, middle: 0, high: 1, adapts: true, reward: true,
    meaning: "The weight that training would give to this token: orange more often, blue less.",
  },
  log_probability: {
    name: "log-probability", unit: "nats", low: -6, middle: 0, high: 0,
    meaning: "How likely the token was for the model that wrote it; blue: a surprise.",
  },
  log_ratio: {
    name: "log ratio", unit: "nats", low: -3, middle: 0, high: 3,
    meaning: "Likelier (orange) or less likely (blue) than before feedback: its share of the KL.",
  },
  entropy: {
    name: "entropy", unit: "nats", low: 0, middle: 0, high: 5,
    meaning: "How open the choice was; orange: many tokens were possible.",
  },
};
const STEPS = 4; // on either side of the middle

/** The colour of a value, from -4 to 4; null if there is no value. */
export function stepOf(value, metric) {
  if (value === null || value === undefined) return null;
  const { low, middle, high } = METRICS[metric];
  const half = (value >= middle ? high - middle : middle - low) || 1;
  const part = (value - middle) / half;
  return Math.round(STEPS * Math.max(-1, Math.min(1, part))) || 0;
}

/** Let the scale of an adapting quantity just hold these values. True if it changed. */
export function adapt(metric, values) {
  const scale = METRICS[metric];
  const largest = Math.max(0, ...values.filter(Number.isFinite).map(Math.abs));
  if (!scale.adapts || largest === 0) return false;
  // Rounded up to 1, 2 or 5 times a power of ten, so that it seldom changes.
  const power = 10 ** Math.floor(Math.log10(largest));
  const high = power * [1, 2, 5, 10].find((times) => times * power >= largest);
  const changed = high !== scale.high;
  Object.assign(scale, { low: -high, high });
  return changed;
}

export function drawLegend(box, metric) {
  const { low, middle, high, unit, meaning } = METRICS[metric];
  const swatches = element("span", { className: "swatches" });
  for (let step = low < middle ? -STEPS : 0; step <= (high > middle ? STEPS : 0); step += 1) {
    const swatch = element("span");
    swatch.dataset.step = step;
    swatches.append(swatch);
  }
  const places = Math.max(Math.abs(low), Math.abs(high)) < 1 ? 2 : 1;
  const grey = low < middle && middle < high ? `; grey: ${digits(middle, places)}` : "";
  box.replaceChildren(
    element("span", {}, digits(low, places)), swatches,
    element("span", {}, `${digits(high, places)} (${unit}${grey})`),
    element("span", { className: "meaning" }, meaning),
  );
}
