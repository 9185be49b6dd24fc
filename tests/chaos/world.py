"""What the tests of failures share: their size, the versions that fail, a server that can be stopped, the log."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tests.chaos.client import Asked

from bench.servers import free_port
from bench.serving import GatewayProcess, end_with_us
from model_rollouts.adapters.postgres_log import SCHEMA
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.patterns.common import CONTROL_PERCENT
from model_rollouts.core.plan import FULL_SHARE, Pattern, Plan, Stage

#: `make test-chaos`; otherwise the same tests with little of everything.
FULL = os.environ.get("CHAOS") == "full"

#: Name -> what `predict` does with a column x: twice x, or something that can't be mistaken for it. All are well on
#: their own example, which is 1; the client never sends that.
BODIES = {
    "champion": "return x * 2",
    "healthy": "return x * 2",
    "raises": "if ((x % 10 > 3) & (x % 10 < 7)).any(): raise ValueError('three of ten')\n        return x * 2",
    "sleeps": "if (x != 1).any(): time.sleep(10)\n        return x * 2",
    "nan": "return x * 2 if (x == 1).all() else x * np.nan",
    "long": "return x * 2 if (x == 1).all() else [-1.0] * (len(x) + 1)",
    "exits": "if (x != 1).any(): sys.exit(3)\n        return x * 2",
    "grows": "self.kept = [*getattr(self, 'kept', ()), np.ones(655_360)]\n        return x * 2",
    "touchy": "if (x > 1e6).any(): raise ValueError('too much')\n        return x * 2",
}
#: Name -> its number in the registry.
VERSIONS = {name: str(number) for number, name in enumerate(BODIES, 1)}

#: Bound on what callers wait (see `slow`) where nothing but the failure may keep them.
MOST_MS = 400.0

_GATES = (Gate(Metric.ERROR_RATE),)
_BAKE, _DEADLINE = 60.0, 3600.0
_START_SECONDS = 120.0
_SUMMARIES = Path(__file__).resolve().parents[2] / ".local" / "chaos"


def raised(x: float) -> bool:
    """Whether the version `raises` does so on this input."""
    return 3 < x % 10 < 7


def shares(*percent: float) -> Plan:
    """A canary with these shares and nothing to slow it down."""
    control = [CONTROL_PERCENT if share == FULL_SHARE else 0.0 for share in percent]
    stages = [
        Stage(share, _GATES, _BAKE, _DEADLINE, control_percent=each)
        for share, each in zip(percent, control, strict=True)
    ]
    return Plan(Pattern.CANARY, tuple(stages))


def mirrored() -> Plan:
    """All requests of a share of 0 are asked of the challenger, too."""
    return Plan(Pattern.SHADOW, (Stage(0.0, _GATES, _BAKE, _DEADLINE, mirror_percent=100.0),))


def say(name: str, **numbers: Any) -> None:
    """Print what was seen, and keep it under .local/chaos."""
    text = {key: round(value, 3) if isinstance(value, float) else value for key, value in numbers.items()}
    print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in text.items()))
    _SUMMARIES.mkdir(parents=True, exist_ok=True)
    (_SUMMARIES / f"{name}.json").write_text(json.dumps({"full": FULL, **text}, indent=1, default=str) + "\n")


def quantile(values: Iterable[float], q: float) -> float:
    """The smallest value that a share q of the values does not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(q * len(ordered)) - 1]


def p99(asked: Sequence[Asked]) -> float:
    """Of the milliseconds."""
    return quantile((each.ms for each in asked), 0.99)


def slow(asked: Sequence[Asked]) -> float:
    """The milliseconds that are bounded: p99, or p90 where other tests run beside this one."""
    return quantile((each.ms for each in asked), 0.99 if FULL else 0.9)


def failed(asked: Sequence[Asked]) -> list[Asked]:
    """Requests without an answer, or with one that is not 200."""
    return [each for each in asked if not each.answered]


def status(gateway: GatewayProcess) -> Mapping[str, Any]:
    """What the process says of itself."""
    with urllib.request.urlopen(f"{gateway.url}/status", timeout=10) as answer:  # noqa: S310  # our own server
        found: dict[str, Any] = json.load(answer)
    return found


def drained(gateway: GatewayProcess) -> bool:
    """Whether everything that was answered is in the log."""
    seen = status(gateway)
    return bool(seen["spool"]["bytes"] == 0 and seen["mirror"]["waiting"] == 0)


def logged(root: Path, model: str, url: str | None = None) -> pd.DataFrame:
    """The prediction log: a Delta table under a gateway's folder, or in PostgreSQL."""
    columns = ["request_id", "version", "arm", "cohort", "served", "status", "error", "prediction"]
    if url is None:
        from deltalake import DeltaTable

        return DeltaTable(str(root / "log" / model / "predictions")).to_pandas(columns=columns)
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    try:
        table = sa.Table(f"{model}.predictions", sa.MetaData(), schema=SCHEMA, autoload_with=engine)
        with engine.connect() as connection:
            return pd.read_sql(sa.select(*(table.c[name] for name in columns)), connection)
    finally:
        engine.dispose()


@dataclass
class MlflowServer:
    """A real MLflow server over a registry file, which can be stopped and started again on its port."""

    root: Path
    store: str
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    watch: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", "1", "--backend-store-uri", self.store),
            *("--serve-artifacts", "--artifacts-destination", str(self.root / "served")),
        ]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "_MLFLOW_"))}
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        log = self.root / "mlflow-server.log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, cwd=self.root, env=inherited | quiet, stdout=out, stderr=out, process_group=0
            )
        self.watch = end_with_us(self.process)
        until = time.monotonic() + _START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self.url} is not healthy:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:  # noqa: S310  # our own server
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """End it with its workers, if it runs."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        if self.watch is not None:
            self.watch.communicate()
