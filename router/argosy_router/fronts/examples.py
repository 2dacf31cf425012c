"""A request of each kind that has what such requests may have: the description of the API shows them."""

from typing import Any

_HI = {"role": "user", "content": "Why do ships float?"}
_PARTS = {"role": "user", "content": [{"type": "text", "text": "Why do ships float?"}]}
_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_ABOUT = {"name": "weather", "description": "The weather of a city.", "parameters": _SCHEMA}
_TOOL = {"type": "function", "function": _ABOUT}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Kiel"}'}}
_OLLAMA_CALL = {"function": {"name": "weather", "arguments": {"city": "Kiel"}}}
_CHAT = [
    _PARTS,
    {"role": "assistant", "content": None, "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]
_STREAM = {"stream": True, "stream_options": {"include_usage": True}}

EXAMPLES: dict[str, dict[str, Any]] = {
    "completions": {"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 20, "temperature": 0, **_STREAM},
    "chat": {"model": "smollm2", "messages": _CHAT, "tools": [_TOOL], "max_completion_tokens": 60, **_STREAM},
    "responses": {
        "model": "smollm2",
        "instructions": "Answer in one sentence.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Why do ships float?"}]},
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Kiel"}'},
            {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
        ],
        "tools": [{"type": "function", **_ABOUT, "strict": True}],
        "tool_choice": "none",
        "text": {"format": {"type": "json_schema", "name": "place", "schema": _SCHEMA}},
        "reasoning": {"effort": None},
        "max_output_tokens": 60,
        "stream": True,
        "stream_options": {"include_obfuscation": False},
    },
    "tokenize": {"model": "smollm2", "prompt": "Once upon a time"},
    "detokenize": {"model": "smollm2", "tokens": [6403, 2962]},
    "messages": {
        "model": "smollm2",
        "max_tokens": 60,
        "system": [{"type": "text", "text": "Answer in one sentence.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            _PARTS,
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Kiel"}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}]},
        ],
        "tools": [{"name": "weather", "description": "The weather of a city.", "input_schema": _SCHEMA}],
        "tool_choice": {"type": "none"},
        "thinking": {"type": "disabled"},
        "output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}},
        "stream": True,
    },
    "count_tokens": {"model": "smollm2", "messages": [_HI]},
    "ollama_chat": {
        "model": "smollm2",
        "messages": [
            _HI,
            {"role": "assistant", "content": "", "tool_calls": [_OLLAMA_CALL]},
            {"role": "tool", "tool_name": "weather", "content": "rain"},
        ],
        "tools": [_TOOL],
        "options": {"num_predict": 60, "temperature": 0.2},
    },
    "ollama_generate": {"model": "smollm2", "prompt": "Why do ships float?", "options": {"num_predict": 60}},
    "ollama_show": {"model": "smollm2"},
    "oip_infer": {
        "id": "1",
        "inputs": [
            {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["Once upon a time"]},
            {"name": "sampling_parameters", "shape": [1], "datatype": "BYTES", "data": ['{"max_tokens": 20}']},
        ],
        "outputs": [{"name": "text_output", "parameters": {"binary_data": False}}],
    },
    "oip_generate": {"text_input": "Once upon a time", "parameters": {"max_tokens": 20, "temperature": 0}},
    "oip_index": {"ready": True},
    "embeddings": {"model": "smollm2", "input": ["Why do ships float?", "Hulls push water aside."]},
    "ollama_embed": {"model": "smollm2", "input": ["Why do ships float?"]},
    "ollama_embeddings": {"model": "smollm2", "prompt": "Why do ships float?"},
}
"""By the keys of `bodies.PARSERS`."""
