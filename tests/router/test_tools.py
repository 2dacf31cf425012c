"""Tool calls and reasoning out of answers: whole, and cut at every byte, the same."""

import json

import pytest

from argosy_router.tools.forms import Form, Offer, form_of
from argosy_router.tools.parse import Parser

TOOLS = tuple(
    {"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object"}}}
    for name in ("get_weather", "add", "search.web", "no_args")
)
OFFER = Offer(TOOLS)
W = ("get_weather", '{"city": "Kiel"}')
A = ("add", '{"a": 1, "b": [2, {"c": "}\\"{"}]}')
U = ("get_weather", '{"city": "東京 \\u00e9 ☂"}')
N = ("no_args", "{}")


def h(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def j(name, arguments, key="arguments"):
    return f'{{"name": "{name}", "{key}": {arguments}}}'


def p(name, arguments):
    return j(name, arguments, "parameters")


GOLDEN = {
    Form.HERMES: [
        ("Just words, with {braces} and [brackets].", "Just words, with {braces} and [brackets].", []),
        (h(*W), "", [W]),
        (h(*A), "", [A]),
        (h(*U), "", [U]),
        (h(*N), "", [N]),
        (h(*W) + "\n" + h(*A), "", [W, A]),
        (h(*W) + h(*A) + h(*N), "", [W, A, N]),
        ("Let me look.\n" + h(*W), "Let me look.", [W]),
        ("Let me look.\n\n" + h(*W) + "\n" + h(*U) + "\n", "Let me look.", [W, U]),
        (h(*W) + "\nThat is all.", "That is all.", [W]),
        ('<tool_call>{"name":"add","arguments":{"a":1}}</tool_call>', "", [("add", '{"a":1}')]),
        ('<tool_call>\n{"arguments": {"a": 1}, "name": "add"}\n</tool_call>', "", [("add", '{"a": 1}')]),
        ('<tool_call>\n{"name": "no_args"}\n</tool_call>', "", [N]),
        ('<tool_call>\n{"name": "add", "arguments": null}\n</tool_call>', "", [("add", "null")]),
        ('<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>',
         '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>', []),
        ("<tool_call>\nnot json\n</tool_call>", "<tool_call>\nnot json\n</tool_call>", []),
        ("a < b and <tool is no call, nor <tool_cal", "a < b and <tool is no call, nor <tool_cal", []),
        (h(*W)[: -len("\n</tool_call>")], "", [W]),
        (h(*W)[: -len("}\n</tool_call>")], "", [W]),
        ('<tool_call>\n{"name": "add", "arguments": {"a": 1', "", [("add", '{"a": 1')]),
        ('<tool_call>\n{"name": "search.web", "arguments": {"q": "<tool_call>"}}\n</tool_call>', "",
         [("search.web", '{"q": "<tool_call>"}')]),
        ("  \n  leading blanks stay", "  \n  leading blanks stay", []),
    ],
    Form.LLAMA: [
        ("Just words.", "Just words.", []),
        (p(*W), "", [W]),
        (p(*A), "", [A]),
        (p(*U), "", [U]),
        (p(*N), "", [N]),
        (j(*W), "", [W]),
        ("\n" + p(*W), "", [W]),
        ("<|python_tag|>" + p(*W), "", [W]),
        (p(*W) + "; " + p(*A), "", [W, A]),
        (p(*W) + "\n" + p(*A) + "\n" + p(*N), "", [W, A, N]),
        (p(*W) + ";" + p(*W), "", [W, W]),
        ('{"type": "function", "name": "add", "parameters": {"a": 1}}', "", [("add", '{"a": 1}')]),
        ('{"parameters": {"a": 1}, "name": "add"}', "", [("add", '{"a": 1}')]),
        ('{"name": "no_args"}', "", [N]),
        ('{"name": "unknown", "parameters": {}}', '{"name": "unknown", "parameters": {}}', []),
        ('{"answer": 42}', '{"answer": 42}', []),
        ("{ not json", "{ not json", []),
        ("[1, 2, 3]", "[1, 2, 3]", []),
        ('A call is written {"name": "add", "parameters": {}}.', 'A call is written {"name": "add", "parameters": {}}.', []),
        ('{"name": "add", "parameters": {"a": 1', "", [("add", '{"a": 1')]),
        (p(*W) + " And some words.", "And some words.", [W]),
    ],
    Form.MISTRAL: [
        ("Just words.", "Just words.", []),
        (f"[TOOL_CALLS] [{j(*W)}]", "", [W]),
        (f"[TOOL_CALLS][{j(*A)}]", "", [A]),
        (f"[{j(*U)}]", "", [U]),
        (f" [{j(*N)}]", "", [N]),
        (f"[{j(*W)}, {j(*A)}]", "", [W, A]),
        (f"[TOOL_CALLS] [{j(*W)},\n {j(*A)}, {j(*N)}]\n", "", [W, A, N]),
        (j(*W), "", [W]),
        ('get_weather{"city": "Kiel"}', "", [W]),
        ('[TOOL_CALLS]get_weather{"city": "Kiel"}', "", [W]),
        ('[TOOL_CALLS]get_weather[ARGS]{"city": "Kiel"}', "", [W]),
        ('[TOOL_CALLS]get_weather[ARGS]{"city": "Kiel"}[TOOL_CALLS]add[ARGS]' + A[1], "", [W, A]),
        ('search.web{"q": "a{b}c"}', "", [("search.web", '{"q": "a{b}c"}')]),
        ("get_weather is a tool.", "get_weather is a tool.", []),
        ("get", "get", []),
        ("[1, 2, 3]", "[1, 2, 3]", []),
        ("[TOOL_CALLS] nothing", "[TOOL_CALLS] nothing", []),
        ('[{"name": "unknown", "arguments": {}}]', '[{"name": "unknown", "arguments": {}}]', []),
        ('unknown{"a": 1}', 'unknown{"a": 1}', []),
        ('[{"name": "add", "arguments": {"a": 1', "", [("add", '{"a": 1')]),
        ("[ ", "[ ", []),
    ],
    Form.JSON: [
        ("Just words.", "Just words.", []),
        (j(*W), "", [W]),
        (j(*A), "", [A]),
        (j(*U), "", [U]),
        (j(*N), "", [N]),
        (p(*W), "", [W]),
        (f"[{j(*W)}]", "", [W]),
        (f"[{j(*W)}, {j(*A)}]", "", [W, A]),
        (f"[\n  {j(*W)},\n  {j(*A)},\n  {j(*N)}\n]\n", "", [W, A, N]),
        (j(*W) + "\n" + j(*A), "", [W, A]),
        ('{"name":"add","arguments":{}}', "", [("add", "{}")]),
        ('{\n  "name": "add",\n  "arguments": {\n    "a": 1\n  }\n}', "", [("add", '{\n    "a": 1\n  }')]),
        ('{"arguments": {"a": 1}, "name": "add"}', "", [("add", '{"a": 1}')]),
        ('{"id": 7, "name": "add", "arguments": {"a": 1}}', "", [("add", '{"a": 1}')]),
        ('{"name": "add", "arguments": "text"}', "", [("add", '"text"')]),
        ('{"name": "unknown", "arguments": {}}', '{"name": "unknown", "arguments": {}}', []),
        ('{"city": "Kiel"}', '{"city": "Kiel"}', []),
        ("[]", "[]", []),
        ("[[1]]", "[[1]]", []),
        ("{}", "{}", []),
        ('{"name": "add", "arguments": {"a": 1', "", [("add", '{"a": 1')]),
        ('{"name": "ad', '{"name": "ad', []),
    ],
}  # fmt: skip


def read(form, pieces, *, offer=OFFER, **more):
    """(reasoning, content, calls) of a text in pieces; every first part of a call has its name, no other one."""
    parser = Parser(form, offer, **more)
    reasoning = content = ""
    calls = []
    for parts in [*map(parser.push, pieces), parser.finish()]:
        reasoning += parts.reasoning
        content += parts.content
        for part in parts.calls:
            if part.name:
                assert part.number == len(calls)
                calls.append([part.name, ""])
            calls[part.number][1] += part.arguments
    assert parser.calls == len(calls)
    return reasoning, content, [tuple(call) for call in calls]


@pytest.mark.parametrize(
    ("form", "text", "content", "calls"),
    [(form, *case) for form, cases in GOLDEN.items() for case in cases],
    ids=[f"{form}-{i}" for form, cases in GOLDEN.items() for i in range(len(cases))],
)
def test_an_answer_is_read_the_same_however_it_is_cut(form, text, content, calls):
    assert read(form, [text]) == ("", content, calls)
    for cut in range(1, len(text)):
        assert read(form, [text[:cut], text[cut:]]) == ("", content, calls), cut
    assert read(form, list(text)) == ("", content, calls)
    for name, arguments in calls:
        if text.rstrip().endswith(("}", "]", ">", ".")):
            json.loads(arguments)
        assert name in OFFER.names


def test_every_family_has_twenty_conversations():
    assert all(len(cases) >= 20 for cases in GOLDEN.values())


THINKING = [
    ("<think>\nHm.\n</think>\n\nYes.", {"thinks": True}, ("\nHm.\n", "Yes.", [])),
    ("Hm.</think>Yes.", {"thinking": True}, ("Hm.", "Yes.", [])),
    ("  <think></think> " + h(*W), {"thinks": True}, ("", "", [W])),
    ("<think>a</think>First.\n" + h(*W), {"thinks": True}, ("a", "First.", [W])),
    ("<think>never ends, </thin", {"thinks": True}, ("never ends, </thin", "", [])),
    ("No <think> at the beginning.", {"thinks": True}, ("", "No <think> at the beginning.", [])),
    ("<thi", {"thinks": True}, ("", "<thi", [])),
    ("<think>stays</think>", {}, ("", "<think>stays</think>", [])),
    ("<think>" + h(*W) + "</think>no", {"thinks": True}, (h(*W), "no", [])),
]


@pytest.mark.parametrize(("text", "mode", "wanted"), THINKING)
def test_reasoning_is_told_apart_however_it_is_cut(text, mode, wanted):
    assert read(Form.HERMES, [text], **mode) == wanted
    assert read(Form.HERMES, list(text), **mode) == wanted
    for cut in range(1, len(text)):
        assert read(Form.HERMES, [text[:cut], text[cut:]], **mode) == wanted


def test_without_tools_every_text_is_a_text():
    for form, cases in GOLDEN.items():
        for text, _, _ in cases:
            assert read(form, list(text), offer=None) == ("", text, [])
            assert read(form, list(text), offer=Offer(TOOLS, parsed=False)) == ("", text, [])


def test_where_one_call_is_asked_for_the_second_one_is_text():
    one = Offer(TOOLS, several=False)
    assert read(Form.HERMES, [h(*W) + h(*A)], offer=one) == ("", h(*A), [W])
    assert read(Form.JSON, [j(*W) + j(*A)], offer=one) == ("", j(*A), [W])


def test_arguments_go_out_as_they_come():
    parser = Parser(Form.HERMES, OFFER)
    seen = []
    for c in h(*W):
        seen += [(part.name, part.arguments) for part in parser.push(c).calls]
    assert seen[:3] == [("get_weather", ""), ("", "{"), ("", '"')]
    assert len(seen) == 1 + len(W[1])


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{% for m in messages %}<tool_call>{% endfor %}", Form.HERMES),
        ("{{ '[AVAILABLE_TOOLS]' }}{{ '[TOOL_CALLS]' }}", Form.MISTRAL),
        ("{{ '<|python_tag|>' }}", Form.LLAMA),
        ("{{ 'Environment: ipython' }}", Form.LLAMA),
        ("{{ messages[0].content }}", Form.JSON),
    ],
)
def test_the_form_is_told_by_the_template(template, form):
    assert form_of(template) is form
