"""What the pages have their readers type, held against what there is: options, targets, files, fields, values."""

import json
import re
import textwrap
from collections import Counter

import jsonschema
import page_runs
import pages
import pytest
import typer
import yaml
from pages import PAGES, ROOT

from argosy_api import resource
from argosy_cli.main import app

TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
BLOCKS = [block for page, text in TEXTS.items() for block in pages.blocks(page, text)]
COMMANDS = [command for block in BLOCKS for command in pages.commands(block)]
COMMANDS += [command for page, text in TEXTS.items() for command in pages.mentions(page, text)]
VALUES_SCHEMA = json.loads((ROOT / "charts/argosy/values.schema.json").read_text())
EXAMPLE = str(ROOT / "deploy/examples/sim.yaml")
STANDS_FOR = {"FILE": EXAMPLE, "model.yaml": EXAMPLE, "access.yaml": EXAMPLE}
"""Files that a reader has, and the tests have not."""

PAGE = """\
# First
Say `kubectl get infd -A`, or `argosy run x "two words"`; `argosy` alone, `kubectl drain …` and `kvUsage` are none.

<!-- not run: it needs a cloud -->
```bash
make images   # as 'quoted # this' is not a comment
for one in a b; do
  FOO=bar curl -d '{"x":
    1}' http://host/$one | grep -i 'x;y' &
done
KEY=$(kubectl get secret s -o go-template='{{.a | b}}')
helm install a b \\
  --set c=d > out.txt
```
## Second
```console
$ kubectl get infd | jq
{"not": "a command"}
```

    ```yaml
    a: 1
    ```
"""


def test_blocks_have_their_place_and_the_reason_why_they_are_not_run():
    found = pages.blocks("p.md", PAGE)
    assert [(b.line, b.heading, b.language, b.not_run) for b in found] == [
        (6, "First", "bash", "it needs a cloud"), (17, "Second", "console", ""), (22, "Second", "yaml", ""),
    ]  # fmt: skip
    assert found[2].text == "    a: 1\n"


def test_commands_are_split_as_a_shell_does():
    first, second, third = (pages.commands(block) for block in pages.blocks("p.md", PAGE))
    assert [command.words for command in first] == [
        ("make", "images"),
        ("curl", "-d", '{"x":\n    1}', "http://host/$one"),
        ("grep", "-i", "x;y"),
        ("kubectl", "get", "secret", "s", "-o", "go-template={{.a | b}}"),
        ("helm", "install", "a", "b", "--set", "c=d"),
    ]
    assert [command.line for command in first] == [6, 8, 9, 11, 12]
    assert [command.words for command in second] == [("kubectl", "get", "infd"), ("jq",)]
    assert third == []


def test_mentions_are_of_known_programs_with_arguments():
    assert [command.words for command in pages.mentions("p.md", PAGE)] == [
        ("kubectl", "get", "infd", "-A"),
        ("argosy", "run", "x", "two words"),
    ]


def test_a_plug_in_of_kubectl_is_the_command_itself():
    command = pages.Command("p.md", 1, ("kubectl", "argosy", "status", "x"))
    assert (command.program, command.arguments) == ("argosy", ("status", "x"))
    assert pages.Command("p.md", 1, (".venv/bin/python", "x.py")).program == "python"


# --- what the pages say


def of(program):
    found = [command for command in COMMANDS if command.program == program]
    return pytest.mark.parametrize("command", found, ids=[f"{c.page}:{c.line}-{c.words[-1][:20]}" for c in found])


def refusal(arguments, *, whole=True):
    """Why `argosy` would not take these arguments; empty if it would."""
    arguments = [STANDS_FOR.get(word, word) for word in arguments]
    root = typer.main.get_command(app)
    try:
        with root.make_context("argosy", arguments) as context:
            name, command, rest = root.resolve_command(context, [*context._protected_args, *context.args])
            command.make_context(name, rest, parent=context)
    except Exception as error:
        missing = type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError", "BadOptionUsage")
        return "" if missing and not whole else f"{type(error).__name__}: {error}"
    return ""


def test_a_wrong_option_a_missing_argument_and_an_unknown_command_are_noticed():
    assert "No such option" in refusal(["status", "--nothing"])
    assert "MissingParameter" in refusal(["quantize"])
    assert "No such command" in refusal(["sail"])


@of("argosy")
def test_argosy_has_the_command_and_its_options(command):
    if command.arguments[0] == "--install-completion":  # takes effect where it is read
        return
    told = refusal(command.arguments, whole=command.whole)
    assert not told, f"{command}: {told}"


@of("make")
def test_make_has_the_target(command):
    makefile = (ROOT / "Makefile").read_text()
    for target in (word for word in command.arguments if "=" not in word):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), str(command)
    for variable in (word.partition("=")[0] for word in command.arguments if "=" in word):
        assert f"$({variable}" in makefile, str(command)


@of("python")
def test_python_has_the_program(command):
    if command.arguments[0] in ("-c", "-m"):
        return
    path = ROOT / command.arguments[0]
    assert path.is_file(), str(command)
    options = [word.partition("=")[0] for word in command.arguments if word.startswith("--") and word != "--"]
    text = "".join(other.read_text() for other in path.parent.glob("*.py"))  # some share their options
    assert [option for option in options if f'"{option}"' not in text] == [], str(command)


def kinds_of(document):
    """What a YAML document of a page is: a resource, a part of one's spec, values of the chart, or nothing of ours."""
    if "kind" in document:
        return document["kind"]
    if document.keys() <= {"spec"} or document.keys() <= spec_fields():
        return "spec"
    return "values" if document.keys() <= VALUES_SCHEMA["properties"].keys() else "unknown"


def spec_fields():
    return {field.alias or name for name, field in resource.InferenceDeploymentSpec.model_fields.items()}


def problem(document):
    """What is wrong with it; None: nothing, "": nothing is known of its kind."""
    match kinds_of(document):
        case "InferenceDeployment":
            found = resource.examine(document)
        case "spec":
            spec = {"model": {"uri": "hf://org/model@main"}, **document.get("spec", document)}
            head = {"apiVersion": resource.API_VERSION, "kind": resource.KIND, "metadata": {"name": "page"}}
            found = resource.examine({**head, "spec": spec})
        case "values":
            return next((e.message for e in jsonschema.Draft7Validator(VALUES_SCHEMA).iter_errors(document)), None)
        case _:
            return ""
    return str(found[0]) if isinstance(found, list) else None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("spec: {engine: {blockSise: 16}}", "blockSise"),
        ("autoscaling: {minReplicas: 3, maxReplicas: 2}", "maxReplicas"),
        ("router: {replica: 2}", "replica"),
    ],
)
def test_what_is_wrong_in_a_block_is_noticed(text, named):
    assert named in problem(yaml.safe_load(text))


YAML = [block for block in BLOCKS if block.language == "yaml"]


@pytest.mark.parametrize("block", YAML, ids=[f"{b.page}:{b.line}" for b in YAML])
def test_yaml_is_what_the_definition_or_the_chart_takes(block):
    for document in yaml.safe_load_all(textwrap.dedent(block.text)):
        told = problem(document)
        assert told is None or (told == "" and block.not_run), f"{block.page}:{block.line}: {told or 'of what kind?'}"


def test_each_command_of_these_pages_is_run_or_says_why_not():
    """`page_runs` has what is run, where, and what it prints."""
    left_out = {}
    for page in page_runs.PAGES:
        shell = [block for block in BLOCKS if block.page == page and block.script]
        run = {number for number, block in enumerate(shell, 1) if not block.not_run}
        told = {n for where in (page_runs.ON_ONE_MACHINE, page_runs.ON_A_CLUSTER) for p, n in where if p == page}
        assert run == told, page
        left_out[page] = sum(bool(block.not_run) for block in shell)
    assert left_out == page_runs.LEFT_OUT


def test_nothing_that_is_typed_hides_in_a_block_without_a_language():
    hidden = [
        f"{block.page}:{block.line}"
        for block in BLOCKS
        if not block.language and re.match(r"\$ |(argosy|kubectl|helm|make|pip|python) ", block.text)
    ]
    assert hidden == []
    assert not Counter(block.language for block in BLOCKS).keys() - {"", "bash", "console", "yaml", "python", "json"}
