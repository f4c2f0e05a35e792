// Requests to the server that served this page. Addresses are relative: the token is in the path.

async function failure(response) {
  try {
    return new Error((await response.json()).error);
  } catch {
    return new Error(`the server answered ${response.status}`);
  }
}

export async function get(name) {
  const response = await fetch(`api/${name}`);
  if (!response.ok) throw await failure(response);
  return response.json();
}

function send(name, body, signal) {
  return fetch(`api/${name}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
}

export async function post(name, body, signal) {
  const response = await send(name, body, signal);
  if (!response.ok) throw await failure(response);
  return response.json();
}

/** The events of a text that is being written, one JSON object per line. */
export async function* write(body, signal) {
  const response = await send("write", body, signal);
  if (!response.ok) throw await failure(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      if (event.event === "error") throw new Error(event.message);
      yield event;
    }
  }
}
