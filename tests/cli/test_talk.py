"""The lines of a conversation that are for the command and not for the model."""

import pytest

from argosy_api.params import SamplingParams
from argosy_cli.talk import LeaveError, Talk, Turn


@pytest.fixture
def talk():
    return Talk("m", SamplingParams(), said=[Turn("user", "a"), Turn("assistant", "b")])


@pytest.mark.parametrize("line", ["/bye", "/exit", "/quit", " /bye "])
def test_leaving(talk, line):
    with pytest.raises(LeaveError):
        talk.command(line)


def test_every_command_is_in_the_help(talk):
    for name in ("/bye", "/clear", "/system", "/set", "/show", '"""', "Ctrl-C"):
        assert name in talk.command("/help")
    assert talk.command("/?") == talk.command("/help")


def test_forgetting_keeps_what_the_model_is_told_first(talk):
    talk.command("/system Be  brief.")
    assert talk.turns == [Turn("system", "Be  brief."), Turn("user", "a"), Turn("assistant", "b")]
    talk.command("/clear")
    assert talk.turns == [Turn("system", "Be  brief.")]
    talk.command("/system")
    assert talk.turns == []


@pytest.mark.parametrize(
    ("line", "says", "sampling"),
    [
        ("/set temperature 0.5", "temperature is 0.5", SamplingParams(temperature=0.5)),
        ("/set top_k 40", "top_k is 40", SamplingParams(top_k=40)),
        ("/set seed 7", "seed is 7", SamplingParams(seed=7)),
        ("/set temperature -1", "temperature: is -1.0", SamplingParams()),
        ("/set temperature warm", "temperature: 'warm' is no number", SamplingParams()),
        ("/set top_k 1.5", "top_k: '1.5' is no number", SamplingParams()),
        ("/set stop x", "stop cannot be set; it can be temperature", SamplingParams()),
        ("/set", "nothing cannot be set", SamplingParams()),
        ("/set temperature", "temperature: '' is no number", SamplingParams()),
    ],
)
def test_settings(talk, line, says, sampling):
    assert talk.command(line).startswith(says)
    assert talk.sampling == sampling


def test_what_is_no_command_is_told(talk):
    assert talk.command("/helo").startswith("/helo is no command; /help lists them")
    assert talk.command("/show") == (
        "m: temperature 1.0, top_p 1.0, top_k 0, min_p 0.0, repetition_penalty 1.0, max_tokens 16; 2 messages so far"
    )
