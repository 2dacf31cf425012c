"""Conversations with tools, rendered as transformers renders them: for a template in the manner of each family."""

import itertools
import json

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from argosy_router.fronts import oai_parse
from argosy_router.text.chat import ChatRenderer
from argosy_router.tools.forms import Form, form_of

TEMPLATES = {
    Form.HERMES: """\
{%- if messages[0].role == 'system' or tools %}
{{- '<|im_start|>system\\n' }}{{ messages[0].content if messages[0].role == 'system' else 'You help.' }}
{%- if tools %}
{{- '\\n# Tools\\n' }}
{%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{{- '<|im_start|>assistant' }}
{%- if m.reasoning_content is defined and m.reasoning_content %}{{- '\\n<think>' + m.reasoning_content + '</think>' }}{%- endif %}
{%- if m.content %}{{- '\\n' + m.content }}{%- endif %}
{%- for call in m.tool_calls or [] %}
{%- set f = call.function if call.function is defined else call %}
{{- '\\n<tool_call>\\n{"name": "' + f.name + '", "arguments": ' }}{{- f.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif m.role == 'tool' %}
{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- elif m.role != 'system' or not loop.first %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and not enable_thinking %}{{- '<think></think>' }}{%- endif %}{%- endif %}""",
    Form.LLAMA: """\
{{- bos_token }}
{%- set ns = namespace(first=true) %}
{%- if tools is not none %}{{- '<|start_header_id|>system<|end_header_id|>\\n\\nEnvironment: ipython\\n' }}
{%- for t in tools %}{{- t | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}{{- '<|eot_id|>' }}{%- endif %}
{%- for m in messages %}
{%- if 'tool_calls' in m and m.tool_calls %}
{%- for call in m.tool_calls %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.function.name + '", "parameters": ' }}
{{- call.function.arguments | tojson }}{{- '}<|eot_id|>' }}
{%- endfor %}
{%- elif m.role == 'tool' or m.role == 'ipython' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
{%- if m.content is mapping or m.content is iterable and m.content is not string %}{{- m.content | tojson }}{%- else %}{{- m.content }}{%- endif %}
{{- '<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}""",
    Form.MISTRAL: """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set rest = messages[1:] %}
{%- else %}{%- set system = '' %}{%- set rest = messages %}{%- endif %}
{%- if tools %}{{- '[AVAILABLE_TOOLS] [' }}{%- for t in tools %}{{- t | tojson }}{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}{{- '][/AVAILABLE_TOOLS]' }}{%- endif %}
{%- for m in rest %}
{%- if m.role == 'user' %}{{- '[INST] ' + (system + '\\n\\n' if loop.first and system else '') + m.content + '[/INST]' }}
{%- elif m.tool_calls is defined and m.tool_calls %}{{- '[TOOL_CALLS] [' }}
{%- for c in m.tool_calls %}{{- {'name': c.function.name, 'arguments': c.function.arguments, 'id': c.id} | tojson }}{%- if not loop.last %}{{- ', ' }}{%- endif %}{%- endfor %}
{{- ']' + eos_token }}
{%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS] {"content": ' + m.content | string | tojson + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}
{%- endfor %}""",
    Form.JSON: """\
{% for d in documents or [] %}[document {{ loop.index }}: {{ d['title'] }}]{{ d['text'] }}
{% endfor %}{% if tools %}[tools]{% for t in tools %}{{ t['function']['name'] }}: {{ t['function'].get('description', '') }} {{ t['function']['parameters'] | tojson }}
{% endfor %}{% endif %}{% for m in messages %}[{{ m['role'] }}]{% if m.get('tool_calls') %}{{ m['tool_calls'][0]['function'] | tojson }}{% else %}{{ m['content'] }}{% endif %}

{% endfor %}{% if add_generation_prompt %}[assistant]{{ style or '' }}{% endif %}""",
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def _tool(name, **properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        "type": "function",
        "function": {"name": name, "description": f"It's {name} <&> ü", "parameters": parameters},
    }


TOOLS = [[], [_tool("add", a={"type": "number"})], [_tool("get_weather", city={"type": "string", "enum": ["Kiel", "東京"]}), _tool("now")]]  # fmt: skip


def _call(name, identity="call00001", **arguments):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


SYSTEM = [[], [{"role": "system", "content": " You are brief. "}]]
HISTORIES = [
    [],
    [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hello, “you” <3"}],
    [
        {"role": "user", "content": "sum?"},
        {"role": "assistant", "content": "", "tool_calls": [_call("add", a=1.5, b=[1, {"x": None}])]},
        {"role": "tool", "content": "3", "tool_call_id": "call00001"},
        {"role": "assistant", "content": "It is 3."},
    ],
    [
        {"role": "user", "content": "weather in 東京?"},
        {"role": "assistant", "content": "", "tool_calls": [
            _call("get_weather", city="東京"), _call("now", "call00002")]},
        {"role": "tool", "content": '{"rain": true}', "tool_call_id": "call00001"},
        {"role": "tool", "content": "12:00", "tool_call_id": "call00002"},
    ],
]  # fmt: skip
LAST = {"role": "user", "content": "and now? {{ x }} {% y %}"}
CONVERSATIONS = [
    {"messages": [*system, *history, LAST], "tools": tools}
    for system, history, tools in itertools.product(SYSTEM, HISTORIES, TOOLS)
] + [
    {"messages": [LAST], "tools": [], "chat_template_kwargs": {"enable_thinking": False, "style": "short"}},
    {
        "messages": [LAST],
        "tools": [],
        "documents": [{"title": "T", "text": "first"}, {"title": "U", "text": "second ✓"}],
    },
    {"messages": [LAST, {"role": "assistant", "content": "x", "reasoning_content": "Hm."}, LAST], "tools": []},
]


@pytest.mark.parametrize("form", Form)
def test_conversations_are_rendered_as_transformers_renders_them(form):
    template = TEMPLATES[form]
    assert form_of(template) is form
    assert len(CONVERSATIONS) >= 20
    renderer, seen = ChatRenderer(template, TOKENS), set()
    for conversation in CONVERSATIONS:
        asked = oai_parse.chat({"model": "m", **conversation})
        text = renderer.render(
            asked.messages, tools=asked.extras.tools, documents=asked.extras.documents, variables=asked.extras.variables
        )
        rendered, _ = render_jinja_template(
            conversations=[[dict(m) for m in asked.messages]],
            tools=conversation["tools"] or None,
            documents=conversation.get("documents"),
            chat_template=template,
            add_generation_prompt=True,
            **TOKENS,
            **conversation.get("chat_template_kwargs", {}),
        )
        assert text == rendered[0]
        seen.add(text)
    assert len(seen) >= 20
