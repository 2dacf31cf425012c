// Which models are served, and how programs ask for them.

import { at, keep, make, say } from "./dom.js";

const curl = (model) => `curl -sN ${location.origin}/v1/chat/completions -H 'Content-Type: application/json' -d '{
  "model": "${model}", "stream": true, "max_tokens": 60,
  "messages": [{"role": "user", "content": "Why do ships float?"}]}'`;
const openai = (model) => `from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key="none")
answer = client.chat.completions.create(
    model="${model}", max_tokens=60,
    messages=[{"role": "user", "content": "Why do ships float?"}])
print(answer.choices[0].message.content)`;
const grpc = (model, port) => `import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient("${location.hostname}:${port}")
text = triton.InferInput("text_input", [1], "BYTES")
text.set_data_from_numpy(np.array([b"Once upon a time"], dtype=object))
params = triton.InferInput("sampling_parameters", [1], "BYTES")
params.set_data_from_numpy(np.array([b'{"max_tokens": 20}'], dtype=object))
print(client.infer("${model}", [text, params]).as_numpy("text_output")[0].decode())`;

async function copy(name, text) {
  try {
    await navigator.clipboard.writeText(text);
    say(at("copied"), `${name} copied`);
  } catch {
    say(at("copied"), "The browser does not let this page copy; mark the text instead.");
  }
}

function example(model, name, text) {
  return make("details", {}, make("summary", {}, name),
    make("pre", { tabindex: 0, "aria-label": `${name}, ${model}` }, make("code", {}, text)),
    make("button", { type: "button", class: "quiet", "aria-label": `Copy ${name} of ${model}`, onclick: () => copy(name, text) }, "Copy"));
}

function card(model, port) {
  const title = make("h3", {}, model.id);
  const facts = make("p", { class: "hint" });
  return make("article", { class: "card" }, title, facts,
    example(model.id, "curl", curl(model.id)),
    example(model.id, "Python, openai", openai(model.id)),
    example(model.id, "Python, gRPC (Open Inference Protocol)", grpc(model.id, port)));
}

/** Show them; `port` is that of gRPC. */
export function list(models, port) {
  keep(at("model-list"), models, (model) => model.id, (model) => card(model, port), (element, model) => {
    const facts = [];
    if (model.max_model_len) facts.push(`up to ${model.max_model_len} tokens of prompt and answer together`);
    if (model.parent) facts.push(`an adapter of ${model.parent}`);
    say(element.querySelector(".hint"), facts.join("; ") || "not loaded yet");
  });
}
