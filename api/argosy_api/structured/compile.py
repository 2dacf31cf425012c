"""Grammars of constraints, by llguidance (docs/adr/0002-structured-output.md says why by this one).

Only processes that compile import this: workers, and the router's child process that tries a constraint out before
any worker sees it. Both compile the same text with the same limits and the same vocabulary.
"""

import json
import re
from collections.abc import Sequence

import llguidance
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from argosy_api.errors import InvalidArgumentError
from argosy_api.faults import is_fault
from argosy_api.structured.constraint import Constraint, Kind
from argosy_api.structured.lark import json_rule

_OPTIONS = '%llguidance {"no_forcing": true}\n'
"""Any spelling of a text in tokens is allowed, as the model likes; else masks would hold the tokenizer's own one alone
where the text is certain, which takes time by its length in each step."""
_LIMITS = llguidance.LLParserLimits(
    max_items_in_row=4000,
    initial_lexer_fuel=300_000,
    step_lexer_fuel=50_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)
_SHOWN = 300
_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
"""How a rule of GBNF begins, and none of Lark."""


def vocabulary(tokenizer_json: bytes, vocab_size: int, ends: Sequence[int]) -> llguidance.LLTokenizer:
    """The tokens that grammars are about. Takes some tenths of a second, which hold the interpreter.

    Raises:
        InvalidArgumentError: the library cannot use this model's tokenizer.

    """
    if not ends:
        raise InvalidArgumentError("constraint", "cannot be kept to: the model has no token that ends an answer")
    try:
        return llguidance.LLTokenizer(tokenizer_json.decode(), n_vocab=vocab_size, eos_token=list(ends))
    except BaseException as error:  # the library raises ValueError, and panics
        if not is_fault(error):
            raise
        problem = f"cannot be kept to with this model's tokenizer: {str(error)[:_SHOWN]}"
        raise InvalidArgumentError("constraint", problem) from error


def grammar(constraint: Constraint) -> str:
    """The constraint in the library's language, Lark with schemas in it.

    Raises:
        InvalidArgumentError: a grammar in GBNF that is none.

    """
    value = constraint.value
    match constraint.kind:
        case Kind.JSON_SCHEMA:
            return f"{_OPTIONS}start: {json_rule(json.loads(value))}\n"
        case Kind.REGEX:
            pattern = llguidance.regex_to_lark(value, "dw").replace("\n", "\\n")
            return f"{_OPTIONS}start: /{pattern}/\n"
        case Kind.CHOICE:
            return f"{_OPTIONS}start: CHOICE\nCHOICE: {' | '.join(map(json.dumps, json.loads(value)))}\n"
        case Kind.GRAMMAR:
            return _OPTIONS + (_from_gbnf(value) if _GBNF.search(value) else value)


def matcher(tokens: llguidance.LLTokenizer, constraint: Constraint) -> llguidance.LLMatcher:
    """What follows an answer step by step. Takes a millisecond for most constraints; others run meanwhile.

    Raises:
        InvalidArgumentError: the library refuses the constraint, and says why.

    """
    made = llguidance.LLMatcher(tokens, grammar(constraint), log_level=0, limits=_LIMITS)
    problem = made.get_error()
    if not problem:
        made.compute_bitmask()  # some limits are met at the first token only
        problem = made.get_error()
    if problem:
        raise InvalidArgumentError("constraint", f"cannot be kept to: {_first_line(problem)}")
    return made


def _from_gbnf(text: str) -> str:
    try:
        return str(gbnf_to_lark(text))
    except (ValueError, LookupError, RecursionError, AttributeError, TypeError, GbnfToLarkError) as error:
        raise InvalidArgumentError("constraint", f"is no grammar: {str(error)[:_SHOWN]}") from None


def _first_line(problem: str) -> str:
    """Without the place in the text that was made of the constraint, which no caller knows."""
    lines = problem.strip().split("\n")
    reasons = [line for line in lines[1:] if line.startswith("error: ")]
    line = " ".join([lines[0].partition("failed to compile JSON schema: ")[2] or lines[0], *reasons])
    return line[:_SHOWN]
