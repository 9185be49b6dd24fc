"""The parts of the demo beside Airflow: MLflow, the versions, the gateway, the traffic."""

import json
import sys
import urllib.request

from demo.config import CHAMPION, LABEL_DELAY_SECONDS, MODEL, REPO, START_SECONDS, TRAIN_SECONDS, DemoConfig
from demo.databases import kept_database
from demo.processes import Processes, Service, answers
from demo.progress import Progress

_PROJECT = REPO / "mlflow" / "flights"


def start_mlflow(config: DemoConfig, processes: Processes, progress: Progress) -> Service:
    """Start the tracking server and wait until it answers."""
    home = config.home / "mlflow"
    home.mkdir(parents=True, exist_ok=True)
    database = home / "mlflow.db"
    with progress.step("MLflow"), kept_database(database, "mlflow", config.cache):  # else the server makes it
        service = processes.start(
            "mlflow",
            [
                *(sys.executable, "-m", "mlflow", "server"),
                *("--host", "127.0.0.1", "--port", str(config.mlflow_port), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{database}"),
                *("--serve-artifacts", "--artifacts-destination", str(home / "artifacts")),
            ],
            # Its job runner would be four more processes, for features that nothing here uses.
            env={**config.environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            cwd=home,
        )
        service.wait_until(lambda: answers(f"{config.mlflow_url}/health"), "answer", START_SECONDS)
    return service


def train(config: DemoConfig, processes: Processes, progress: Progress) -> None:
    """Train and register the champion and the challengers, as an MLflow project in this environment."""
    variants = ",".join(config.variants)
    with progress.step("training"):
        command = [
            *(sys.executable, "-m", "mlflow", "run", str(_PROJECT), "--env-manager", "local", "-e", "all"),
            *("-P", f"variants={variants}", "-P", f"name={MODEL}", "-P", f"alias={CHAMPION}"),
        ]
        env = {**config.environment(), "OMP_NUM_THREADS": "2"}
        processes.start("training", command, env=env, cwd=config.home).finish(TRAIN_SECONDS)


def prepare_replay(config: DemoConfig, processes: Processes, progress: Progress) -> None:
    """Write the traffic months as requests, once."""
    sources = [*_PROJECT.glob("*.py")]
    if config.replay.exists() and config.replay.stat().st_mtime > max(s.stat().st_mtime for s in sources):
        return
    with progress.step("traffic data"):
        command = [sys.executable, str(_PROJECT / "replay.py"), "--out", str(config.replay)]
        processes.start("replay", command, env=config.environment(), cwd=config.home).finish(TRAIN_SECONDS)


def start_gateway(config: DemoConfig, processes: Processes) -> Service:
    """Start the gateway; it follows the model as soon as the registry has a champion."""
    own = {
        "MODEL_ROLLOUTS_HOST": "127.0.0.1",
        "MODEL_ROLLOUTS_PORT": str(config.gateway_port),
        "MODEL_ROLLOUTS_MODELS": json.dumps([MODEL]),
        "MODEL_ROLLOUTS_SPOOL_DIR": str(config.home / "spool"),
        "MODEL_ROLLOUTS_RETRY_SECONDS": "1",
    }
    command = [sys.executable, "-m", "model_rollouts.gateway.main"]
    return processes.start("gateway", command, env={**config.environment(), **own}, cwd=config.home, grace=25.0)


def wait_for_gateway(config: DemoConfig, gateway: Service, progress: Progress) -> None:
    """Wait until the champion is loaded."""
    with progress.step("gateway"):
        gateway.wait_until(lambda: _champion_is_ready(config), "ready champion", START_SECONDS)


def start_traffic(config: DemoConfig, processes: Processes) -> Service:
    """Start the load client."""
    command = [
        *(sys.executable, "-m", "demo.traffic", "--gateway", config.gateway_url, "--model", MODEL),
        *("--replay", str(config.replay), "--rate", str(config.rate)),
        *("--label-delay", *map(str, LABEL_DELAY_SECONDS), "--report", str(config.home / "traffic.json")),
    ]
    return processes.start("traffic", command, env=config.environment(), cwd=REPO)


def _champion_is_ready(config: DemoConfig) -> bool:
    try:
        with urllib.request.urlopen(f"{config.gateway_url}/models/{MODEL}/status", timeout=5) as answer:  # noqa: S310
            status = json.load(answer)
    except (OSError, ValueError):
        return False
    return bool(status.get("versions", {}).get(status.get("champion")) == "ready")
