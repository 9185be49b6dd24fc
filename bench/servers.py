"""What the gateway is measured beside: the same model and body behind other servers, one process each."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.serving import GatewayProcess

ROOT = Path(__file__).resolve().parents[1]
_PEERS = ROOT / ".local" / "bench-peers"
_LITSERVE = "0.2.19"
_PATIENCE = 180.0


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        name: For the table.
        port: Of 127.0.0.1.
        path: Where predictions are asked for.
        group: Its process group.
    """

    name: str
    port: int
    path: str
    group: int

    @property
    def memory_mib(self) -> float:
        """Proportional set size of all its processes: what they share counts once."""
        found = 0
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if os.getpgid(int(entry.name)) == self.group:
                        rollup = (entry / "smaps_rollup").read_text()
                        found += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
                except (ProcessLookupError, FileNotFoundError, PermissionError, StopIteration):
                    continue
        return found / 1024

    def ask(self, body: bytes) -> bytes:
        """One answer."""
        request = urllib.request.Request(  # http to this machine
            f"http://127.0.0.1:{self.port}{self.path}", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            content: bytes = answer.read()
        return content


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(
    name: str, command: Sequence[str], port: int, path: str, body: bytes, log: Path, **more: str
) -> Iterator[Server]:
    """Start a server, wait until it answers the body, and end all its processes afterwards."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MODEL_ROLLOUTS_"))}
    with log.open("ab") as file:
        process = subprocess.Popen(command, env=environment | more, stdout=file, stderr=file, process_group=0, cwd=ROOT)
    server = Server(name, port, path, process.pid)
    try:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                server.ask(body)
                break
            except (OSError, urllib.error.URLError) as error:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{name} does not answer ({error}):\n{log.read_text()[-2000:]}") from error
                time.sleep(0.1)
        yield server
    finally:
        for way in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, way)
                process.wait(15)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def mlflow_serve(model: Path, body: bytes, log: Path) -> AbstractContextManager[Server]:
    """MLflow's own server, one worker."""
    port = free_port()
    tool = Path(sys.executable).parent / "mlflow"
    command = [str(tool), "models", "serve", "-m", str(model), "-p", str(port), "--env-manager", "local", "-w", "1"]
    path = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"  # where it looks for uvicorn
    return running("mlflow models serve", command, port, "/invocations", body, log, PATH=path)


def litserve(model: Path, body: bytes, log: Path) -> AbstractContextManager[Server]:
    """The fastest batching peer of PEERS: LitServe, batches of at most 64 and 5 ms, in an environment of its own."""
    python = _peer_python(f"litserve=={_LITSERVE}")
    port = free_port()
    command = [str(python), str(ROOT / "bench" / "peer_litserve.py"), str(model), str(port)]
    return running(f"LitServe {_LITSERVE}, batching 64 / 5 ms", command, port, "/invocations", body, log)


def limit(name: str, app: str, model: Path, body: bytes, log: Path) -> AbstractContextManager[Server]:
    """One of bench/limits.py under the gateway's own HTTP server."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", f"bench.limits:{app}", "--port", str(port), "--loop", "uvloop"),
        *("--http", "httptools", "--no-access-log", "--log-level", "warning"),
    ]
    return running(name, command, port, "/", body, log, BENCH_MODEL=str(model))


def of_gateway(name: str, gateway: GatewayProcess) -> Server:
    """A gateway that runs already."""
    assert gateway.process is not None  # noqa: S101  # it was started
    port = int(gateway.url.rpartition(":")[2])
    return Server(name, port, f"/models/{gateway.model}/invocations", gateway.process.pid)


def _peer_python(requirement: str) -> Path:
    """A Python with the peer and the model's libraries, in the versions that are measured here."""
    python = _PEERS / "bin" / "python"
    marker = _PEERS / requirement
    if not marker.exists():
        shutil.rmtree(_PEERS, ignore_errors=True)
        uv = Path(sys.executable).parent / "uv"
        subprocess.run([str(uv), "venv", "-q", "--python", sys.executable, str(_PEERS)], check=True)
        pins = [f"{name}=={_version(name)}" for name in ("scikit-learn", "numpy", "scipy", "skops", "cloudpickle")]
        environment = _environment()
        subprocess.run(
            [str(uv), "pip", "install", "-q", "--python", str(python), requirement, *pins], check=True, env=environment
        )
        marker.touch()
    return python


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def _environment() -> Mapping[str, str]:
    return {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
