"""Wrong values are refused by name, by lint, template and install alike: the schema does it."""

import pytest

WRONG = [
    ("operatr.logLevel=INFO", "operatr"),
    ("router.replica=2", "replica"),
    ("router.replicas=-1", "replicas"),
    ("router.replicas=two", "replicas"),
    ("router.replicas=1.5", "replicas"),
    ("router.drainSeconds=-5", "drainSeconds"),
    ("router.attempts=0", "attempts"),
    ("router.maxWaitSeconds=-1", "maxWaitSeconds"),
    ("router.corsOrigins={chat.example.org}", "corsOrigins"),
    ("router.autoscaling.minReplicas=0", "minReplicas"),
    ("router.autoscaling.targetCPU=70%", "targetCPU"),
    ("router.autoscaling.target=1", "target"),
    ("router.picker.inferencePool.failureMode=Shrug", "failureMode"),
    ("router.picker.port=9003", "port"),
    ("router.tls.secretName=Not_A_Name", "secretName"),
    ("router.tls.certificate=x", "certificate"),
    ("redis.ca=no certificate", "ca"),
    ("router.service.type=ExternalName", "type"),
    ("router.service.ports.http=0", "http"),
    ("router.service.ports.grpc=70000", "grpc"),
    ("router.service.ports.https=443", "https"),
    ("router.service.ports.metrics=8002", "metrics"),
    ("router.service.ipFamilyPolicy=Both", "ipFamilyPolicy"),
    ("networkPolicy.metricsFrom[0].pods=x", "pods"),
    ("networkPolicy.clientsFrom[0].pods=x", "pods"),
    ("router.service.nodePorts.http=99999", "http"),
    ("router.logLevel=loud", "logLevel"),
    ("logFormat=xml", "logFormat"),
    ("tracing.endpoint=collector:4317", "endpoint"),
    ("operator.replicas=11", "replicas"),
    ("operator.image.sha=abc", "sha"),
    ("operator.image.digest=abc", "digest"),
    ("operator.image.repository=", "repository"),
    ("operator.resources.request.cpu=1", "request"),
    ("operator.tolerations[0].effect=Never", "effect"),
    ("image.pullPolicy=Sometimes", "pullPolicy"),
    ("image.pullSecrets=name", "pullSecrets"),
    ("crds.install=maybe", "install"),
    ("crds.force=true", "force"),
    ("watchNamespaces[0]=Not_A_Name", "watchNamespaces"),
    ("valkey.enabled=yes please", "enabled"),
    ("valkey.maxMemory=lots", "maxMemory"),
    ("valkey.password=secret", "password"),
    ("redis.url=http://host", "url"),
    ("redis.sentinels[0]=host", "sentinels"),
    ("redis.host=somewhere", "host"),
    ("redis.access=everybody", "access"),
    ("redis.existingSecret.routerKey=", "routerKey"),
    ("worker.env.NUMBER=1", "NUMBER"),
    ("metrics.podMonitor.interval=often", "interval"),
    ("metrics.serviceMonitor.enabled=true", "serviceMonitor"),
    ("metrics.prometheusRule.errorRatio=5", "errorRatio"),
    ("metrics.prometheusRule.firstTokenSeconds=-1", "firstTokenSeconds"),
    ("metrics.prometheusRule.runbookUrl=a page", "runbookUrl"),
    ("metrics.dashboards.folder=x", "folder"),
    ("nodeFailureSeconds=-1", "nodeFailureSeconds"),
    ("access.required=perhaps", "required"),
    ("access.tenants.a.weight=0", "weight"),
    ("access.tenants.a.tokensPerSecond=1", "tokensPerSecond"),
    ("access.issuers[0].issuer=x", "audience"),
    ("access.defaults.kvShare=2", "kvShare"),
    ("networkPolicy=true", "networkPolicy"),
    ("fullnameOverride=UPPER", "fullnameOverride"),
]


@pytest.mark.parametrize(("value", "named"), WRONG, ids=[value for value, _ in WRONG])
def test_a_wrong_value_is_refused_by_name(helm, chart, value, named):
    done = helm("template", "argosy", str(chart), "--kube-version", "1.34", "--set", value)
    assert done.returncode != 0
    assert named in done.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["redis.url=redis://host"], "set valkey.enabled=false to use your own Redis"),
        (["valkey.enabled=false", "redis.url=redis://host", "redis.existingSecret.name=x"], "remove one of them"),
        (["valkey.enabled=false", "redis.url=redis://host:6379/0"], "redis.url has no password"),
        (["redis.sentinels[0]=host:26379"], "redis.sentinels is set without redis.url"),
        (["valkey.enabled=false", "redis.url=redis://user@host"], "redis.url has no password"),
        (["router.picker.inferencePool.enabled=true"], "needs router.picker.enabled"),
        (["router.autoscaling.minReplicas=11"], "minReplicas is 11, more than maxReplicas, which is 10"),
        (
            ["redis.ca=-----BEGIN CERTIFICATE-----x-----END CERTIFICATE-----"],
            "redis.ca is set, but redis.url does not begin with rediss://",
        ),
    ],
)
def test_contradictions_are_refused(helm, chart, values, message):
    given = [word for value in values for word in ("--set", value)]
    done = helm("template", "argosy", str(chart), "--kube-version", "1.34", *given)
    assert done.returncode != 0
    assert message in done.stderr
