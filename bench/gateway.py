"""The gateway beside MLflow's server, a batching peer, and the bare limits.

`python -m bench.gateway` (some minutes) writes docs/benchmarks/gateway.md and gateway.svg. The same model, body and
machine for all; the gateway logs every answer. Needs wrk. `--rounds 1 --seconds 3` gives a first look.
"""

import argparse
import json
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import pace
from bench.gateway_page import OUT, write
from bench.gateway_results import (
    ALONE,
    BATCH,
    CONNECTIONS,
    GATEWAY,
    MIRRORED,
    MLFLOW,
    NAMES,
    PARSE,
    PEER,
    TWO,
    Results,
    Window,
)
from bench.mlflow_at import mlflow_at
from bench.servers import Server, limit, litserve, mlflow_serve, of_gateway
from bench.serving import Mover, serving
from bench.switch import SHADOW

MODEL = "bench"
FEATURES = 30
CHECKED = 200


@dataclass(frozen=True)
class Bench:
    """What is served.

    Attributes:
        folder: The model as MLflow saves it.
        registry: Address of a registry with it as versions 1 and 2 of MODEL.
        rows: Inputs.
        answers: The bare model's answers to them.
    """

    folder: Path
    registry: str
    rows: np.ndarray[Any, Any]
    answers: list[int]

    def body(self, index: int = 0) -> bytes:
        """One row as a request."""
        split = {"columns": [f"x{i}" for i in range(FEATURES)], "data": [self.rows[index].tolist()]}
        return json.dumps({"dataframe_split": split}).encode()


def prepare(root: Path) -> Bench:
    """Train, save and register."""
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(7)
    inputs = np.round(rng.normal(size=(2_000, FEATURES)), 6)
    labels = (inputs @ rng.normal(size=FEATURES) + rng.normal(size=len(inputs)) > 0).astype(np.int64)
    frame = pd.DataFrame(inputs, columns=[f"x{i}" for i in range(FEATURES)])
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, labels)
    bare = make_pipeline(StandardScaler(), LogisticRegression()).fit(inputs, labels)
    common = {"signature": infer_signature(frame, labels), "input_example": frame.head(2), "pip_requirements": []}
    folder = root / "model"
    mlflow.sklearn.save_model(fitted, folder, serialization_format="cloudpickle", **common)
    (folder / "bare.pkl").write_bytes(pickle.dumps(bare))
    registry = f"sqlite:///{root / 'mlflow.db'}"
    with mlflow_at(registry):
        experiment = mlflow.create_experiment("bench", artifact_location=(root / "artifacts").as_uri())
        for _ in range(2):
            with mlflow.start_run(experiment_id=experiment):
                mlflow.sklearn.log_model(
                    fitted, name="model", serialization_format="cloudpickle", registered_model_name=MODEL, **common
                )
        mlflow.MlflowClient().set_registered_model_alias(MODEL, "champion", "1")
    return Bench(folder, registry, inputs[:CHECKED], bare.predict(inputs[:CHECKED]).tolist())


def check(server: Server, bench: Bench) -> None:
    """Ask all rows once.

    Raises:
        RuntimeError: An answer is another one than the bare model's.
    """
    for index, expected in enumerate(bench.answers):
        found = json.loads(server.ask(bench.body(index)))["predictions"]
        if found != [expected]:
            raise RuntimeError(f"{server.name} answers {found} to row {index}, must be [{expected}]")


def load(server: Server, body: bytes, connections: int, seconds: float) -> Window:
    """As many requests as that many connections get answered."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        quoted = body.decode().replace("\\", "\\\\").replace("'", "\\'")
        script.write(f"wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = '{quoted}'\n")
        script.flush()
        command = [
            *("wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds:g}s", "--latency", "-s", script.name),
            f"http://127.0.0.1:{server.port}{server.path}",
        ]
        return _read(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _read(output: str) -> Window:
    bad = re.search(r"(Non-2xx.*|Socket errors.*)", output)
    if bad:
        raise RuntimeError(f"requests failed: {bad.group(1)}")
    times = dict(re.findall(r"^\s+(50|99)%\s+(\S+)$", output, re.M))
    rate = re.search(r"Requests/sec:\s+(\S+)", output)
    if rate is None or len(times) != 2:
        raise RuntimeError(f"wrk said:\n{output}")
    return Window(float(rate.group(1)), _ms(times["50"]), _ms(times["99"]))


def _ms(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


@contextmanager
def _gateway(bench: Bench, root: Path, processes: int = 1) -> Iterator[tuple[Server, Mover, Callable[[], None]]]:
    root.mkdir(parents=True, exist_ok=True)
    with serving(root, bench.registry, model=MODEL, processes=processes) as (gateway, mover):
        yield of_gateway(GATEWAY, gateway), mover, lambda: gateway.wait(lambda: mover.is_ready(*gateway.own_urls))


def _others(bench: Bench, root: Path) -> Mapping[str, Callable[[], AbstractContextManager[Server]]]:
    body = bench.body()
    return {
        BATCH: lambda: limit(BATCH, "batch", bench.folder, body, root / "batch.log"),
        PARSE: lambda: limit(PARSE, "parse", bench.folder, body, root / "parse.log"),
        PEER: lambda: litserve(bench.folder, body, root / "peer.log"),
        MLFLOW: lambda: mlflow_serve(bench.folder, body, root / "mlflow.log"),
    }


class Measuring:
    """Everything, in rounds that are interleaved, so that a machine that drifts drifts for all.

    Args:
        bench: What is served.
        root: For logs and spools.
        seconds: Of each window.
    """

    def __init__(self, bench: Bench, root: Path, seconds: float) -> None:
        self._bench = bench
        self._root = root
        self._seconds = seconds
        self._body = bench.body()
        self._others = _others(bench, root)
        self._windows: dict[str, dict[int, list[Window]]] = defaultdict(lambda: defaultdict(list))
        self._memory: dict[str, list[float]] = defaultdict(list)
        self._paced: dict[str, list[pace.Paced]] = defaultdict(list)

    @property
    def results(self) -> Results:
        """What was measured so far."""
        return Results(self._windows, self._memory, self._paced)

    def round(self, number: int, names: Sequence[str]) -> None:
        """Each server once."""
        for name in names:
            if name == GATEWAY:
                with _gateway(self._bench, self._root / f"gateway{number}") as (server, mover, ready):
                    self._closed(name, server)
                    self._at_half(server, mover, ready)
            elif name == TWO:
                with _gateway(self._bench, self._root / f"two{number}", processes=2) as (server, _, ready):
                    ready()
                    self._closed(name, server)
            else:
                with self._others[name]() as server:
                    self._closed(name, server)
            shown = {
                c: f"{w[-1].rate:.0f}/s p50 {w[-1].p50:.2f} p99 {w[-1].p99:.1f}" for c, w in self._windows[name].items()
            }
            print(f"round {number}: {name}: {shown}", flush=True)

    def _closed(self, name: str, server: Server) -> None:
        if name != PARSE:
            check(server, self._bench)
        load(server, self._body, 8, 1.0)
        for connections in CONNECTIONS:
            self._windows[name][connections].append(load(server, self._body, connections, self._seconds))
        if name != GATEWAY:  # the gateway's is asked for with a second version
            self._memory[name].append(server.memory_mib)

    def _at_half(self, server: Server, mover: Mover, ready: Callable[[], None]) -> None:
        rate = self._windows[GATEWAY][CONNECTIONS[-1]][-1].rate / 2
        target = ("127.0.0.1", server.port, server.path, self._body, rate, self._seconds)
        self._paced[ALONE].append(pace.run(*target))
        mover.start(SHADOW, "2")
        ready()
        self._memory[GATEWAY].append(server.memory_mib)
        mover.open()
        ready()
        self._paced[MIRRORED].append(pace.run(*target))


def main() -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", default=",".join(NAMES), help="servers, by name")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not there; install it (apt-get install wrk)")
    began = time.monotonic()
    names = given.only.split(",")
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder:
        root = Path(folder)
        measuring = Measuring(prepare(root), root, given.seconds)
        for number in range(given.rounds):
            measuring.round(number, names)
    if set(names) == set(NAMES):
        write(measuring.results)
        print(f"wrote {OUT}")
    print(f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
