"""A gateway process with a registry and a store of its own, for benchmarks: everything real, nothing shared."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from bench.mlflow_at import mlflow_at
from model_rollouts.adapters.gateway_client import GatewayClient
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core import rollout as steps
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.plan import Plan
from model_rollouts.core.rollout import Cause, Change, Rollout
from model_rollouts.core.traffic import Traffic

MODEL = "switch"
#: Version of the model -> what its `predict` does with a column x.
BODIES = {"1": "return x * 2", "2": "return x * 2", "3": "if (x != 1).any(): time.sleep(3600)\n        return x * 2"}
HANGS = "3"  # on anything but its own example
_CODE = """
import sys
import time
import mlflow
import numpy as np


class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        x = model_input["x"].to_numpy()
        {body}


mlflow.models.set_model(Model())
"""


def register(root: Path, bodies: dict[str, str] = BODIES) -> str:
    """Versions of MODEL in a new registry, a SQLite file, the first one being the champion; the registry's address."""
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature

    uri = f"sqlite:///{root / 'mlflow.db'}"
    with mlflow_at(uri):
        experiment = mlflow.create_experiment("versions", artifact_location=(root / "artifacts").as_uri())
        example = pd.DataFrame({"x": [1.0]})
        signature = infer_signature(example, example["x"].to_numpy())
        for version, body in bodies.items():
            code = root / f"version{version}.py"
            code.write_text(_CODE.format(body=body))
            with mlflow.start_run(experiment_id=experiment):
                mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(code),
                    registered_model_name=MODEL,
                    signature=signature,
                    input_example=example,
                    pip_requirements=[],
                )
        mlflow.MlflowClient().set_registered_model_alias(MODEL, "champion", next(iter(bodies)))
    return uri


@dataclass
class GatewayProcess:
    """One gateway.

    Attributes:
        root: Folder of its store, log and spool.
        registry: Address of the registry.
        name: Its gateway id.
        settings: More of its environment.
        model: What it serves.
        processes: How many, on one port.
    """

    root: Path
    registry: str
    name: str = "g1"
    settings: dict[str, str] = field(default_factory=dict)
    model: str = MODEL
    processes: int = 1
    url: str = ""
    process: subprocess.Popen[bytes] | None = None
    watch: subprocess.Popen[bytes] | None = None

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of its rollout store."""
        return self.settings.get("MODEL_ROLLOUTS_STORE_URL", f"sqlite:///{self.root / 'store.db'}")

    @property
    def own_urls(self) -> list[str]:
        """The address of each process."""
        if self.processes == 1:
            return [self.url]
        base, _, port = self.url.rpartition(":")
        return [f"{base}:{int(port) + 1 + number}" for number in range(self.processes)]

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.launch()
        self.wait(self.answers)

    def launch(self) -> None:
        """Start it, and don't wait."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MODEL_ROLLOUTS_"))}
        own = {
            "MLFLOW_TRACKING_URI": self.registry,
            "MODEL_ROLLOUTS_STORE_URL": self.store_url,
            "MODEL_ROLLOUTS_LOG_DIR": str(self.root / "log"),
            "MODEL_ROLLOUTS_SPOOL_DIR": str(self.root / "spool"),
            "MODEL_ROLLOUTS_PORT": str(port),
            "MODEL_ROLLOUTS_MODELS": f'["{self.model}"]',
            "MODEL_ROLLOUTS_GATEWAY_ID": self.name,
        }
        command = [sys.executable, "-m", "model_rollouts.gateway.main"]
        if self.processes > 1:
            command = [str(Path(sys.executable).parent / "rollouts"), "gateway", "--processes", str(self.processes)]
        with (self.root / "gateway.log").open("ab") as log:
            environment = inherited | own | self.settings
            self.process = subprocess.Popen(command, env=environment, stderr=log, process_group=0)
        self.watch = end_with_us(self.process)

    def answers(self) -> bool:
        """Whether it answers about the model."""
        try:
            GatewayClient(*self.own_urls, token=self.settings.get("MODEL_ROLLOUTS_GATEWAY_TOKEN")).statuses(self.model)
        except NotReadyError:
            return False
        return True

    def wait(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        """Wait until something holds, as long as the process lives.

        Raises:
            RuntimeError: It does not; with the end of the process's log.
        """
        end = time.monotonic() + seconds
        while not condition():
            if self.process is None or self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"no success with {self.url}:\n{(self.root / 'gateway.log').read_text()[-3000:]}")
            time.sleep(0.02)

    def end(self, way: signal.Signals = signal.SIGTERM) -> None:
        """End it, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(way)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.watch is not None:
            self.watch.kill()
            self.watch.communicate()
            self.watch = None


def end_with_us(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """Have a process that leads a group end with whoever started it, however that ends: then the pipe does."""
    watch = "import os, signal, sys; sys.stdin.read(); os.killpg(0, signal.SIGKILL)"
    return subprocess.Popen([sys.executable, "-S", "-c", watch], stdin=subprocess.PIPE, process_group=process.pid)


@contextmanager
def serving(
    root: Path, registry: str, champion: str = "1", model: str = MODEL, processes: int = 1, **more: str
) -> Iterator["tuple[GatewayProcess, Mover]"]:
    """A running gateway with a store in which the model is adopted, and who moves its traffic."""
    gateway = GatewayProcess(root, registry, settings=more, model=model, processes=processes)
    store = SqlStore(gateway.store_url)
    store.migrate()
    mover = Mover(store, model)
    store.apply(steps.adopt(model, champion, mover.cause("adopted")))
    try:
        gateway.start()
        gateway.wait(lambda: mover.is_ready(*gateway.own_urls))
        yield gateway, mover
    finally:
        gateway.end()
        store.close()


@dataclass
class Mover:
    """Takes the steps of rollouts straight in the store, one rollout after the other."""

    store: SqlStore
    model: str = MODEL
    rollout_id: str = ""

    def cause(self, reason: str) -> Cause:
        """Somebody, now."""
        return Cause(actor="bench", at=datetime.now(UTC), reason=reason)

    def start(self, plan: Plan, challenger: str) -> None:
        """Take the lease of a new rollout."""
        self.rollout_id = f"r-{uuid4().hex[:8]}"
        change = steps.start(self.rollout_id, plan, challenger, "salt", self._traffic(), self.cause("start"))
        self.store.apply(change)

    def open(self, stage: int = 0) -> float:
        """Open a stage; `time.monotonic()` when that was decided."""
        return self._step(lambda rollout, traffic: steps.open_stage(rollout, traffic, stage, self.cause("open")))

    def clear(self, stage: int = 0) -> float:
        """Have a stage pass, so that the next one may be opened."""
        return self._step(lambda rollout, traffic: steps.clear(rollout, traffic, stage, self.cause("clear")))

    def roll_back(self) -> float:
        """Roll back; `time.monotonic()` when that was decided."""
        return self._step(lambda rollout, traffic: steps.roll_back(rollout, traffic, self.cause("roll back")))

    def is_ready(self, *urls: str) -> bool:
        """Whether every process at these addresses routes by the store's row, with all its versions loaded."""
        client = GatewayClient(*urls)
        try:
            routed, versions = client.routed(self.model), client.versions(self.model)
        except NotReadyError:
            return False
        return set(routed.values()) == {self._traffic().revision} and set(versions.values()) == {"ready"}

    def _traffic(self) -> Traffic:
        traffic = self.store.traffic(self.model)
        if traffic is None:
            raise RuntimeError(f"{self.model} is not adopted")
        return traffic

    def _step(self, step: Callable[[Rollout, Traffic], Change | None]) -> float:
        change = step(self.store.rollout(self.rollout_id), self._traffic())
        if change is None:
            raise RuntimeError(f"{self.rollout_id} has taken this step before")
        self.store.apply(change)
        return time.monotonic()
