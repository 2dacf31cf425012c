"""What tests of the engine share."""

from argosy_api.params import SamplingParams
from argosy_worker.core.batch import Finished

GREEDY = SamplingParams(temperature=0, max_tokens=20)
PROMPT = list(b"the quick brown fox jumps over the lazy dog, twice")


async def collect(stream):
    return [chunk async for chunk in stream]


def tokens_of(chunks):
    return [token for chunk in chunks for token in chunk.tokens]


class Faulty:
    """A runner that does what `fault` says before the real one computes."""

    def __init__(self, real):
        self.real = real
        self.fault = lambda batch: None

    def launch(self, batch):
        changed = self.fault(batch)
        return self.real.launch(batch) if changed is None else Finished(changed)
