"""What the pages have their readers say to Helm and kubectl: values that the chart has, files and objects that are there."""

import re
import shlex

import pages
import pytest
import yaml
from pages import PAGES, ROOT

from argosy_api import crd

TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
COMMANDS = [c for page, text in TEXTS.items() for block in pages.blocks(page, text) for c in pages.commands(block)]
COMMANDS += [command for page, text in TEXTS.items() for command in pages.mentions(page, text)]
SPANS = [(page, span) for page, text in TEXTS.items() for span in re.findall(r"`(--set[^`]*)`", text)]
VALUES = yaml.safe_load((ROOT / "charts/argosy/values.yaml").read_text())
SYSTEM = "argosy-system"

VERBS = {"apply", "argosy", "delete", "describe", "drain", "explain", "get", "logs", "plugin", "port-forward", "rollout", "scale", "wait"}  # fmt: skip
KINDS = {"deployment": "Deployment", "service": "Service", "secret": "Secret"}
"""Of the chart's objects, as kubectl takes them."""
OTHERS = {"infd", "crd", "lease", "pods", "node", "nodes", "hpa", "jobs", "resourcequota", "controllerrevisions"}
EXAMPLES = {
    (document["kind"], document["metadata"]["name"])
    for path in (ROOT / "deploy/examples").glob("*.yaml")
    for document in yaml.safe_load_all(path.read_text())
}


def of(program):
    found = [command for command in COMMANDS if command.program == program]
    return pytest.mark.parametrize("command", found, ids=[f"{c.page}:{c.line}-{c.arguments[0]}" for c in found])


def split(arguments, takes):
    """Positional arguments, and options with a value (`takes`) as a list of pairs."""
    rest, given, words = [], [], iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("-"):
            given.append((name, value if equals else next(words, "") if name in takes else ""))
        else:
            rest.append(word)
    return rest, given


@of("helm")
def test_helm_is_given_values_that_the_chart_has(command, helm, tmp_path):
    positional, given = split(command.arguments, {"--namespace", "-n", "--set"})
    verb, *names = positional
    if verb == "template" and not names:
        return
    assert verb in ("install", "upgrade", "uninstall", "test", "rollback")
    assert names[0] == "argosy"
    assert all((ROOT / folder / "Chart.yaml").is_file() for folder in names[1:])
    assert {value for name, value in given if name in ("-n", "--namespace")} == {SYSTEM}
    values = [value for name, value in given if name == "--set"]
    if verb == "upgrade" and values:  # without it all that was set before is forgotten
        assert "--reset-then-reuse-values" in dict(given), str(command)
    rendered(helm, tmp_path, *(word for value in values for word in ("--set", value)))


@pytest.mark.parametrize(("page", "span"), SPANS)
def test_values_in_the_text_are_those_that_the_chart_has(page, span, helm, tmp_path):
    rendered(helm, tmp_path, *shlex.split(span))


def rendered(helm, folder, *options):
    (folder / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
    options = [option.replace("ca.pem", str(folder / "ca.pem")) for option in options]
    if any("redis.ca" in option for option in options):  # it goes with a Redis that has a certificate
        options += ["--set", "valkey.enabled=false,redis.url=rediss://argosy:long-password@redis:6380/0"]
    done = helm("template", "argosy", str(ROOT / "charts/argosy"), "--kube-version", "1.34", *options)
    assert done.returncode == 0, done.stderr


def test_names_of_values_in_the_text_are_the_charts():
    """`router.replicas` and the like; what lies below an open mapping (`nodeSelector`) is anybody's."""
    wrong = []
    for page in ("docs/install.md", "docs/autoscaling.md", "docs/operations.md", "docs/tenants.md", "docs/gateways.md"):
        for span in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)+)(?:[=:][^`]*)?`", TEXTS[page]):
            top, *below = span.split(".")
            at = VALUES.get(top)
            if at is None:
                continue
            for name in below:
                if not isinstance(at, dict) or not at:
                    break
                if name not in at:
                    wrong.append(f"{page}: {span}")
                    break
                at = at[name]
    assert wrong == []


@of("kubectl")
def test_kubectl_is_asked_for_what_there_is(command, render):
    takes = {"-n", "--namespace", "-o", "-f", "-l", "-L", "--tail", "--for", "--timeout", "--replicas"}
    positional, given = split(command.arguments, takes)
    verb, *names = positional
    assert verb in VERBS, str(command)
    for path in (value for name, value in given if name == "-f"):
        assert (ROOT / path).is_file(), str(command)
    for template in (value for name, value in given if name == "-o" and value.startswith("jsonpath=")):
        for path in re.findall(r"\{(?:range )?(\.status[.\w]+)", template):
            assert in_status(path.split(".")[2:]), f"{command}: {path}"
    if verb in ("explain", "plugin") or not names:
        return
    if verb == "rollout":
        names = names[1:]
    if verb in ("logs", "port-forward") and "/" not in names[0]:
        return  # a pod's name
    kind, _, name = names[0].partition("/") if "/" in names[0] else (names[0], "", names[1] if names[1:] else "")
    assert kind in KINDS or kind in OTHERS, str(command)
    if dict(given).keys() & {"-n", "--namespace"} and kind in KINDS:
        made = {(i["kind"], i["metadata"]["name"]) for i in render("router.replicas=1")}
        assert (KINDS[kind], name) in made, str(command)
    if kind == "infd" and name and name != "NAME":
        assert ("InferenceDeployment", name) in EXAMPLES, str(command)


def in_status(path):
    """Whether the definition has such a field in the status."""
    (version,) = crd.crd()["spec"]["versions"]
    at = version["schema"]["openAPIV3Schema"]["properties"]["status"]
    for name in path:
        at = at.get("properties", {}).get(name.removesuffix("[*]"))
        if at is None:
            return False
    return True


def test_a_field_that_the_status_has_not_is_noticed():
    assert in_status(["autoscaling", "decisions"])
    assert not in_status(["autoscaling", "decision"])
