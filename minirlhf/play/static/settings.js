// The settings above all views: how texts are sampled.

const field = (name) => document.getElementById(name);

/** What the fields say, checked by the browser; null, and the fault is shown, if one is wrong. */
export function settings() {
  if (!field("settings").reportValidity()) return null;
  return {
    temperature: Number(field("temperature").value),
    top_p: Number(field("top-p").value),
    best_of: Number(field("best-of").value),
    seed: Number(field("seed").value),
  };
}

export function nextSeed() {
  field("seed").value = Number(field("seed").value) + 1;
}

/** One line for the user: what is going on, or what went wrong. */
export function say(words, isError = false) {
  const line = field("message");
  line.textContent = words;
  line.classList.toggle("error", isError);
}

/** One writer at a time: this one has to wait. */
export function sayWaiting({ ahead }) {
  say(`Another text is being written; waiting for ${ahead}.`);
}

/** Say what went wrong, unless the user stopped it. */
export function complain(error) {
  const hint = error instanceof TypeError ? ": is the server still there?" : "";
  if (error.name === "AbortError") say("Stopped.");
  else say(error.message + hint, true);
}
