"""What `helm test` runs: is the router ready, and do the models that it lists answer?"""
# ruff: noqa: T201 - what it prints is what `helm test --logs` shows

import json
import os
import ssl
import sys
import urllib.error
import urllib.request

BASE = sys.argv[1]
HEADERS = {"content-type": "application/json"}
if key := os.environ.get("ARGOSY_API_KEY"):
    HEADERS["authorization"] = f"Bearer {key}"
# the certificate is for the names that clients know, which is not to be judged here
CONTEXT = ssl.create_default_context()
CONTEXT.check_hostname, CONTEXT.verify_mode = False, ssl.CERT_NONE


def call(path: str, body: dict | None = None) -> dict:
    """Answer of one request; an HTTP error ends the test with what the router said."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(BASE + path, data=data, headers=HEADERS)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60, context=CONTEXT) as reply:  # noqa: S310 - our own Service
            text = reply.read()
    except urllib.error.HTTPError as error:
        sys.exit(f"{path}: HTTP {error.code}: {error.read().decode(errors='replace')[:500]}")
    return json.loads(text) if text.startswith(b"{") else {}


call("/ready")
print("the router is ready")
if sys.argv[2:] == ["ready"]:
    sys.exit(0)
models = [model["id"] for model in call("/v1/models")["data"]]
for name in models:
    answer = call("/v1/completions", {"model": name, "prompt": "Hello", "max_tokens": 4, "temperature": 0})
    usage = answer["usage"]
    if usage["completion_tokens"] < 1:
        sys.exit(f"{name}: no token came: {answer}")
    print(f"{name}: {usage['completion_tokens']} tokens: {answer['choices'][0]['text']!r}")
if not models:
    print("no InferenceDeployment yet, so nothing was generated")
