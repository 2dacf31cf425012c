"""The Grafana dashboards of the chart, charts/argosy/files/dashboards/*.json. Called by tools/generate.py.

Panels are written down as what they show; where they lie and what Grafana wants besides is filled in here.
"""

import json
from dataclasses import dataclass
from typing import Any

from argosy_api import metric_names as m

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RATE = "[$__rate_interval]"
WIDTH, HEIGHT, STAT_HEIGHT = 8, 8, 4  # of a screen that is 24 wide


@dataclass(frozen=True)
class Panel:
    """What a panel shows: pairs of (PromQL, legend)."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    text: str = ""
    stat: bool = False
    stacked: bool = False
    highest: float | None = None


def _rate(name: str, chosen: str, by: str) -> str:
    return f"sum by ({by}) (rate({name}_total{{{chosen}}}{RATE}))"


def _total(name: str, chosen: str) -> str:
    return f"sum(rate({name}_total{{{chosen}}}{RATE}))"


def _quantile(q: float, name: str, chosen: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({name}_bucket{{{chosen}}}{RATE})))"


def _quantiles(name: str, chosen: str) -> tuple[tuple[str, str], ...]:
    return tuple((_quantile(q, name, chosen), f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99))


MODEL = 'model=~"$model"'
WORKER = 'model=~"$model", worker=~"$worker"'
RESOURCE = 'namespace=~"$namespace", name=~"$name"'

_ERRORS = f'sum(rate({m.ROUTER_REQUESTS}_total{{{MODEL}, code!="OK"}}{RATE})) / {_total(m.ROUTER_REQUESTS, MODEL)}'
_HITS = f"{_total(m.ROUTER_CACHED_TOKENS, MODEL)} / {_total(m.ROUTER_PROMPT_TOKENS, MODEL)}"
_GUESSED = f"{_total(m.ROUTER_PREDICTED_CACHED_TOKENS, MODEL)} / {_total(m.ROUTER_PROMPT_TOKENS, MODEL)}"

REQUESTS = {
    "": [
        Panel("Requests", "reqps", ((_total(m.ROUTER_REQUESTS, MODEL), ""),), stat=True),
        Panel("Errors", "percentunit", ((_ERRORS, ""),), "Share of requests that ended other than OK", stat=True),
        Panel("First token, p95", "s", ((_quantile(0.95, m.ROUTER_TTFT_SECONDS, MODEL), ""),), stat=True),
        Panel("Tokens generated", "short", ((_total(m.ROUTER_GENERATED_TOKENS, MODEL), ""),), "A second", stat=True),
        Panel("Workers ready", "short", ((f'sum(max by (model) ({m.ROUTER_WORKERS}{{{MODEL}, state="ready"}}))', ""),),
              stat=True),
        Panel("Found in the cache", "percentunit", ((_HITS, ""),), "Share of prompts' tokens", stat=True),
    ],
    "Requests": [
        Panel("Requests by outcome", "reqps", ((_rate(m.ROUTER_REQUESTS, MODEL, "code"), "{{code}}"),), stacked=True),
        Panel("In flight", "short", ((f"sum by (model) ({m.ROUTER_INFLIGHT}{{{MODEL}}})", "{{model}}"),)),
        Panel("Time to the first token", "s", _quantiles(m.ROUTER_TTFT_SECONDS, MODEL)),
        Panel("Time of a request", "s", _quantiles(m.ROUTER_DURATION_SECONDS, MODEL)),
        Panel("Tokens", "short", (
            (_total(m.ROUTER_PROMPT_TOKENS, MODEL), "prompts"),
            (_total(m.ROUTER_GENERATED_TOKENS, MODEL), "generated"),
        ), "A second"),
        Panel("Workers", "short", (
            (f"max by (model, state) ({m.ROUTER_WORKERS}{{{MODEL}}})", "{{model}} {{state}}"),
        ), "As the router sees them that sees most in this state"),
    ],
    "Routing": [
        Panel("Prompts found in caches", "percentunit", ((_GUESSED, "expected by routers"), (_HITS, "found")),
              "Far apart: blocks are evicted before they are used again", highest=1),
        Panel("Why a worker was chosen", "reqps", ((_rate(m.ROUTER_DECISIONS, MODEL, "reason"), "{{reason}}"),),
              stacked=True),
        Panel("Other workers tried", "reqps", ((_rate(m.ROUTER_RETRIES, MODEL, "why"), "{{why}}"),)),
        Panel("Prompts by prefill workers", "reqps", ((_rate(m.ROUTER_PREFILLS, MODEL, "result"), "{{result}}"),)),
        Panel("Blocks in the index", "short", ((f"sum by (pod) ({m.ROUTER_INDEX_BLOCKS}{{{MODEL}}})", "{{pod}}"),)),
        Panel("Repairs of the index", "short", ((_rate(m.ROUTER_INDEX_REPAIRS, MODEL, "why"), "{{why}}"),), "A second"),
    ],
    "Routers": [
        Panel("Time in the router before a worker is called", "s", _quantiles(m.ROUTER_ADDED_SECONDS, "")),
        Panel("Processor time between two turns of the loop", "s", _quantiles(m.ROUTER_LOOP_BURST, ""),
              "Above 0.1: one request holds up the others"),
        Panel("Held for requests", "bytes", ((f"max by (pod) ({m.ROUTER_HELD_BYTES})", "{{pod}}"),),
              "At 256 MiB requests are refused"),
        Panel("Tasks", "short", ((f"max by (pod) ({m.ROUTER_TASKS})", "{{pod}}"),)),
        Panel("Connections", "short", (
            (f"min by (pod) ({m.ROUTER_REDIS_UP})", "Redis {{pod}}"),
            (f"min by (pod) ({m.ROUTER_MEMBERSHIP_UP})", "API server {{pod}}"),
        ), "1: up", highest=1),
    ],
}  # fmt: skip

_ACCEPTED = f"{_total(m.WORKER_ACCEPTED_TOKENS, WORKER)} / {_total(m.WORKER_DRAFTED_TOKENS, WORKER)}"


def _gauge(name: str, by: str = "worker", more: str = "") -> tuple[tuple[str, str], ...]:
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return ((f"sum by ({by}) ({name}{{{WORKER}{more}}})", legend),)


WORKERS = {
    "Load": [
        Panel("Requests running", "short", _gauge(m.WORKER_REQUESTS_RUNNING)),
        Panel("Requests waiting", "short", _gauge(m.WORKER_REQUESTS_WAITING), "Above 0 for minutes: too few replicas"),
        Panel("Time in the queue", "s", _quantiles(m.WORKER_QUEUE_SECONDS, WORKER)),
        Panel("Time to the first token", "s", _quantiles(m.WORKER_TTFT_SECONDS, WORKER)),
        Panel("Time between tokens", "s", _quantiles(m.WORKER_ITL_SECONDS, WORKER)),
        Panel("Ends", "reqps", ((_rate(m.WORKER_REQUESTS, WORKER, "reason"), "{{reason}}"),), stacked=True),
    ],
    "Steps": [
        Panel("Tokens", "short", (
            (_total(m.WORKER_PROMPT_TOKENS, WORKER), "of prompts"),
            (_total(m.WORKER_CACHED_TOKENS, WORKER), "of those from the cache"),
            (_total(m.WORKER_GENERATED_TOKENS, WORKER), "generated"),
        ), "A second"),
        Panel("Time of a step", "s", _quantiles(m.WORKER_STEP_SECONDS, WORKER)),
        Panel("Tokens in a step", "short", _quantiles(m.WORKER_STEP_TOKENS, WORKER)),
        Panel("Prefill", "short", _gauge(m.WORKER_PREFILL_RATE), "Tokens a second, as measured"),
        Panel("Since the last step", "s", _gauge(m.WORKER_LAST_STEP_AGE),
              "After 10 s routers leave a worker out, after 60 s and another minute it is restarted"),
        Panel("Redis", "short", _gauge(m.WORKER_REDIS_UP), "1: up", highest=1),
    ],
    "KV cache": [
        Panel("Blocks", "short", _gauge(m.WORKER_BLOCKS, "state"), stacked=True),
        Panel("Preemptions", "short", ((_rate(m.WORKER_PREEMPTIONS, WORKER, "worker"), "{{worker}}"),),
              "A second. Rising: the cache is too small for engine.maxRunning"),
        Panel("Blocks in host memory", "short", _gauge(m.WORKER_HOST_BLOCKS, "state"), stacked=True),
        Panel("Blocks moved between device and host", "short",
              ((_rate(m.WORKER_HOST_MOVES, WORKER, "to"), "to {{to}}"),), "A second"),
        Panel("Steps' time for that", "percentunit", ((_rate(m.WORKER_HOST_SECONDS, WORKER, "worker"), "{{worker}}"),)),
        Panel("Events not sent", "short", ((_rate(m.WORKER_EVENTS_DROPPED, WORKER, "worker"), "{{worker}}"),),
              "Batches a second"),
    ],
    "Between workers": [
        Panel("Blocks", "short", (
            (_total(m.WORKER_BLOCKS_EXPORTED, WORKER), "given"), (_total(m.WORKER_BLOCKS_IMPORTED, WORKER), "taken"),
        ), "A second"),
        Panel("Fetches", "reqps", ((_rate(m.WORKER_IMPORTS, WORKER, "result"), "{{result}}"),), stacked=True),
        Panel("Speed of transfers", "Bps", _gauge(m.WORKER_TRANSFER_RATE)),
    ],
    "Guessing ahead": [
        Panel("Tokens accepted", "percentunit", ((_ACCEPTED, "share of those drafted"),), highest=1),
        Panel("Tokens accepted of a draft", "short", _gauge(m.WORKER_ACCEPTED_LENGTH)),
        Panel("Drafts", "short", ((_rate(m.WORKER_DRAFTS, WORKER, "worker"), "{{worker}}"),), "A second"),
        Panel("Time saved", "s", _gauge(m.WORKER_SPECULATION_SAVED),
              "Since the start. Falling for long: engine.speculative.method: off"),
    ],
}  # fmt: skip

OPERATOR = {
    "Operator": [
        Panel("Resources", "short", ((f"max by (ready) ({m.OPERATOR_RESOURCES})", "ready: {{ready}}"),), stacked=True),
        Panel("Passes", "ops", ((f"sum by (result) (rate({m.OPERATOR_PASSES}_total{RATE}))", "{{result}}"),)),
        Panel("Time of a pass", "s", _quantiles(m.OPERATOR_PASS_SECONDS, "")),
        Panel("Since the last pass", "s", ((f"max({m.OPERATOR_LAST_PASS_AGE})", "age"),),
              "Above 420: changes of resources have no effect"),
        Panel("Users in Redis", "short", ((f"max({m.OPERATOR_REDIS_USERS_UP})", "up"),), "1: up", highest=1),
    ],
    "Autoscaling": [
        Panel("Workers wanted", "short",
              ((f"max by (namespace, name) ({m.OPERATOR_WANTED_REPLICAS}{{{RESOURCE}}})", "{{namespace}}/{{name}}"),)),
        *(
            Panel(title, unit, ((
                f'max by (namespace, name) ({m.OPERATOR_SCALING_SIGNALS}{{{RESOURCE}, signal="{signal}"}})',
                "{{namespace}}/{{name}}",
            ),))
            for title, unit, signal in (
                ("Seconds of work that wait", "s", "queue_seconds"),
                ("Requests", "short", "requests"),
                ("Requests held for the first worker", "short", "held"),
                ("KV cache in use", "percentunit", "kv_used"),
            )
        ),
        Panel("Decisions", "ops", (
            (f"sum by (reason) (rate({m.OPERATOR_SCALING_DECISIONS}_total{RATE}))", "{{reason}}"),
        )),
    ],
}  # fmt: skip


def dashboards() -> dict[str, str]:
    """Texts of all dashboards by file name."""
    made = (
        ("requests", "Argosy: requests and routing", REQUESTS, {"model": (m.ROUTER_REQUESTS + "_total", "")}),
        ("workers", "Argosy: workers", WORKERS, {
            "model": (m.WORKER_REQUESTS_RUNNING, ""), "worker": (m.WORKER_REQUESTS_RUNNING, MODEL),
        }),
        ("operator", "Argosy: operator and autoscaling", OPERATOR, {
            "namespace": (m.OPERATOR_WANTED_REPLICAS, ""),
            "name": (m.OPERATOR_WANTED_REPLICAS, 'namespace=~"$namespace"'),
        }),
    )  # fmt: skip
    return {f"{name}.json": _dashboard(name, title, rows, of) for name, title, rows, of in made}


def _dashboard(name: str, title: str, rows: dict[str, list[Panel]], variables: dict[str, tuple[str, str]]) -> str:
    source = {
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0,
        "refresh": 1, "regex": "", "includeAll": False, "multi": False, "options": [], "current": {},
    }  # fmt: skip
    body = {
        "uid": f"argosy-{name}",
        "title": title,
        "tags": ["argosy"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [{
            "title": "Argosy", "type": "dashboards", "tags": ["argosy"], "asDropdown": True, "keepTime": True,
            "includeVars": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": "",
        }],
        "templating": {"list": [source, *(_variable(key, *of) for key, of in variables.items())]},
        "panels": _placed(rows),
    }  # fmt: skip
    return json.dumps(body, indent=1, ensure_ascii=False) + "\n"


def _variable(label: str, metric: str, chosen: str) -> dict[str, Any]:
    query = f"label_values({metric}{{{chosen}}}, {label})" if chosen else f"label_values({metric}, {label})"
    return {
        "name": label, "label": label.capitalize(), "type": "query", "datasource": SOURCE, "definition": query,
        "query": {"query": query, "refId": label}, "refresh": 2, "sort": 1, "includeAll": True, "multi": True,
        "allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "hide": 0,
        "options": [], "regex": "",
    }  # fmt: skip


def _placed(rows: dict[str, list[Panel]]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    y = 0
    for title, panels in rows.items():
        if title:
            place = {"x": 0, "y": y, "w": 24, "h": 1}
            row = {"id": len(out) + 1, "type": "row", "title": title, "collapsed": False, "panels": []}
            out.append({**row, "gridPos": place})
            y += 1
        stats = panels[0].stat
        wide, high = (24 // len(panels), STAT_HEIGHT) if stats else (WIDTH, HEIGHT)
        across = 24 // wide
        for number, panel in enumerate(panels):
            place = {"x": wide * (number % across), "y": y + high * (number // across), "w": wide, "h": high}
            out.append({"id": len(out) + 1, "gridPos": place, **_panel(panel)})
        y += high * -(-len(panels) // across)
    return out


def _panel(panel: Panel) -> dict[str, Any]:
    limits = {"min": 0} | ({} if panel.highest is None else {"max": panel.highest})
    custom = {} if panel.stat else {
        "lineWidth": 1, "fillOpacity": 20 if panel.stacked else 5, "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
    }  # fmt: skip
    shown: dict[str, Any] = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
    }  # fmt: skip
    if not panel.stat:
        shown = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": expr, "legendFormat": legend or "__auto",
             "editorMode": "code", "range": True}
            for number, (expr, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": {"unit": panel.unit, **limits, "custom": custom}, "overrides": []},
        "options": shown,
    }  # fmt: skip
