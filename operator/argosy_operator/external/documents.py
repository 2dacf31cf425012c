"""The objects of external.metrics.k8s.io/v1beta1 and of discovery, and the selectors in questions. Pure.

Source: https://github.com/kubernetes/metrics (types), https://kubernetes.io/docs/reference/using-api/api-concepts/.
"""

import re
from datetime import datetime, timedelta
from typing import Any

from argosy_api.errors import ArgosyError, InvalidArgumentError
from argosy_operator.autoscaling.signals import Signals
from argosy_operator.external import figures

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
LABEL = "deployment"
"""Of the metric's selector: the resource that it is about."""
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""The media type in which an API server asks for all of discovery at once."""
MAX_CHOSEN = 16
"""Resources in one selector."""

Object = dict[str, Any]

_NAME = r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?"
_IS = re.compile(rf"\s*{LABEL}\s*={{1,2}}\s*({_NAME})\s*")
_IN = re.compile(rf"\s*{LABEL}\s+in\s+\(\s*({_NAME}(?:\s*,\s*{_NAME})*)\s*\)\s*")
_SERVED = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}


def chosen(selector: str) -> list[str]:
    """Names of the resources that a label selector means, each once.

    Raises:
        InvalidArgumentError: it is no list of names.

    """
    if (one := _IS.fullmatch(selector)) is not None:
        return [one[1]]
    if (several := _IN.fullmatch(selector)) is not None:
        names = list(dict.fromkeys(name.strip() for name in several[1].split(",")))
        if len(names) <= MAX_CHOSEN:
            return names
    raise InvalidArgumentError(
        "labelSelector",
        f"is {selector!r:.100}; must be {LABEL}=NAME or {LABEL} in (NAME, NAME), of {MAX_CHOSEN} names at most: the "
        "InferenceDeployments that the metric is about (in a HorizontalPodAutoscaler: metric.selector.matchLabels)",
    )


def quantity(value: float) -> str:
    """A number that is not negative as a Kubernetes quantity, to a thousandth, never rounded to 0."""
    thousandths = round(value * 1000)
    if not thousandths and value > 0:
        thousandths = 1
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


def item(metric: str, name: str, signals: Signals, now: datetime) -> Object:
    """An ExternalMetricValue. Its timestamp is when the oldest part of it was measured.

    Raises:
        UnavailableError: the value is not known.

    """
    value = figures.value(metric, signals)
    window = figures.figure(metric).window_s
    measured = now - timedelta(seconds=signals.age_s)
    return {
        "metricName": metric,
        "metricLabels": {LABEL: name},
        "timestamp": measured.strftime("%Y-%m-%dT%H:%M:%SZ"),
        **({} if window is None else {"window": window}),
        "value": quantity(value),
    }


def value_list(items: list[Object]) -> Object:
    """An ExternalMetricValueList."""
    return {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": items}


def failure(error: ArgosyError, reason: str) -> Object:
    """A Status that says no."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": error.message,
        "reason": reason,
        "code": error.http_status,
    }


def group() -> Object:
    """An APIGroup: /apis/external.metrics.k8s.io."""
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": GROUP,
        "versions": [_SERVED],
        "preferredVersion": _SERVED,
    }


def groups() -> Object:
    """An APIGroupList: /apis."""
    only = {key: part for key, part in group().items() if key not in ("kind", "apiVersion")}
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [only]}


def resources() -> Object:
    """An APIResourceList: the metrics."""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{GROUP}/{VERSION}",
        "resources": [
            {"name": name, "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
            for name in figures.FIGURES
        ],
    }


def aggregated() -> Object:
    """An APIGroupDiscoveryList: all of the above in one answer, as newer API servers ask for it."""
    kind = {"group": GROUP, "version": VERSION, "kind": "ExternalMetricValueList"}
    metrics = [
        {"resource": name, "responseKind": kind, "scope": "Namespaced", "singularResource": "", "verbs": ["get"]}
        for name in figures.FIGURES
    ]
    version = {"version": VERSION, "freshness": "Current", "resources": metrics}
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": [{"metadata": {"name": GROUP}, "versions": [version]}],
    }
