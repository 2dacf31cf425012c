#!/usr/bin/env bash
# prometheus-client 0.26.0
#
# Guess: a metric has one name, whatever format the scraper asks for; a colon (vllm:num_requests_waiting) is legal in both formats.
# Seen: the text format keeps the colon; the OpenMetrics answer writes the samples with an underscore (vllm_num_requests_waiting) and
# leaves the colon in their HELP and TYPE lines, unless the scraper's Accept header says escaping=allow-utf-8. The client's own
# OpenMetrics parser then finds an empty gauge vllm:num_requests_waiting beside an untyped vllm_num_requests_waiting.
# So: curl shows the names that dashboards ask for, and a scraper that prefers OpenMetrics without that parameter (Prometheus 2 does)
# stores others, without an error: panels, autoscalers and endpoint pickers find nothing. Look at /metrics with the scraper's own Accept
# header, or always answer in the text format where names have colons.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check prometheus-client==0.26.0
venv/bin/python - <<'PY'
import sys

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families

registry = CollectorRegistry()
Gauge("vllm:num_requests_waiting", "Waiting requests.", ["model_name"], registry=registry).labels("m").set(3)
changed = False


def scrape(accept):
    encode, _content_type = choose_encoder(accept)
    return encode(registry).decode()


def check(what, got, guess, want):
    global changed
    print(f"{what}: {got} (guess: {guess})")
    changed |= got != want


def sample(text):
    return next(line.split("{")[0] for line in text.splitlines() if not line.startswith("#"))


colon, underscore = "vllm:num_requests_waiting", "vllm_num_requests_waiting"
old = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
new = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8,text/plain;version=0.0.4;q=0.3"
check("no preference (curl)", sample(scrape("*/*")), colon, colon)
check("OpenMetrics", sample(scrape(old)), colon, underscore)
check("OpenMetrics, its TYPE line", f"# TYPE {colon} gauge" in scrape(old), True, True)
check("OpenMetrics with escaping=allow-utf-8", sample(scrape(new)), colon, colon)
families = {family.name: (family.type, len(family.samples)) for family in text_string_to_metric_families(scrape(old))}
check("read back", families, {colon: ("gauge", 1)}, {colon: ("gauge", 0), underscore: ("unknown", 1)})
sys.exit(changed)
PY
echo "as described"
