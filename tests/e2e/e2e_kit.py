"""What the tests on a cluster share: kubectl, ways to the router, resources, and a steady load of streams."""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/argosy"
SYSTEM, RELEASE = "argosy-system", "argosy"


class Kubectl:
    """kubectl in one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def run(self, *arguments: str, stdin: Any = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Exit code and output are the caller's to judge. `stdin`: a text, or an object that goes in as JSON."""
        text = stdin if isinstance(stdin, str) or stdin is None else json.dumps(stdin)
        command = ["kubectl", "--namespace", self.namespace, *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=timeout)

    def __call__(self, *arguments: str, stdin: Any = None, timeout: float = 60) -> str:
        """Standard output of a command that must succeed."""
        done = self.run(*arguments, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """An object or a list of them; None where there is none."""
        text = self("get", *arguments, "--ignore-not-found", "--output=json")
        found = json.loads(text) if text.strip() else None
        return found["items"] if found and "items" in found else found

    def apply(self, *documents: dict[str, Any]) -> None:
        """Apply objects."""
        self("apply", "--filename=-", stdin={"apiVersion": "v1", "kind": "List", "items": list(documents)})

    def patch(self, name: str, spec: dict[str, Any]) -> None:
        """Merge into the spec of an InferenceDeployment."""
        self("patch", "infd", name, "--type=merge", f"--patch={json.dumps({'spec': spec})}")

    def condition(self, name: str, kind: str = "Ready") -> dict[str, Any]:
        """A condition of an InferenceDeployment; {} before there is one about its present spec."""
        found = self.get("infd", name) or {"metadata": {}}
        conditions = found.get("status", {}).get("conditions", [])
        generation = found["metadata"].get("generation")
        return next((c for c in conditions if c["type"] == kind and c["observedGeneration"] == generation), {})

    def is_ready(self, name: str) -> bool:
        """Ready=True, said of the present spec."""
        return self.condition(name).get("status") == "True"

    @contextlib.contextmanager
    def watched(self, kind: str, name: str, path: str) -> Iterator[Callable[[], list[str]]]:
        """What is at a JSONPath, at first and after each change of the object: none is missed, however slow kubectl is."""
        command = [
            "kubectl",
            "--namespace",
            self.namespace,
            "get",
            kind,
            name,
            "--watch",
            f"--output=jsonpath={path}{{'\\n'}}",
        ]
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err)

            def seen() -> list[str]:
                return os.pread(out.fileno(), 1 << 20, 0).decode().split("\n")[:-1]

            try:
                wait_for(f"{kind}/{name} is watched", seen, 30)
                yield seen
            finally:
                process.terminate()
                process.wait(10)

    def workers(self, name: str) -> list[dict[str, Any]]:
        """Worker pods of a resource that are not being deleted."""
        pods = self.get("pods", f"--selector=serving.argosy.dev/name={name}") or []
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def wait_for(
    what: str,
    probe: Callable[[], Any],
    seconds: float = 60,
    every: float = 0.2,
    shown: Callable[[], Any] | None = None,
) -> Any:
    """The first true answer of `probe`; when none comes in time, the last one is in the message, or what `shown` says."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            last = shown() if shown is not None else answer
            raise AssertionError(f"{what}: not within {seconds:.0f} s; the last answer was {last!r}")
        time.sleep(every)


def wait_ready(kubectl: Kubectl, name: str, seconds: float = 120) -> None:
    """Wait until a resource is Ready; its conditions are in the message if it is not."""
    try:
        wait_for(f"infd/{name} is Ready", lambda: kubectl.is_ready(name), seconds)
    except AssertionError as error:
        conditions = (kubectl.get("infd", name) or {}).get("status", {}).get("conditions", [])
        told = "\n".join(f"{c['type']}={c['status']} {c['reason']}: {c['message']}" for c in conditions)
        pods = kubectl.run("get", "pods", "--output=wide").stdout
        raise AssertionError(f"{error}\n{told or 'no conditions'}\n{pods}") from None


def resource(name: str, uri: str = "sim://e2e?decode_ms=5", **spec: Any) -> dict[str, Any]:
    """An InferenceDeployment that is small enough for a cluster on a laptop."""
    small = {"cpu": "50m", "memory": "256Mi"}
    return {
        "apiVersion": "serving.argosy.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"uri": uri}, "resources": small, "drain": {"timeoutSeconds": 20}, **spec},
    }


def image(component: str) -> str:
    """The image that the chart names by default."""
    version = re.search(r'^appVersion: "?([^"\n]+)', (CHART / "Chart.yaml").read_text(), re.MULTILINE)
    assert version
    return f"localhost/argosy-{component}:{version[1]}"


def helm(*arguments: str, binary: str = "helm", timeout: float = 180) -> str:
    """Standard output of a Helm command that must succeed. Of credentials only their own tests want to know."""
    if str(CHART) in arguments and not any("access." in argument for argument in arguments):
        arguments = (*arguments, "--set", "access.required=false")
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False, timeout=timeout)
    assert done.returncode == 0, f"{binary} {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}"
    return done.stdout


def make_namespace(cluster: Kubectl, name: str = "") -> Kubectl:
    """A namespace in which Pod Security `restricted` is enforced; without a name, one that nobody has."""
    name = name or f"argosy-e2e-{uuid.uuid4().hex[:8]}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    made = Kubectl(name)
    wait_for(f"{name} has its service account", lambda: made.get("serviceaccount", "default"))
    return made


# --- ways to a Service ------------------------------------------------------------------------------------------------


def answers(host: str, port: int) -> bool:
    """Somebody accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def reach(kubectl: Kubectl, target: str, port: int) -> Iterator[str]:
    """host:port of a `service/…` or `pod/…`: its own address where this machine has a route, else a port-forward."""
    found = kubectl.get(target.replace("/", " ").split()[0], target.split("/")[1])
    host = found["spec"].get("clusterIP") or found["status"].get("podIP")
    if answers(host, port):
        yield f"{host}:{port}"
        return
    command = ["kubectl", "--namespace", kubectl.namespace, "port-forward", target, f":{port}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        match = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert match, f"port-forward said {line!r}"
        yield f"127.0.0.1:{match[1]}"
    finally:
        process.terminate()
        process.communicate(timeout=10)


# --- load -------------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How one request went."""

    at: float
    seconds: float = 0.0
    worker: str = ""
    text: str = ""
    failure: str = ""


@dataclass
class Load:
    """Streams at a steady rate from a thread of its own, until it is stopped. Nothing is ever tried again."""

    address: str
    model: str
    per_second: float = 5.0
    max_tokens: int = 64
    timeout: float = 90.0
    prompts: int = 7
    """Different ones. With few, a worker that answered them all is where they go for as long as it is idle enough."""
    outcomes: list[Outcome] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(self.timeout + 30)

    def wait_running(self) -> None:
        """Wait for the first answer; what went wrong is in the message when none comes."""
        wait_for("streams run", lambda: self.succeeded_since(0) or len(self.failures) > 20, 60)
        assert self.succeeded_since(0), self.failures[:3]

    @property
    def failures(self) -> list[str]:
        """What went wrong, with the second in which it began."""
        start = self.outcomes[0].at if self.outcomes else 0.0
        return [f"{o.at - start:.1f} s: {o.failure}" for o in self.outcomes if o.failure]

    def succeeded_since(self, moment: float) -> list[Outcome]:
        """Requests begun after this moment (of time.monotonic) that went well."""
        return [o for o in list(self.outcomes) if o.at > moment and o.seconds and not o.failure]

    async def _run(self) -> None:
        # a connection for each request, as from many clients: what is tested is the cluster, not a connection pool
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(total=self.timeout)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            running: set[asyncio.Task[None]] = set()
            number = 0
            due = time.monotonic()
            while not self._stop.is_set():
                task = asyncio.create_task(self._one(session, number))
                running.add(task)
                task.add_done_callback(running.discard)
                number += 1
                due += 1 / self.per_second
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*running)

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        outcome = Outcome(time.monotonic())
        self.outcomes.append(outcome)
        try:
            await self._stream(session, f"Request {number % self.prompts}: tell me about ships.", outcome)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            outcome.failure = f"{type(error).__name__}: {error}"
        outcome.seconds = time.monotonic() - outcome.at

    async def _stream(self, session: aiohttp.ClientSession, prompt: str, outcome: Outcome) -> None:
        body = {
            "model": self.model, "prompt": prompt, "max_tokens": self.max_tokens, "temperature": 0, "stream": True, "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        tokens, ended = None, False
        async with session.post(f"http://{self.address}/v1/completions", json=body) as reply:
            outcome.worker = reply.headers.get("x-argosy-worker", "")
            if reply.status != 200:
                raise ValueError(f"HTTP {reply.status}: {(await reply.text())[:300]}")
            async for line in reply.content:
                data = line.decode().removeprefix("data: ").strip()
                ended = ended or data == "[DONE]"
                if not data or ended:
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise ValueError(f"in the stream: {event['error']}")
                outcome.text += "".join(choice["text"] for choice in event["choices"])
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            if not ended:
                raise ValueError("the stream ended without [DONE]")
        if tokens != self.max_tokens:
            raise ValueError(f"{tokens} tokens came; {self.max_tokens} were asked for")


def same_texts(load: Load) -> bool:
    """Each prompt had one answer: the model is deterministic, whichever worker answered, and through whatever happened."""
    answers: dict[int, set[str]] = {}
    for number, outcome in enumerate(load.outcomes):
        answers.setdefault(number % load.prompts, set()).add(outcome.text)
    return all(len(texts) == 1 for texts in answers.values())
