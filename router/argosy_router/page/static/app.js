// Which view is shown, and when the server is asked.

import { get } from "./api.js";
import { offer } from "./chat.js";
import { at, say } from "./dom.js";
import { look } from "./fleet.js";
import { list } from "./models.js";

const VIEWS = ["chat", "models", "fleet"];
const LIVE_MS = 1000, AGAIN_MS = 3000;
let shown = "";

async function models() {
  try {
    const { data } = await get("/v1/models");
    const { grpc_port: port } = await get("/page/here.json", { quiet: true });
    offer(data);
    list(data, port);
    say(at("models-error"), "");
    return data.length > 0;
  } catch (error) {
    for (const name of ["chat-error", "models-error"]) say(at(name), error.message);
    return error.status === 401; // another key is for the person to give
  }
}

async function untilThere() {
  if (!(await models())) setTimeout(untilThere, AGAIN_MS);
}

function show() {
  const name = VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : shown || "chat";
  if (name === shown) return;
  const first = shown === "";
  shown = name;
  for (const view of VIEWS) {
    at(view).hidden = view !== name;
    const link = document.querySelector(`nav a[href="/#${view}"]`);
    if (view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${at(`${name}-title`).textContent} - Argosy`;
  if (name === "models") models();
  if (name === "fleet") look();
  if (!first) at("main").focus();
}

async function live() {
  if (shown === "fleet" && at("live").checked && !document.hidden) await look({ quiet: true });
  setTimeout(live, LIVE_MS);
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  at("main").focus();
});
at("key").addEventListener("close", () => at("key").returnValue === "use" && models());
addEventListener("hashchange", show);
show();
untilThere();
live();
