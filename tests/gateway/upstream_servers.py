"""Servers of versions for the tests: MLflow's own, MLServer in an environment of its own, and one that misbehaves."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import _end_group, _end_with_us
from tests.ports import free_port

MODEL = "own-servers"
#: What both real servers do with a row: fail at 13, else say how late and why.
CODE = """
import mlflow
import pandas as pd

class Delays(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        delay = model_input["delay"]
        if (delay == 13).any():
            raise ValueError("13 is unlucky")
        minutes = delay.fillna(0) + (params or {}).get("extra", 0.0)
        night = model_input["at"].dt.hour < 6
        return pd.DataFrame({
            "prediction": [f"{c} {len(b)} {s} {n}" for c, b, s, n in zip(
                model_input["carrier"], model_input["raw"], model_input["seats"], night)],
            "score": minutes,
        })

mlflow.models.set_model(Delays())
"""
#: The same for MLServer, with its own codecs.
SERVED = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, PandasCodec, StringCodec
from mlserver.types import InferenceResponse

class Delays(MLModel):
    async def predict(self, payload):
        frame = self.decode_request(payload, default_codec=PandasCodec)
        if (frame["delay"] == 13).any():
            raise ValueError("13 is unlucky")
        night = [at.hour < 6 for at in frame["at"]]
        answers = [f"{c} {len(b)} {s} {n}" for c, b, s, n in zip(frame["carrier"], frame["raw"], frame["seats"], night)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[
            StringCodec.encode_output("prediction", answers),
            NumpyCodec.encode_output("score", frame["delay"].fillna(0).to_numpy()),
        ])
"""


@contextmanager
def running(command: list[str], folder: Path, ready: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers 200 on `ready`, ended with all it started."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "_MLFLOW_", "MODEL_ROLLOUTS_"))}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=inherited | environment, stdout=log, stderr=subprocess.STDOUT, process_group=0
        )
    watch = _end_with_us(process)
    try:
        end = time.monotonic() + 180
        while not _answers(ready):
            assert process.poll() is None, (folder / "server.log").read_text()[-3000:]
            assert time.monotonic() < end, (folder / "server.log").read_text()[-3000:]
            time.sleep(0.1)  # nothing to wait on yet: the port is not open
        yield process
    finally:
        _end_group(process)
        watch.communicate()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  # our own server on 127.0.0.1
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def mlflow_serves(registry: str, version: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`mlflow models serve` in this environment; its address, and the leader of its group."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{MODEL}/{version}"),
        *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)),
    ]
    # gunicorn and uvicorn are looked for on the path
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with running(command, folder, f"{url}/ping", MLFLOW_TRACKING_URI=registry, PATH=path) as process:
        yield url, process


@contextmanager
def mlserver_serves(folder: Path) -> Iterator[str]:
    """MLServer, which does not share this environment, in one of its own; its address."""
    uv, python = str(Path(sys.executable).parent / "uv"), folder / "venv" / "bin" / "python"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(folder / "venv")], check=True, timeout=120)
    subprocess.run([uv, "pip", "install", "-q", "--python", str(python), "mlserver==1.7.1"], check=True, timeout=240)
    http, grpc, metrics = (free_port() for _ in range(3))
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    (folder / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 0}))
    about = {"name": MODEL, "implementation": "served.Delays", "parameters": {"version": "1"}}
    (folder / "model-settings.json").write_text(json.dumps(about))
    (folder / "served.py").write_text(SERVED)
    url = f"http://127.0.0.1:{http}"
    command = [str(python), "-m", "mlserver.cli.main", "start", "."]
    with running(command, folder, f"{url}/v2/models/{MODEL}/ready", PYTHONPATH=str(folder)):
        yield url


Respond = Callable[[bytes], bytes | Awaitable[bytes]]


class StandIn:
    """A stand-in for a version's server that answers with whatever bytes a test wants."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.hangs_up_after: bytes | None = None  # as uvicorn does after an exception
        self.bodies: list[bytes] = []
        self.heads: list[bytes] = []
        self.connections = 0
        self.url = ""
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = next((int(h[15:]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length:")), 0)
                body = await reader.readexactly(size)
                self.heads.append(head)
                self.bodies += [body] if head.startswith(b"POST") else []
                answer = self.respond(body) if head.startswith(b"POST") else ok(b"")
                content = answer if isinstance(answer, bytes) else await answer
                if not content:
                    return
                writer.write(content)
                await writer.drain()
                if content == self.hangs_up_after:
                    await reader.read(1)  # what comes over this connection is lost
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def hang_up(self) -> None:
        """Close every connection, as a server does with idle ones."""
        for writer in self._writers:
            writer.close()


def ok(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def doubled(body: bytes) -> bytes:
    """What a good server for `dataframe_split` with one column x answers."""
    return ok(json.dumps({"predictions": [row[0] * 2 for row in rows_of(body)]}).encode())


def rows_of(body: bytes) -> list[list[Any]]:
    """Rows of a request in MLflow's protocol."""
    rows: list[list[Any]] = json.loads(body)["dataframe_split"]["data"]
    return rows


@asynccontextmanager
async def stand_in(respond: Respond = doubled) -> AsyncIterator[StandIn]:
    """A running stand-in."""
    server = StandIn(respond)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=2**24)
    host, port = listener.sockets[0].getsockname()
    server.url = f"http://{host}:{port}"
    try:
        yield server
    finally:
        server.hang_up()
        listener.close()
        await listener.wait_closed()
