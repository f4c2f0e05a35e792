// Opens the page: what run it is, its views, a first text to look at.
import { get } from "./api.js";
import { openChat } from "./chat.js";
import { METRICS } from "./colours.js";
import { openCurves } from "./curves.js";
import { complain } from "./settings.js";
import { colourBy } from "./tokens.js";
import { element, endsWith, visible } from "./visible.js";
import { examine, openWrite, writeAll } from "./write.js";

const part = (name) => document.getElementById(name);
const views = [...document.querySelectorAll("nav button")];

function openView(name) {
  for (const button of views) {
    const isThis = button.dataset.view === name;
    button.setAttribute("aria-pressed", isThis);
    part(`view-${button.dataset.view}`).hidden = !isThis;
  }
  part("settings").hidden = part("panel").hidden = name === "curves"; // no tokens there
}

async function start() {
  for (const [key, { name }] of Object.entries(METRICS)) {
    part("metric").append(element("option", { value: key }, name));
  }
  colourBy(part("metric").value);
  part("metric").addEventListener("change", ({ target }) => colourBy(target.value));
  part("settings").addEventListener("submit", (event) => event.preventDefault());

  const run = await get("run");
  part("run-name").textContent = visible(run.name);
  part("run-words").textContent = visible(run.words);
  endsWith(run.end_token);
  document.title = `play: ${visible(run.name)}`;
  if (!run.has_reward) {
    for (const option of part("metric").options) {
      option.disabled = Boolean(METRICS[option.value].reward);
    }
    part("metric").value = "log_probability";
    colourBy("log_probability");
  }
  openWrite(run);
  for (const button of views) {
    button.addEventListener("click", async () => {
      openView(button.dataset.view);
      if (button.dataset.view !== "curves") return;
      await openCurves((sample) => {
        openView("write");
        examine(sample.turns ?? sample.topic, sample.text, run.stages.at(-1).name);
      }).catch(complain);
    });
  }
  if (run.chat) {
    openChat(run);
    views.find((button) => button.dataset.view === "chat").hidden = false;
  }
  if (part("prompt").value) await writeAll();
}

start().catch(complain);
