// The fleet as the router sees it: replicas, their load, and where the last requests went and why.

import { ask, get } from "./api.js";
import { at, keep, make, number, percent, say, seconds } from "./dom.js";

const HEADS = ["Replica", "State", "Running", "Waiting", "Queue", "KV cache", "Cached blocks", "Hits", "Tokens/s", ""];
const RECENT = ["at", "model", "workers", "why", "prompt", "cached", "tokens", "first", "outcome"];
const reports = new Map();

/** Tokens a second between two reports of a worker; null where only one is known. */
function rate(worker) {
  const load = worker.load;
  if (!load) {
    reports.delete(worker.worker_id);
    return null;
  }
  const taken = performance.now() / 1000 - load.age_s;
  const known = reports.get(worker.worker_id);
  if (!known || load.generated_tokens < known.tokens) {
    reports.set(worker.worker_id, { taken, tokens: load.generated_tokens, rate: null });
    return null;
  }
  if (taken - known.taken > 0.5) {
    const found = (load.generated_tokens - known.tokens) / (taken - known.taken);
    reports.set(worker.worker_id, { taken, tokens: load.generated_tokens, rate: found });
    return found;
  }
  return known.rate;
}

async function kill(worker) {
  try {
    await ask("/fleet/kill", { body: { worker } });
    say(at("fleet-said"), `${worker} is killed; streams go on at another replica, and it is started anew.`);
  } catch (error) {
    say(at("fleet-error"), error.message);
  }
}

function replica(worker, may) {
  const row = make("tr", {}, make("th", { scope: "row" }, worker.worker_id));
  for (const name of ["state", "running", "waiting", "queue"]) row.append(make("td", { "data-cell": name }));
  row.append(make("td", { "data-cell": "kv" }, make("meter", { min: 0, max: 1, value: 0, "aria-label": `KV cache of ${worker.worker_id}` }), " ", make("span")));
  for (const name of ["blocks", "hits", "rate"]) row.append(make("td", { "data-cell": name }));
  row.append(make("td", {}, may ? make("button", { type: "button", class: "kill", "aria-label": `Kill ${worker.worker_id}`, onclick: () => kill(worker.worker_id) }, "Kill") : ""));
  return row;
}

function update(row, worker) {
  const cell = (name) => row.querySelector(`[data-cell="${name}"]`);
  const load = worker.load;
  say(cell("state"), worker.state);
  cell("state").className = worker.state;
  say(cell("running"), load ? String(load.requests - load.waiting) : "–");
  say(cell("waiting"), load ? String(load.waiting) : "–");
  say(cell("queue"), load ? seconds(load.queue_s) : "–");
  cell("kv").querySelector("meter").value = load?.kv_used ?? 0;
  say(cell("kv").querySelector("span"), load ? percent(load.kv_used) : "–");
  say(cell("blocks"), String(worker.indexed_blocks));
  say(cell("hits"), load?.prompt_tokens ? percent(load.cached_tokens / load.prompt_tokens) : "–");
  const found = rate(worker);
  say(cell("rate"), found === null ? "–" : number(found));
}

function deployment(item) {
  const title = `deployment-${item.namespace}-${item.name}`;
  const head = make("tr", {}, ...HEADS.map((name) => (name ? make("th", { scope: "col" }, name) : make("td"))));
  return make("div", {}, make("h3", { id: title }), make("div", { class: "scroll", role: "region", "aria-labelledby": title, tabindex: 0 },
    make("table", {}, make("thead", {}, head), make("tbody"))));
}

function showDeployment(element, item, may) {
  const ready = item.workers.filter((worker) => worker.state === "ready").length;
  const demand = item.demand ? `, ${item.demand.in_flight} requests on their way` : "";
  const held = item.demand?.held ? `, ${item.demand.held} of them wait for a replica` : "";
  say(element.querySelector("h3"), `${item.served_name}: ${ready} of ${item.workers.length} replicas ready${demand}${held}`);
  const workers = [...item.workers].sort((a, b) => a.worker_id.localeCompare(b.worker_id));
  keep(element.querySelector("tbody"), workers, (worker) => worker.worker_id, (worker) => replica(worker, may), update);
}

function request() {
  return make("tr", {}, ...RECENT.map((name) => make("td", { "data-cell": name, class: name === "why" ? "wrap" : null })));
}

function showRequest(row, one) {
  const values = {
    at: new Date(one.at * 1000).toLocaleTimeString(),
    model: one.tenant ? `${one.model} (${one.tenant})` : one.model,
    workers: one.workers.join(" → ") || "waits",
    why: one.why,
    prompt: String(one.prompt_tokens),
    cached: String(one.cached_tokens),
    tokens: String(one.tokens),
    first: one.first_token_s === null ? "–" : seconds(one.first_token_s),
    outcome: one.outcome,
  };
  for (const [name, value] of Object.entries(values)) say(row.querySelector(`[data-cell="${name}"]`), value);
  row.lastChild.className = ["running", "done"].includes(one.outcome) ? one.outcome : "failed";
}

/** Look once, and show it. */
export async function look(options) {
  try {
    const told = await get("/fleet", options);
    say(at("fleet-error"), "");
    keep(at("deployments"), told.deployments, (d) => `${d.namespace}/${d.name}`, deployment, (element, d) => showDeployment(element, d, told.kill));
    keep(at("recent"), told.recent, (one) => one.number, request, showRequest);
    return told;
  } catch (error) {
    say(at("fleet-error"), error.message);
    return null;
  }
}
