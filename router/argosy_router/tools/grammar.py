"""The grammar of an answer that must call a tool: its calls, and nothing else."""

import json

from argosy_api.structured.constraint import Constraint, Kind, make
from argosy_api.structured.lark import json_rule
from argosy_router.tools.forms import Form, Offer

_AROUND = {
    Form.HERMES: ('"<tool_call>\\n" ', ' "\\n</tool_call>"', '"\\n"'),
    Form.LLAMA: ("", "", '"; "'),
    Form.MISTRAL: ("", "", '", "'),
    Form.JSON: ("", "", '", "'),
}
"""What stands before a call, after it, and between two."""
_ARRAYS = (Form.MISTRAL, Form.JSON)


def constraint(offer: Offer, form: Form) -> Constraint:
    """One call of one of `offer.must`, or several.

    Raises:
        InvalidArgumentError: the tools are too large for a constraint.

    """
    before, after, between = _AROUND[form]
    chosen = [tool["function"] for tool in offer.tools if tool["function"]["name"] in offer.must]
    many = f"call ({between} call)*" if offer.several else "call"
    if form in _ARRAYS and offer.several:
        many = f'"[" {many} "]"'
    lines = [f"start: {many}", f"call: {before}({' | '.join(f'tool{i}' for i in range(len(chosen)))}){after}"]
    for i, function in enumerate(chosen):
        head = json.dumps(f'{{"name": {json.dumps(function["name"])}, "{form.arguments}": ')
        # rules of their own, so that a schema refers to its own parts
        lines += [f'tool{i}: {head} args{i} "}}"', f"args{i}: {json_rule(parameters(function))}"]
    return make(Kind.GRAMMAR, "\n".join(lines) + "\n", field="tools")


def parameters(function: dict[str, object]) -> dict[str, object]:
    """The schema of a tool's arguments; a tool without one takes none."""
    found = function.get("parameters")
    if isinstance(found, dict) and found:
        return {"type": "object", **found} if "$ref" not in found else found
    return {"type": "object", "properties": {}, "additionalProperties": False}
