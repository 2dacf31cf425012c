// What can be asked over HTTP: each path of /openapi.json with its fields and an example.

import { get } from "./api.js";
import { at, make, say } from "./dom.js";

/** The fields of a schema, one after the other, each with its path: messages[].role. */
function fields(schema, path = "", required = []) {
  const found = [];
  for (const [name, part] of Object.entries(schema.properties ?? {})) {
    const own = path ? `${path}.${name}` : name;
    found.push({ path: own, part, needed: required.includes(name) });
    found.push(...fields(part, own, part.required));
    if (part.items) found.push(...fields(part.items, `${own}[]`, part.items.required));
  }
  return found;
}

const shown = (value) => (value === null ? "absent" : JSON.stringify(value));

function words(part) {
  const said = [];
  if (part.enum) said.push(part.enum.map(shown).join(" or "));
  else if (part.type) said.push(part.type);
  if (part.description) said.push(part.description);
  return said.join(". ");
}

function curl(method, path, body) {
  if (!body) return `curl -s ${location.origin}${path}`;
  const text = JSON.stringify(body, null, 1).replaceAll("'", "'\\''");
  return `curl -sN ${location.origin}${path} -H 'Content-Type: application/json' -d '${text}'`;
}

function table(schema, label) {
  const rows = fields(schema, "", schema.required).map(({ path, part, needed }) => make("tr", {},
    make("th", { scope: "row" }, make("code", {}, path)),
    make("td", { class: "wrap" }, words(part)),
    make("td", {}, needed ? "required" : "")));
  return make("div", { class: "scroll", role: "region", "aria-label": label, tabindex: 0 },
    make("table", {},
      make("thead", {}, make("tr", {}, ...["Field", "What it may be", ""].map((text) => make(text ? "th" : "td", text ? { scope: "col" } : {}, text)))),
      make("tbody", {}, ...rows)));
}

function operation(method, path, told) {
  const content = told.requestBody?.content["application/json"];
  const title = `${method.toUpperCase()} ${path}`;
  const parts = [];
  if (content) parts.push(table(content.schema, `Fields of ${title}`));
  parts.push(make("pre", { tabindex: 0, "aria-label": `Example of ${title}` }, make("code", {}, curl(method, path, content?.example))));
  return make("details", { id: told.operationId, class: "card", "data-text": `${title} ${told.summary} ${content ? fields(content.schema).map((f) => f.path).join(" ") : ""}`.toLowerCase() },
    make("summary", {}, make("strong", {}, title), ` ${told.summary}`), ...parts);
}

function find() {
  const wanted = at("find").value.trim().toLowerCase();
  const all = [...at("operations").children];
  for (const one of all) one.hidden = !one.dataset.text.includes(wanted);
  const left = all.filter((one) => !one.hidden).length;
  say(at("found"), wanted ? `${left} of ${all.length} paths` : "");
}

function open() {
  const one = document.getElementById(location.hash.slice(1));
  if (one?.matches("details")) {
    one.open = true;
    one.scrollIntoView();
    one.querySelector("summary").focus();
  }
}

async function show() {
  try {
    const document = await get("/openapi.json");
    say(at("version"), document.info.version);
    at("operations").replaceChildren(...Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, told]) => operation(method, path, told))));
    say(at("docs-error"), "");
    find();
    open();
  } catch (error) {
    say(at("docs-error"), error.message);
  }
}

document.querySelector('nav a[href="/docs"]').setAttribute("aria-current", "page");
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  at("main").focus();
});
at("find").addEventListener("input", find);
at("key").addEventListener("close", () => at("key").returnValue === "use" && show());
addEventListener("hashchange", open);
show();
