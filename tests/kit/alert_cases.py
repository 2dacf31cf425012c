"""For each alert of the chart: series that make it fire, and series that look alike and do not.

Values are promtool's: `a+bxN` is a, then N times b more than before, one sample a minute; `axN` is a and N times a.
"""

from dataclasses import dataclass, field

Series = dict[str, str]
POD = 'namespace="n",pod="p"'
WORKER = f'model="m",worker="w",{POD}'
ROUTER = f'model="m",{POD}'
OF_POD = {"namespace": "n", "pod": "p"}
OF_MODEL = {"model": "m"}


@dataclass(frozen=True)
class Case:
    """Five minutes after its `for` the alert fires, and not a minute before that can have passed."""

    fires: list[Series]
    silent: list[Series]
    labels: dict[str, str] = field(default_factory=dict)


def requests(**codes: int) -> Series:
    """So many requests a minute end with each code."""
    return {f'argosy_router_requests_total{{api="http",code="{c}",{ROUTER}}}': f"0+{n}x90" for c, n in codes.items()}


def asked(ready: int, in_flight: int) -> Series:
    return {
        f'argosy_router_workers{{state="ready",{ROUTER}}}': f"{ready}x90",
        f'argosy_router_workers{{state="ejected",{ROUTER}}}': "1x90",
        f"argosy_router_requests_in_flight{{{ROUTER}}}": f"{in_flight}x90",
    }


def histogram(name: str, labels: str, **buckets: int) -> Series:
    """So many samples a minute below each bound; `_` stands for the point, `inf` for all."""
    bounds = {bound.lstrip("b").replace("_", ".").replace("inf", "+Inf"): n for bound, n in buckets.items()}
    return {f'{name}_bucket{{le="{bound}",{labels}}}': f"0+{n}x90" for bound, n in bounds.items()}


def pod(name: str, values: str, more: str = "") -> Series:
    return {f"{name}{{{more}{POD}}}": values}


FIRST = "argosy_router_time_to_first_token_seconds"
BURST = "argosy_router_loop_burst_seconds"
MB = 1 << 20

CASES = {
    "ArgosyNoWorkers": Case(
        fires=[asked(0, 2), asked(0, 0) | requests(UNAVAILABLE=1)],
        # nobody asks; another router reaches a worker; what fails is the clients' own fault
        silent=[
            asked(0, 0),
            asked(0, 2) | {'argosy_router_workers{state="ready",model="m",pod="q"}': "1x90"},
            asked(0, 0) | requests(INVALID_ARGUMENT=5),
        ],
        labels=OF_MODEL,
    ),
    "ArgosyNoRouter": Case(fires=[{}], silent=[pod("argosy_router_membership_up", "0x90")]),
    "ArgosyErrors": Case(
        fires=[requests(OK=90, UNAVAILABLE=4, INTERNAL=2), requests(RESOURCE_EXHAUSTED=1)],
        silent=[requests(OK=96, UNAVAILABLE=4), requests(INVALID_ARGUMENT=9), requests(UNAVAILABLE=0, OK=0)],
        labels=OF_MODEL,
    ),
    "ArgosySlowFirstToken": Case(
        fires=[histogram(FIRST, ROUTER, b1=97, b2_5=98, b5=100, binf=100)],
        silent=[histogram(FIRST, ROUTER, b1=100, b2_5=100, binf=100), histogram(FIRST, ROUTER, b1=0, b5=0, binf=0)],
        labels=OF_MODEL,
    ),
    "ArgosyRequestsWait": Case(
        fires=[{f"argosy_worker_requests_waiting{{{WORKER}}}": "3x90"}],
        silent=[{f"argosy_worker_requests_waiting{{{WORKER}}}": "9x5 0 9x40"}],
        labels=OF_MODEL | OF_POD | {"worker": "w"},
    ),
    "ArgosyPreemptions": Case(
        fires=[{f"argosy_worker_preemptions_total{{{WORKER}}}": "0+30x90"}],
        silent=[{f"argosy_worker_preemptions_total{{{WORKER}}}": "0+5x90"}],
        labels=OF_MODEL,
    ),
    "ArgosyWorkerHangs": Case(
        fires=[{f"argosy_worker_last_step_age_seconds{{{WORKER}}}": "0+60x90"}],
        silent=[{f"argosy_worker_last_step_age_seconds{{{WORKER}}}": "0 30 0 50x90"}],
        labels=OF_MODEL | OF_POD | {"worker": "w"},
    ),
    "ArgosyRouterBlocked": Case(
        fires=[histogram(BURST, POD, b0_1=95, b0_25=100, binf=100)],
        silent=[histogram(BURST, POD, b0_05=0, b0_1=1000, b0_25=1000, binf=1000)],
        labels=OF_POD,
    ),
    "ArgosyRouterFull": Case(
        fires=[pod("argosy_router_held_bytes", f"{250 * MB}x90")],
        silent=[pod("argosy_router_held_bytes", f"{230 * MB}x90")],
        labels=OF_POD,
    ),
    "ArgosyRouterBlind": Case(
        fires=[pod("argosy_router_membership_up", "0x90")],
        silent=[pod("argosy_router_membership_up", "1x90"), {}],
        labels=OF_POD,
    ),
    "ArgosyResourceNotReady": Case(
        fires=[pod("argosy_operator_resources", "1x90", 'ready="false",')],
        silent=[
            pod("argosy_operator_resources", "0x90", 'ready="false",')
            | pod("argosy_operator_resources", "3x90", 'ready="true",'),
            pod("argosy_operator_resources", "1x10 0 1x40", 'ready="false",'),
        ],
        labels=OF_POD | {"ready": "false"},
    ),
    "ArgosyNoOperator": Case(fires=[{}], silent=[pod("argosy_operator_last_pass_age_seconds", "0x90")]),
    "ArgosyNoLeader": Case(
        fires=[pod("argosy_operator_leader", "0x90")],
        silent=[pod("argosy_operator_leader", "0x90") | {'argosy_operator_leader{pod="q"}': "1x90"}, {}],
    ),
    "ArgosyOperatorStuck": Case(
        fires=[pod("argosy_operator_last_pass_age_seconds", "0+120x90")],
        silent=[pod("argosy_operator_last_pass_age_seconds", "360x90")],
        labels=OF_POD,
    ),
    "ArgosyAutoscalingBlind": Case(
        fires=[{'argosy_operator_scaling_signals{namespace="n",name="m",signal="complete"}': "0x90"}],
        silent=[
            {
                'argosy_operator_scaling_signals{namespace="n",name="m",signal="complete"}': "1x90",
                'argosy_operator_scaling_signals{namespace="n",name="m",signal="requests"}': "0x90",
            }
        ],
        labels={"namespace": "n", "name": "m", "signal": "complete"},
    ),
    "ArgosyRedisDown": Case(
        fires=[pod("argosy_router_redis_up", "0x90")],
        silent=[pod("argosy_router_redis_up", "0x90") | {'argosy_router_redis_up{pod="q"}': "1x90"}],
    ),
    "ArgosyRedisUsers": Case(
        fires=[pod("argosy_operator_redis_users_up", "0x90")],
        silent=[pod("argosy_operator_redis_users_up", "1x90")],
        labels=OF_POD,
    ),
}
