"""A conversation in a terminal: what was said, how answers are picked, and lines that are for us, not the model."""

from dataclasses import dataclass, field, replace

from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams

HELP = '''/help                 these lines
/bye                  leave (so does Ctrl-D)
/clear                forget what was said
/system TEXT          what the model is told first; without TEXT nothing
/set NAME VALUE       temperature, top_p, top_k, min_p, repetition_penalty, max_tokens or seed
/show                 model and settings
"""                   begins and ends a question of several lines
Ctrl-C                ends an answer'''
_LEAVE = frozenset({"/bye", "/exit", "/quit"})
_WHOLE = frozenset({"top_k", "max_tokens", "seed"})
_SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed")


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


class LeaveError(Exception):
    """Somebody asked to leave."""


@dataclass(slots=True)
class Talk:
    """What a conversation has come to."""

    model: str
    sampling: SamplingParams
    system: str | None = None
    said: list[Turn] = field(default_factory=list)

    @property
    def turns(self) -> list[Turn]:
        """All that the model is told."""
        return ([Turn("system", self.system)] if self.system else []) + self.said

    def command(self, line: str) -> str:
        """Do what a line that begins with a slash asks for, and say what was done.

        Raises:
            LeaveError: it asks to leave.

        """
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if name in _LEAVE:
            raise LeaveError
        if name in {"/help", "/?"}:
            return HELP
        if name == "/clear":
            self.said.clear()
            return "what was said is forgotten"
        if name == "/system":
            self.system = rest or None
            return "the model is told that first" if rest else "the model is told nothing first"
        if name == "/set":
            return self._set(*rest.partition(" ")[::2])
        if name == "/show":
            told = (f"{key} {value}" for key in _SETTINGS if (value := getattr(self.sampling, key)) is not None)
            return f"{self.model}: {', '.join(told)}; {len(self.said)} messages so far"
        return f"{name} is no command; /help lists them, and a blank before it makes it a question"

    def _set(self, name: str, value: str) -> str:
        if name not in _SETTINGS:
            return f"{name or 'nothing'} cannot be set; it can be {', '.join(_SETTINGS)}"
        try:
            number = int(value) if name in _WHOLE else float(value)
            wanted = replace(self.sampling, **{name: number})  # type: ignore[arg-type]  # as the field has it
            wanted.check()
        except InvalidArgumentError as error:
            return error.message
        except ValueError:
            return f"{name}: {value!r} is no number"
        self.sampling = wanted
        return f"{name} is {number}"
