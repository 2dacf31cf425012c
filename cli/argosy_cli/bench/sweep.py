"""The run: level by level, round by round, both servers in turn."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from argosy_cli.bench.figures import Round
from argosy_cli.bench.prompts import prompts
from argosy_cli.bench.server import Sample, Server, Wanted
from argosy_cli.errors import RequestError
from argosy_cli.progress import Told


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked, how often, and how much at once."""

    levels: tuple[int, ...]
    """Requests at once."""
    requests: int | None
    """Of each round; None: two for each of a level's connections, and at least four."""
    rounds: int
    prompt_tokens: int
    shared: float
    """Part of the prompts that is common, 0 to 1."""
    seed: int
    wanted: Wanted

    def count(self, level: int) -> int:
        """Requests of one round."""
        return self.requests or max(4, 2 * level)


@dataclass(slots=True)
class Found:
    """What was measured: the rounds of each level, by server."""

    plan: Plan
    servers: list[Server]
    rounds: dict[int, list[list[Round]]] = field(default_factory=dict)
    """Level to one list of rounds for each server."""


async def sweep(servers: Sequence[Server], plan: Plan, told: Told) -> Found:
    """Measure. The servers are connected.

    Raises:
        RequestError: a server cannot be measured at all, or answered no request of a whole round.

    """
    warm, *_ = prompts(1, tokens=plan.prompt_tokens, shared=plan.shared, seed=plan.seed)
    for server in servers:
        told(f"asking {server.name}", 0.0)
        await server.meet(plan.wanted, warm)
    found = Found(plan, list(servers))
    whole, done = sum(plan.count(level) for level in plan.levels) * plan.rounds * len(servers), 0
    for level in plan.levels:
        rounds: list[list[Round]] = [[] for _ in servers]
        found.rounds[level] = rounds
        for number in range(plan.rounds):
            order = list(range(len(servers)))
            if number % 2:
                order.reverse()  # who comes first has a cooler machine, or a colder one
            for index in order:
                server = servers[index]

                def step(server: Server = server, level: int = level, number: int = number) -> None:
                    nonlocal done
                    done += 1
                    told(f"{server.label}: {level} at once, round {number + 1} of {plan.rounds}", done / whole)

                one = await _round(server, plan, level, part=f"{level} {number}", step=step)
                if all(sample.failure for sample in one.samples):
                    raise RequestError(
                        f"{server.name} answered none of {len(one.samples)} requests, {level} at once: "
                        f"{one.samples[0].failure}"
                    )
                rounds[index].append(one)
    return found


async def _round(server: Server, plan: Plan, level: int, *, part: str, step: Callable[[], None]) -> Round:
    left = prompts(plan.count(level), tokens=plan.prompt_tokens, shared=plan.shared, seed=plan.seed, part=part)
    samples: list[Sample] = []

    async def connection() -> None:
        while left:
            samples.append(await server.ask(plan.wanted, left.pop()))
            step()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(level, len(left))):
            group.create_task(connection())
    return Round(seconds=time.perf_counter() - began, samples=tuple(samples))
