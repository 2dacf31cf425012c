#!/usr/bin/env bash
# kubernetes 37.0.2 (PyPI)
#
# Guess: a Lease that was read with the client can be changed and written back: its times keep the form that the server gave them.
# Seen: the client parses renewTime and acquireTime into datetime and writes datetime.isoformat(): "2026-01-01T00:00:00.000000Z" goes
# back as "2026-01-01T00:00:00+00:00". These fields are MicroTime, and the API server (1.34.4 was asked) takes them with six digits of
# a fraction only and answers 400: cannot parse "+00:00" as ".000000". A time without a zone loses the zone too, and is refused alike.
# Any other microsecond is written with its six digits and works.
# So: a leader election that stores datetime.now(utc) loses one renewal in a million, and one that cuts times to whole seconds, or
# changes the holder of a lease that another tool wrote with a whole second, always fails. Never store microsecond 0 (set it to 1), or
# write the Lease as a plain mapping with the text formatted by yourself. Event.eventTime is of the same type.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check kubernetes==37.0.2
venv/bin/python - <<'PY'
import datetime
import json
import re
import sys

from kubernetes import client

api = client.ApiClient()
micro_time = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")  # what the server's parser takes
changed = False


def check(what, got, guess, want):
    global changed
    print(f"{what}: {got} (guess: {guess})")
    changed |= got != want


def written_back(text):
    lease = api.deserialize(json.dumps({"spec": {"renewTime": text}}), "V1Lease", "application/json")
    lease.spec.holder_identity = "me"
    return api.sanitize_for_serialization(lease)["spec"]["renewTime"]


for text, guess, want in [
    ("2026-01-01T00:00:00.000001Z", "2026-01-01T00:00:00.000001+00:00", "2026-01-01T00:00:00.000001+00:00"),
    ("2026-01-01T00:00:00.123000Z", "2026-01-01T00:00:00.123000+00:00", "2026-01-01T00:00:00.123000+00:00"),
    ("2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:00.000000+00:00", "2026-01-01T00:00:00+00:00"),
]:
    check(f"{text} read and written", written_back(text), guess, want)
    check("    is a MicroTime", bool(micro_time.fullmatch(written_back(text))), True, guess == want)
utc = datetime.timezone.utc
event = client.EventsV1Event(event_time=datetime.datetime(2026, 1, 1, tzinfo=utc), metadata=client.V1ObjectMeta(name="a"))
check("eventTime of an Event", api.sanitize_for_serialization(event)["eventTime"], "2026-01-01T00:00:00.000000+00:00", "2026-01-01T00:00:00+00:00")
sys.exit(changed)
PY
echo "as described"
