"""A runner whose steps are computed beside the host, for tests: in order, on a thread of their own."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from argosy_worker.core.batch import PLACEHOLDER, StepBatch


class Beside:
    """Over a runner that computes at once.

    As a device does, it takes the tokens of the step before for placeholders, whatever they are; where that step has
    failed they are 0. `fault(batch)` is called before a step is computed, `at_launch(batch)` as it is launched; what
    they raise is raised where a device would.
    """

    asynchronous = True

    def __init__(self, real):
        self.real = real
        self.fault = self.at_launch = lambda batch: None
        self.sampled = {}
        self.out = self.most_out = self.ahead = self.placeholders = 0
        self._line = ThreadPoolExecutor(max_workers=1)

    def launch(self, batch):
        self.at_launch(batch)
        if batch.slices:
            self.ahead += self.out > 0
            self.out += 1
            self.most_out = max(self.most_out, self.out)
        self.placeholders += sum(PLACEHOLDER in piece.tokens for piece in batch.slices)
        return _Out(self, batch, self._line.submit(self._compute, batch))

    def _compute(self, batch):
        if not batch.slices:
            return self.real.launch(batch).result()
        sampled, self.sampled = self.sampled, {}
        self.fault(batch)
        slices = [
            replace(s, tokens=[sampled.get(s.request_id, 0) if t == PLACEHOLDER else t for t in s.tokens])
            for s in batch.slices
        ]
        outputs = self.real.launch(StepBatch(slices, batch.moves)).result()
        self.sampled = {s.request_id: o.tokens[-1] for s, o in zip(slices, outputs, strict=False) if o.tokens}
        return outputs

    def close(self):
        self._line.shutdown()


class _Out:
    def __init__(self, runner: Beside, batch, future: Future):
        self.runner, self.batch, self.future = runner, batch, future

    def result(self):
        try:
            return self.future.result(30)
        finally:
            self.runner.out -= bool(self.batch.slices)
            self.batch = StepBatch(())
