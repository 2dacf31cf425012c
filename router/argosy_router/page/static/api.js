// Asking the server that this page came from, with the key that was given, and asking for one where it is needed.

const STORED = "argosy-api-key";
const dialog = document.getElementById("key");
const field = document.getElementById("key-value");
let waiting = null;

const key = () => sessionStorage.getItem(STORED) ?? "";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Open the dialog; resolves to whether a key was given. Callers at the same time share one dialog. */
export function askForKey() {
  waiting ??= new Promise((resolve) => {
    field.value = key();
    dialog.addEventListener("close", () => {
      waiting = null;
      resolve(dialog.returnValue === "use");
    }, { once: true });
    dialog.returnValue = "";
    dialog.showModal();
    field.focus();
  });
  return waiting;
}

function use() {
  sessionStorage.setItem(STORED, field.value.trim());
  dialog.close("use");
}

document.getElementById("key-open").addEventListener("click", askForKey);
document.getElementById("key-save").addEventListener("click", use);
document.getElementById("key-cancel").addEventListener("click", () => dialog.close(""));
field.addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    event.preventDefault();
    use();
  }
});

/** The answer to a request; throws what the server says where it refuses. */
export async function ask(path, { body, signal, quiet = false } = {}) {
  const headers = {};
  if (key()) headers.authorization = `Bearer ${key()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401 && !quiet && (await askForKey())) return ask(path, { body, signal });
  let message = `The server answers ${answer.status}.`;
  try {
    message = (await answer.json()).error.message;
  } catch { /* not one of ours: its status says enough */ }
  throw new Refused(answer.status, message);
}

/** The JSON of a GET. */
export const get = async (path, options) => (await ask(path, options)).json();

/** The data of each event of a stream, parsed; ends with `[DONE]`. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}
