"""A worker's adapters: the list that may change, memory that is bounded, and requests that ask for one."""

import asyncio
from dataclasses import dataclass, field

import grpc
import pytest
from waiting import eventually

from argosy_api import adapters as lists
from argosy_api.blocks import block_ids, root_id
from argosy_api.errors import ModelDownloadError, ModelInvalidError, NotFoundError, OverloadedError
from argosy_api.params import SamplingParams
from argosy_api.resource import AdapterSpec
from argosy_api.v1 import worker_pb2 as pb
from argosy_worker import sim
from argosy_worker.core.batch import Adapter
from argosy_worker.serve import adapters
from argosy_worker.serve.adapters import Adapters, Read, Source

PROMPT = list(b"the quick brown fox jumps over the lazy dog, twice")


def spec(name, uri=""):
    return AdapterSpec(name=name, uri=uri or f"sim://{name}")


@dataclass
class Shelf:
    """Adapters by address, of a size each; what is not there cannot be read."""

    sizes: dict
    errors: dict = field(default_factory=dict)
    read: list = field(default_factory=list)

    def __call__(self, wanted):
        self.read.append(wanted.name)
        if wanted.uri in self.errors:
            raise self.errors[wanted.uri]
        return Read(sim.SimAdapter(f"d-{wanted.uri}"), self.sizes.get(wanted.uri, 1))


@dataclass
class Told:
    states: list = field(default_factory=list)

    def __call__(self, states):
        self.states = list(states)

    @property
    def phases(self):
        return {state.name: state.phase for state in self.states}


@pytest.fixture
def make(tmp_path):
    def made(shelf, budget=None):
        told, file = Told(), tmp_path / "adapters.json"
        kept = Adapters(Source(shelf, budget), file, told)

        async def listed(*wanted):
            file.write_text(lists.to_json(wanted))
            await kept.look()

        return kept, told, listed

    return made


async def test_without_a_list_there_are_none(make):
    kept, told, _ = make(Shelf({}))
    await kept.look()
    assert (kept.served, told.states) == ({}, [])
    async with kept.using("") as found:
        assert found is None


async def test_the_list_is_followed(make):
    """What stays is not read again; a name with another address is another adapter."""
    shelf = Shelf({})
    kept, told, listed = make(shelf)
    await listed(spec("a"), spec("b"))
    assert kept.served == {"a": "d-sim://a", "b": "d-sim://b"}
    await listed(spec("b"), spec("a", "sim://a2"))
    assert kept.served == {"b": "d-sim://b", "a": "d-sim://a2"}
    assert [state.name for state in told.states] == ["b", "a"]
    assert shelf.read == ["a", "b", "a"]
    await listed()
    assert (kept.served, told.states) == ({}, [])


async def test_what_cannot_be_read_says_so_and_the_others_are_served(make):
    shelf = Shelf({}, {"sim://bad": ModelInvalidError("tensor 'x' is wrong")})
    kept, told, listed = make(shelf)
    await listed(spec("a"), spec("bad"), spec("c"))
    assert told.phases == {"a": "Ready", "bad": "Failed", "c": "Ready"}
    assert (told.states[1].reason, told.states[1].message) == ("ModelInvalid", "tensor 'x' is wrong")
    assert set(kept.served) == {"a", "c"}


async def test_what_may_pass_is_tried_again(make, monkeypatch):
    shelf = Shelf({}, {"sim://far": ModelDownloadError("no network"), "sim://bad": ModelInvalidError("no")})
    kept, told, listed = make(shelf)
    await listed(spec("far"), spec("bad"))
    monkeypatch.setattr(adapters, "AGAIN_S", 0.0)
    shelf.errors.clear()
    await kept.look()
    assert told.phases == {"far": "Ready", "bad": "Failed"}
    assert shelf.read == ["far", "bad", "far"]


async def test_a_fault_of_a_library_is_the_adapters_own(make):
    _, told, listed = make(Shelf({}, {"sim://odd": RuntimeError("inside")}))
    await listed(spec("odd"), spec("a"))
    assert told.phases == {"odd": "Failed", "a": "Ready"}
    assert "inside" not in told.states[0].message


async def test_a_list_that_is_none_changes_nothing(make, tmp_path):
    kept, _, listed = make(Shelf({}))
    await listed(spec("a"))
    for text in ("{", "[]", '{"adapters": [{"name": "../x", "uri": "sim://x"}]}', "\xff"):
        (tmp_path / "adapters.json").write_text(text, encoding="latin-1")
        await kept.look()
        assert set(kept.served) == {"a"}


async def test_the_least_lately_used_makes_room_and_comes_back(make):
    shelf = Shelf({f"sim://{name}": 10 for name in "abc"})
    kept, told, listed = make(shelf, budget=20)
    await listed(spec("a"), spec("b"))
    async with kept.using("d-sim://a"):
        pass
    await listed(spec("a"), spec("b"), spec("c"))  # b has to go
    assert told.phases == dict.fromkeys("abc", "Ready")
    async with kept.using("d-sim://a"), kept.using("d-sim://c"):
        with pytest.raises(OverloadedError, match=r"engine\.adapterMemory"):
            async with kept.using("d-sim://b"):
                pass
    shelf.read.clear()
    async with kept.using("d-sim://b") as found:
        assert found.digest == "d-sim://b"
    assert shelf.read == ["b"]


async def test_one_that_is_used_stays_when_it_is_no_longer_listed(make):
    """Its requests go on; whoever comes later is told that it is gone once its memory was taken."""
    kept, _, listed = make(Shelf({"sim://a": 10, "sim://b": 10}), budget=10)
    await listed(spec("a"))
    async with kept.using("d-sim://a") as held:
        await listed()
        assert kept.served == {}
        async with kept.using("d-sim://a") as again:
            assert again is held
    await listed(spec("b"))
    with pytest.raises(NotFoundError):
        async with kept.using("d-sim://a"):
            pass


async def test_another_content_at_the_same_address_is_not_passed_off_as_the_same(make):
    shelf = Shelf({"sim://a": 10, "sim://b": 10})
    kept, _, listed = make(shelf, budget=10)
    await listed(spec("a"), spec("b"))
    kept._source = Source(lambda wanted: Read(sim.SimAdapter(f"new-{wanted.uri}"), 10), 10)
    with pytest.raises(NotFoundError, match="another"):
        async with kept.using("d-sim://a"):
            pass


# --- over gRPC


def answer_of(adapter: Adapter | None, count=12):
    params = SamplingParams(temperature=0.0, max_tokens=count)
    return sim.oracle(PROMPT, count, params, adapter="" if adapter is None else adapter.digest)


@pytest.fixture
async def served(make_rig, make):
    kept, _, listed = make(Shelf({}))
    await listed(spec("a"), spec("b"))
    async with make_rig() as rig:
        await rig.serving.open(rig.engine, rig.serving.info, kept)
        yield rig, kept


async def ask(rig, digest, name):
    message = rig.request(PROMPT, name, max_tokens=12)
    message.adapter = digest
    chunks = [chunk async for chunk in rig.stub.Generate(message)]
    return [token for chunk in chunks for token in chunk.token_ids], chunks[-1].usage.cached_tokens


async def test_requests_of_one_step_have_adapters_of_their_own(served):
    rig, kept = served
    digests = ["", *kept.served.values()] * 4
    answers = await asyncio.gather(*(ask(rig, digest, str(i)) for i, digest in enumerate(digests)))
    wanted = [answer_of(sim.SimAdapter(digest) if digest else None) for digest in digests]
    assert [tokens for tokens, _ in answers] == wanted
    assert len({tuple(tokens) for tokens in wanted}) == 3


async def test_cached_blocks_are_of_one_adapter_alone(served):
    """The second request of an adapter finds its prompt; the first of another one does not."""
    rig, kept = served
    full = (len(PROMPT) - 1) // 16 * 16
    for digest in ("", *kept.served.values()):
        assert [(await ask(rig, digest, f"{digest}{i}"))[1] for i in range(2)] == [0, full]
    root = root_id(rig.engine.facts.fingerprint, adapter=kept.served["a"])
    await eventually(lambda: set(block_ids(root, PROMPT)) <= {b for batch in rig.events.after(0) for b in batch.stored})


async def test_the_report_names_them_and_what_is_not_there_is_not_found(served):
    rig, kept = served
    assert dict((await rig.load()).adapters) == kept.served
    message = rig.request(PROMPT, max_tokens=1)
    message.adapter = "nobody"
    code, details = await rig.status_of(message)
    assert code is grpc.StatusCode.NOT_FOUND
    assert "adapter" in details
    assert rig.engine.view.running == 0
    assert pb.Load().adapters == {}
