// The conversation: questions go out, answers stream in, Stop ends one. Nothing of it is kept anywhere.

import { ask, events, get } from "./api.js";
import { at, make, number, say, seconds } from "./dom.js";

const log = at("log"), question = at("question"), send = at("send"), stop = at("stop");
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
let messages = [];
let running = null;

function show(role, text) {
  at("empty").hidden = true;
  const words = document.createTextNode(text);
  const figures = make("div", { class: "figures" });
  const article = make("article", { class: `message ${role}` }, make("h3", {}, role === "user" ? "You" : at("model").value), make("p", {}, words), figures);
  log.append(article);
  log.scrollTop = log.scrollHeight;
  return { article, words, figures };
}

function body() {
  const wanted = { model: at("model").value, stream: true, stream_options: { include_usage: true } };
  for (const name of NUMBERS) if (at(name).value !== "") wanted[name] = Number(at(name).value);
  const system = at("system").value.trim();
  wanted.messages = system ? [{ role: "system", content: system }, ...messages] : messages;
  return wanted;
}

/** Where it went; where a worker was lost on the way, and it may be seen, all of them. */
async function places(answer) {
  const worker = answer.headers.get("x-argosy-worker");
  if (answer.headers.get("x-argosy-decision") === null) return worker ? [worker] : [];
  try {
    const { recent } = await get("/fleet", { quiet: true });
    const mine = recent.find((one) => one.request_id === answer.headers.get("x-request-id"));
    return mine?.workers.length ? mine.workers : [worker];
  } catch {
    return [worker];
  }
}

async function read(answer, shown, began) {
  const found = { text: "", tokens: 0, first: 0, last: 0, usage: null, finish: "" };
  for await (const event of events(answer)) {
    if (event.error) throw new Error(event.error.message);
    found.usage = event.usage ?? found.usage;
    const choice = event.choices?.[0];
    found.finish = choice?.finish_reason ?? found.finish;
    const piece = choice?.delta?.content;
    if (!piece) continue;
    found.last = performance.now();
    found.first ||= found.last - began;
    found.text += piece;
    const below = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    shown.words.appendData(piece);
    if (below) log.scrollTop = log.scrollHeight;
  }
  return found;
}

function figures(found, began, workers) {
  const parts = [];
  const usage = found.usage;
  if (usage) {
    parts.push(`${usage.prompt_tokens} prompt tokens (${usage.prompt_tokens_details?.cached_tokens ?? 0} cached)`);
    parts.push(`${usage.completion_tokens} generated`);
    const span = (found.last - began - found.first) / 1000;
    if (usage.completion_tokens > 1 && span > 0) parts.push(`${number((usage.completion_tokens - 1) / span)} tokens/s`);
  }
  if (found.first) parts.push(`first token ${seconds(found.first / 1000)}`);
  if (workers.length > 1) parts.push(`began at ${workers[0]}, went on at ${workers.slice(1).join(", ")}`);
  else if (workers.length) parts.push(workers[0]);
  if (found.finish === "length") parts.push("ended at the most tokens that were asked for");
  return parts.join(" · ");
}

async function turn(text) {
  say(at("chat-error"), "");
  messages.push({ role: "user", content: text });
  show("user", text);
  const shown = show("assistant", "");
  shown.article.setAttribute("aria-busy", "true");
  running = new AbortController();
  send.hidden = true;
  stop.hidden = false;
  const began = performance.now();
  try {
    const answer = await ask("/v1/chat/completions", { body: body(), signal: running.signal });
    const found = await read(answer, shown, began);
    say(shown.figures, figures(found, began, await places(answer)));
  } catch (error) {
    if (error.name === "AbortError") say(shown.figures, "stopped");
    else {
      say(at("chat-error"), error.message);
      say(shown.figures, shown.words.data ? "broke off" : "no answer");
    }
  } finally {
    // what was said stays in the conversation; a question without any answer does not
    if (shown.words.data) messages.push({ role: "assistant", content: shown.words.data });
    else messages.pop();
    shown.article.setAttribute("aria-busy", "false");
    running = null;
    stop.hidden = true;
    send.hidden = false;
  }
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || running || !at("model").value) return;
  question.value = "";
  turn(text);
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
});
stop.addEventListener("click", () => {
  running?.abort();
  question.focus();
});
at("new").addEventListener("click", () => {
  running?.abort();
  messages = [];
  for (const article of log.querySelectorAll("article")) article.remove();
  at("empty").hidden = false;
  say(at("chat-error"), "");
  question.focus();
});

/** The models that can be talked to. */
export function offer(models) {
  const select = at("model"), chosen = select.value;
  select.replaceChildren(...models.map((model) => make("option", { value: model.id }, model.id)));
  if (models.some((model) => model.id === chosen)) select.value = chosen;
  send.disabled = models.length === 0;
  say(at("chat-error"), models.length ? "" : "No model is served yet; this page looks again.");
}
