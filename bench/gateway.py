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
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import pace
from bench.gateway_page import write
from bench.gateway_results import CONNECTIONS, Results, Window
from bench.servers import Server, limit, litserve, mlflow_serve, of_gateway
from bench.serving import Mover, serving
from bench.switch import SHADOW

MODEL = "bench"
FEATURES = 30
CHECKED = 200
GATEWAY, MLFLOW, PEER, PARSE, BATCH = "gateway", "mlflow", "peer", "parse", "batch"


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
    mlflow.set_tracking_uri(registry)
    mlflow.set_registry_uri(registry)
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


def load(servers: Sequence[Server], body: bytes, connections: int, seconds: float) -> Window:
    """As many requests as that many connections get answered; over several servers, dealt evenly."""
    script = tempfile.NamedTemporaryFile("w", suffix=".lua")
    quoted = body.decode().replace("\\", "\\\\").replace("'", "\\'")
    script.write(f"wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = '{quoted}'\n")
    script.flush()
    each = connections // len(servers)
    runs = [
        subprocess.Popen(
            [
                *("wrk", "-t", "1", "-c", str(each), "-d", f"{seconds:g}s", "--latency", "-s", script.name),
                f"http://127.0.0.1:{server.port}{server.path}",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for server in servers
    ]
    windows = [_read(run.communicate()[0]) for run in runs]
    script.close()
    return Window(sum(w.rate for w in windows), max(w.p50 for w in windows), max(w.p99 for w in windows))


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
def _gateway(bench: Bench, root: Path) -> Iterator[tuple[Server, Mover, Callable[[], None]]]:
    root.mkdir(parents=True, exist_ok=True)
    with serving(root, bench.registry, model=MODEL) as (gateway, mover):
        ready: Callable[[], None] = lambda: gateway.wait(lambda: mover.is_ready(gateway.url))  # noqa: E731
        yield of_gateway(GATEWAY, gateway), mover, ready


def _others(bench: Bench, root: Path) -> Mapping[str, Callable[[], AbstractContextManager[Server]]]:
    body = bench.body()
    return {
        BATCH: lambda: limit(BATCH, "batch", bench.folder, body, root / "batch.log"),
        PARSE: lambda: limit(PARSE, "parse", bench.folder, body, root / "parse.log"),
        PEER: lambda: litserve(bench.folder, body, root / "peer.log"),
        MLFLOW: lambda: mlflow_serve(bench.folder, body, root / "mlflow.log"),
    }


def measure(bench: Bench, root: Path, rounds: int, seconds: float, names: Sequence[str]) -> Results:
    """Everything, in rounds that are interleaved so that a machine that drifts drifts for all."""
    windows: dict[str, dict[int, list[Window]]] = defaultdict(lambda: defaultdict(list))
    memory: dict[str, float] = {}
    paced: dict[str, list[pace.Paced]] = defaultdict(list)
    others = _others(bench, root)
    body = bench.body()
    for number in range(rounds):
        for name in names:
            with ExitStack() as stack:
                if name == GATEWAY:
                    server, mover, ready = stack.enter_context(_gateway(bench, root / f"gateway{number}"))
                else:
                    server = stack.enter_context(others[name]())
                if name != PARSE:
                    check(server, bench)
                load([server], body, 8, 1.0)
                for connections in CONNECTIONS:
                    windows[name][connections].append(load([server], body, connections, seconds))
                if name == GATEWAY:
                    rate = windows[name][CONNECTIONS[-1]][-1].rate / 2
                    paced["without"].append(pace.run("127.0.0.1", server.port, server.path, body, rate, seconds))
                    mover.start(SHADOW, "2")
                    ready()
                    memory.setdefault(name, server.memory_mib)
                    mover.open()
                    ready()
                    paced["mirrored"].append(pace.run("127.0.0.1", server.port, server.path, body, rate, seconds))
                else:
                    memory.setdefault(name, server.memory_mib)
            print(
                name,
                {c: f"{w[-1].rate:.0f}/s p50 {w[-1].p50:.2f} p99 {w[-1].p99:.1f}" for c, w in windows[name].items()},
            )
    return Results(windows, memory, paced)


def main() -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", default=",".join([GATEWAY, BATCH, PARSE, PEER, MLFLOW]), help="servers, by name")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not there; install it (apt-get install wrk)")
    began = time.monotonic()
    names = given.only.split(",")
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder:
        root = Path(folder)
        results = measure(prepare(root), root, given.rounds, given.seconds, names)
    if set(names) == {GATEWAY, BATCH, PARSE, PEER, MLFLOW}:
        write(results)
    print(f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
