#!/usr/bin/env bash
# kubernetes 37.0.2 (PyPI)
#
# Guess: a Lease that was read with the client can be changed and written back: its times keep the form that the server gave them. A
# body that is a plain mapping is sent as it is.
# Seen: the client parses renewTime and acquireTime into datetime and writes datetime.isoformat(): "2026-01-01T00:00:00.000000Z" goes
# back as "2026-01-01T00:00:00+00:00". A mapping given to CoordinationV1Api is made into that model first and changed in the same way;
# CustomObjectsApi sends it as it is. These fields are MicroTime: the API server (1.34.4 was asked) takes them with six digits of a
# fraction only and answers 400: cannot parse "+00:00" as ".000000". A datetime without a zone is written without one and refused too.
# So: a leader election that stores datetime.now(utc) loses one renewal in a million, and one that cuts times to whole seconds, or
# changes the holder of a lease that another tool wrote with a whole second, always fails. Never store microsecond 0 (make it 1), or
# write the Lease through CustomObjectsApi with text of your own. Event.eventTime is of the same type.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check kubernetes==37.0.2
venv/bin/python - <<'PY'
import json
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

from kubernetes import client

received = []
changed = False


class Recorder(BaseHTTPRequestHandler):
    """Stands in for the API server: keeps what it was sent and sends it back."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        received.append(json.loads(body))
        self.send_response(201)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def check(what, got, guess, want):
    global changed
    print(f"{what}: {got} (guess: {guess})")
    changed |= got != want


server = HTTPServer(("127.0.0.1", 0), Recorder)
threading.Thread(target=server.serve_forever, daemon=True).start()
api = client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{server.server_port}"))
typed, untyped = client.CoordinationV1Api(api), client.CustomObjectsApi(api)


def sent(create, body):
    create(body)
    return received.pop()["spec"]["renewTime"]


def create_typed(body):
    typed.create_namespaced_lease("default", body)


def create_untyped(body):
    untyped.create_namespaced_custom_object("coordination.k8s.io", "v1", "default", "leases", body)


def read_back(text):
    lease = api.deserialize(json.dumps({"metadata": {"name": "a"}, "spec": {"renewTime": text}}), "V1Lease", "application/json")
    lease.spec.holder_identity = "me"
    return lease


def written(moment):
    return client.V1Lease(metadata=client.V1ObjectMeta(name="a"), spec=client.V1LeaseSpec(renew_time=moment))


odd, whole = "2026-01-01T00:00:00.000001Z", "2026-01-01T00:00:00.000000Z"
guess = "2026-01-01T00:00:00.000000+00:00"
short = "2026-01-01T00:00:00+00:00"
check("read with one microsecond, written back", sent(create_typed, read_back(odd)), odd, "2026-01-01T00:00:00.000001+00:00")
check("read with a whole second, written back", sent(create_typed, read_back(whole)), guess, short)
check("datetime of a whole second", sent(create_typed, written(datetime(2026, 1, 1, tzinfo=UTC))), guess, short)
check("datetime without a zone", sent(create_typed, written(datetime(2026, 1, 1, microsecond=1))), "an error", "2026-01-01T00:00:00.000001")
mapping = {"metadata": {"name": "a"}, "spec": {"renewTime": whole}}
check("mapping, CoordinationV1Api", sent(create_typed, mapping), whole, short)
check("mapping, CustomObjectsApi", sent(create_untyped, mapping), whole, whole)
sys.exit(changed)
PY
echo "as described"
