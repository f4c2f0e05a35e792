// The view in which models write side by side.
import { post, write } from "./api.js";
import { Card } from "./card.js";
import { complain, nextSeed, say, sayWaiting, settings } from "./settings.js";
import { element, visible } from "./visible.js";

const part = (name) => document.getElementById(name);
const cards = new Map(); // stage -> card
let titles = {};
let saved = null; // the saved prompt that was chosen, until it is edited
let stopping = null; // stops the text that is being written
let running = Promise.resolve(); // until it has ended

export function openWrite(run) {
  titles = Object.fromEntries(run.stages.map(({ name, title }) => [name, title]));
  for (const { name, title } of run.stages) {
    const box = element("input", { type: "checkbox", value: name, checked: true });
    part("stages").append(element("label", {}, box, ` ${title}`));
  }
  run.prompts.forEach((one, place) => {
    const words = visible(one.words).replaceAll("\n", " / ");
    const label = one.split ? `${words} (${one.split})` : words;
    part("prompts").append(element("option", { value: place }, label));
  });
  part("prompts").addEventListener("change", ({ target }) => choose(run.prompts[target.value]));
  part("prompt").addEventListener("input", () => (saved = null));
  part("write-form").addEventListener("submit", (event) => {
    event.preventDefault();
    writeAll();
  });
  part("stop").addEventListener("click", () => stopping?.abort());
  for (const button of document.querySelectorAll("#compare button")) {
    button.addEventListener("click", () => compare(button.dataset.key));
  }
  if (run.prompts.length) {
    part("prompts").value = "0";
    choose(run.prompts[0]);
  }
}

function choose(one) {
  saved = one ?? null;
  part("prompt").value = one?.words ?? "";
}

/** Let all chosen models write on the prompt. */
export async function writeAll() {
  const prompt = saved ? saved.prompt : part("prompt").value;
  const stages = [...part("stages").querySelectorAll("input:checked")].map((box) => box.value);
  const asked = settings();
  if (!asked) return;
  if (!stages.length) {
    say("Choose at least one model.", true);
    return;
  }
  if (part("next-seed").checked && cards.size) {
    nextSeed();
    asked.seed += 1;
  }
  for (const stage of [...cards.keys()]) {
    if (!stages.includes(stage) || cards.get(stage).writer !== stage) {
      cards.get(stage).close();
      cards.delete(stage);
    }
  }
  for (const stage of stages) {
    if (!cards.has(stage)) cards.set(stage, new Card(stage, titles[stage], whatIf));
    part("cards").append(cards.get(stage).element);
  }
  await run({ ...asked, prompt, stages }, false);
  offerComparison();
}

/** Write on from the token ids `start`, with the model of this card. */
async function whatIf(card, start) {
  const asked = settings();
  if (!asked) return;
  await run({ ...asked, best_of: 1, prompt: card.look.prompt, stages: [card.stage], start }, true);
  offerComparison();
}

/** Show texts as they are written, one request after another: a new one stops the last. */
async function run(asked, edited) {
  stopping?.abort();
  const mine = (stopping = new AbortController());
  running = running.then(() => stream(asked, edited, mine));
  await running;
}

async function stream(asked, edited, mine) {
  part("stop").disabled = false;
  say("");
  try {
    for await (const event of write(asked, mine.signal)) {
      const card = cards.get(event.stage);
      if (event.event === "waiting") sayWaiting(event);
      else if (event.event === "begin") {
        say("");
        card?.begin(asked.prompt, event.of > 1 ? `${event.number} of ${event.of}` : "");
      } else if (event.event === "token") card?.view.add(event.token);
      else if (event.event === "end") {
        const { look, scores, number } = event;
        const label = scores.length ? `number ${number + 1}, the best of ${scores.length}` : "";
        card?.show(look, edited, { label });
      }
    }
  } catch (error) {
    complain(error);
    for (const card of cards.values()) await card.stopped().catch(complain);
  } finally {
    if (stopping === mine) part("stop").disabled = true;
  }
}

/** Show a text that nobody has written just now, such as a saved sample. */
export async function examine(prompt, text, stage) {
  for (const card of cards.values()) card.close();
  cards.clear();
  const card = new Card(stage, `a saved sample, seen by: ${titles[stage]}`, whatIf, "sample");
  cards.set(stage, card);
  part("cards").append(card.element);
  part("compare").hidden = true;
  try {
    const { look } = await post("look", { prompt, stage, text });
    card.show(look);
  } catch (error) {
    complain(error);
  }
}

function offerComparison() {
  const shown = [...cards.values()].filter((card) => card.look);
  part("compare").hidden = shown.length < 2;
  part("compared").textContent = "";
  const kept = [part("first").value, part("second").value];
  ["first", "second"].forEach((name, place) => {
    const options = shown.map((card) => element("option", { value: card.stage }, card.title));
    part(name).replaceChildren(...options);
    const usual = shown.at(place ? -1 : 0)?.stage;
    part(name).value = shown.some((card) => card.stage === kept[place]) ? kept[place] : usual;
  });
}

async function compare(key) {
  const pair = [cards.get(part("first").value), cards.get(part("second").value)];
  if (pair[0] === pair[1]) {
    say("Choose two different texts.", true);
    return;
  }
  const texts = pair.map((card) => card.look.text);
  const writers = pair.map((card) => (card.edited ? "edited" : card.writer));
  try {
    const rating = { prompt: pair[0].look.prompt, texts, writers, key };
    const { file, answers } = await post("rate", rating);
    part("compared").textContent = `in ${file} (${answers})`;
    say("");
  } catch (error) {
    complain(error);
  }
}
