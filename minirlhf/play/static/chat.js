// The view in which one talks with a model over several turns.
import { post, write } from "./api.js";
import { complain, nextSeed, say, sayWaiting, settings } from "./settings.js";
import { TokenView } from "./tokens.js";
import { digits, element, visible } from "./visible.js";

const part = (name) => document.getElementById(name);
let turns = []; // {role, text, element, view}
let stopping = null;

export function openChat(run) {
  for (const { name, title } of run.stages) {
    part("speaker").append(element("option", { value: name }, title));
  }
  part("speaker").value = run.stages.at(-1).name;
  part("chat-form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask(part("question").value.trim());
  });
  part("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask(part("question").value.trim());
  });
  part("chat-stop").addEventListener("click", () => stopping?.abort());
  part("start-over").addEventListener("click", () => keep(0));
}

async function ask(question) {
  if (!question || stopping) return;
  part("question").value = "";
  add("user", question);
  const said = element("div", { className: "said", dir: "auto" }, visible(question));
  turns.at(-1).element.append(element("h2", {}, "you"), said);
  await answer(part("speaker").value, []);
}

/** Let the model answer the turns so far; `start`: ids of tokens to begin with. */
async function answer(stage, start) {
  const asked = settings();
  if (!asked) return;
  const prompt = turns.map(({ role, text }) => ({ role, text }));
  const place = turns.length;
  const turn = add("assistant", "");
  const title = part("speaker").querySelector(`option[value="${stage}"]`).textContent;
  turn.view = new TokenView(element("div"), (where, other) => {
    if (stopping) return;
    const ids = turn.view.tokens.slice(0, where).map((token) => token.token);
    keep(place);
    answer(stage, [...ids, other.token]);
  });
  turn.scores = element("div", { className: "muted" });
  turn.element.append(element("h2", {}, title), turn.view.box, turn.scores);
  stopping = new AbortController();
  part("chat-stop").disabled = false;
  part("send").disabled = true;
  try {
    const request = { ...asked, prompt, stages: [stage], start };
    for await (const event of write(request, stopping.signal)) {
      if (event.event === "waiting") sayWaiting(event);
      else if (event.event === "begin") {
        say("");
        turn.view.clear();
      } else if (event.event === "token") {
        turn.view.add(event.token);
      } else if (event.event === "end") {
        showAnswer(turn, event.look);
      }
    }
  } catch (error) {
    complain(error);
    const tokens = turn.view.tokens.map((token) => token.token);
    if (tokens.length) {
      // It was stopped: what is there is the answer.
      const seen = post("look", { prompt, stage, tokens });
      await seen.then(({ look }) => showAnswer(turn, look)).catch(complain);
    }
  } finally {
    stopping = null;
    part("chat-stop").disabled = true;
    part("send").disabled = false;
    nextSeed();
    // A question without an answer is taken back, so that the turns still alternate.
    if (!turn.text.trim()) keep(place - 1);
  }
}

function showAnswer(turn, look) {
  turn.view.set(look.tokens);
  turn.text = look.text;
  const numbers = `reward model ${digits(look.score)}, KL ${digits(look.kl)} nats`;
  turn.scores.textContent = numbers;
  part("chat-form").scrollIntoView({ block: "nearest" });
  post("judge", { prompt: look.prompt, text: look.text })
    .then(({ judge, reasons }) => {
      const parts = [numbers, `judge ${digits(judge)}`, ...reasons.map(visible)];
      turn.scores.textContent = parts.join("; ");
    })
    .catch(complain);
}

function add(role, text) {
  const turn = { role, text, element: element("div", { className: `turn ${role}` }) };
  turns.push(turn);
  part("turns").append(turn.element);
  part("chat-form").scrollIntoView({ block: "nearest" });
  return turn;
}

/** Forget all but the first `count` turns. */
function keep(count) {
  stopping?.abort();
  for (const turn of turns.splice(Math.max(0, count))) {
    turn.view?.clear();
    turn.view?.close();
    turn.element.remove();
  }
}
