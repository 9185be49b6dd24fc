"""What the demo does and with which numbers. Times are short: a flight's label arrives after seconds, not hours."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.cases import CASES, Case, chosen

REPO = Path(__file__).resolve().parent.parent
CACHE = REPO / ".local" / "cache"
MODEL = "flights"
CHAMPION = "champion"

REQUESTS_PER_SECOND = 450.0
LABEL_DELAY_SECONDS = (1.0, 3.0)

# Longest waits, in seconds: generous, since they only matter when something is broken.
START_SECONDS = 240.0
TRAIN_SECONDS = 300.0
ROLLOUT_SECONDS = {"duckdb": 600.0, "postgresql": 900.0, "spark": 2700.0}  # each process that asks Spark starts a Java
SETTLE_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """One run of the demo.

    Attributes:
        cases: Rollouts, in this order.
        keep: Leave everything running at the end, until Ctrl-C.
        mlflow_port: On 127.0.0.1, as the others.
        gateway_port: On 127.0.0.1.
        airflow_port: On 127.0.0.1.
        rate: Requests per second.
        engine: What asks the log; see docs/engines.md.
        log_url: Database of the log; Delta tables in `home` when empty.
        spark_master: Where the engine is spark.
        rollout_seconds: The longest that one rollout may take; 0: what the engine needs.
        home: Everything this run writes; made anew each time.
        cache: What later runs can use again.
    """

    cases: tuple[Case, ...] = CASES
    keep: bool = False
    mlflow_port: int = 5000
    gateway_port: int = 8600
    airflow_port: int = 8080
    rate: float = REQUESTS_PER_SECOND
    engine: str = "duckdb"
    log_url: str = ""
    spark_master: str = "local[2]"
    rollout_seconds: float = 0.0
    home: Path = REPO / ".local" / "demo"
    cache: Path = CACHE

    def __post_init__(self) -> None:
        if self.engine not in ROLLOUT_SECONDS:
            raise ValueError(f"ENGINE is {self.engine!r}, must be one of {', '.join(ROLLOUT_SECONDS)}")
        if not self.rollout_seconds:
            object.__setattr__(self, "rollout_seconds", ROLLOUT_SECONDS[self.engine])
        if not self.cases:
            raise ValueError("no rollout was chosen; see PATTERN and CHALLENGERS")
        ports = {"MLFLOW_PORT": self.mlflow_port, "GATEWAY_PORT": self.gateway_port, "AIRFLOW_PORT": self.airflow_port}
        for name, port in ports.items():
            if not 1 <= port <= 65535:
                raise ValueError(f"{name} is {port}, must be between 1 and 65535")
        if len(set(ports.values())) != len(ports):
            raise ValueError(f"two of {', '.join(f'{name}={port}' for name, port in ports.items())} are the same")

    @property
    def variants(self) -> tuple[str, ...]:
        """Variants to train, each once: the champion and the challengers."""
        return tuple(dict.fromkeys((CHAMPION, *(case.challenger for case in self.cases))))

    @property
    def mlflow_url(self) -> str:
        """Address of MLflow."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def gateway_url(self) -> str:
        """Address of the gateway."""
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def airflow_url(self) -> str:
        """Address of Airflow."""
        return f"http://127.0.0.1:{self.airflow_port}"

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of the rollout store."""
        return f"sqlite:///{self.home / 'rollouts.db'}"

    @property
    def replay(self) -> Path:
        """The traffic, ready to be sent."""
        return self.cache / "flights-replay.tsv"

    def environment(self) -> dict[str, str]:
        """What every process of the demo is told: where the parts are, and to keep to itself."""
        # Each process that asks Spark has a Java of its own, for a minute: it is not to spend that on becoming quick.
        java = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"} if self.engine == "spark" else {}
        return {
            **java,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "MODEL_ROLLOUTS_STORE_URL": self.store_url,
            "MODEL_ROLLOUTS_LOG_DIR": str(self.home / "log"),
            "MODEL_ROLLOUTS_LOG_URL": self.log_url,
            "MODEL_ROLLOUTS_ENGINE": self.engine,
            "MODEL_ROLLOUTS_SPARK_MASTER": self.spark_master,
            "MODEL_ROLLOUTS_GATEWAY_URL": self.gateway_url,
            "MODEL_ROLLOUTS_MLFLOW_TRACKING_URI": self.mlflow_url,
            "MODEL_ROLLOUTS_EXPECTATIONS_DIR": str(REPO / "expectations"),
            "MODEL_ROLLOUTS_REPORTS_DIR": str(self.home / "reports"),
            "MODEL_ROLLOUTS_WATCHED_MODELS": MODEL,
            "MODEL_ROLLOUTS_REGISTRY_POLL_SECONDS": "2",
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "GX_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            # Two cores are shared by everything that runs here; idle spinning threads would take one.
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> DemoConfig:
    """Flags first, then the environment, then the defaults.

    Raises:
        ValueError: A value is out of its bounds; the message states both.
    """
    parser = argparse.ArgumentParser(prog="demo", description="Rollouts of real models under real traffic.")
    parser.add_argument("--pattern", default=environment.get("PATTERN") or "", help="only these, comma-separated")
    parser.add_argument("--challengers", default=environment.get("CHALLENGERS") or "", help="canaries of these")
    parser.add_argument("--keep", action="store_true", default=_truth(environment.get("KEEP", "")))
    for name, default in (("MLFLOW_PORT", 5000), ("GATEWAY_PORT", 8600), ("AIRFLOW_PORT", 8080)):
        flag = f"--{name.lower().replace('_', '-')}"
        parser.add_argument(flag, default=environment.get(name) or default)
    parser.add_argument("--rate", type=float, default=REQUESTS_PER_SECOND, help="requests per second")
    given = parser.parse_args(arguments)
    return DemoConfig(
        cases=chosen(_names(given.pattern), _names(given.challengers)),
        keep=given.keep,
        mlflow_port=_port("MLFLOW_PORT", given.mlflow_port),
        gateway_port=_port("GATEWAY_PORT", given.gateway_port),
        airflow_port=_port("AIRFLOW_PORT", given.airflow_port),
        rate=given.rate,
        engine=environment.get("ENGINE") or "duckdb",
        log_url=environment.get("LOG_URL") or "",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _port(name: str, value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ValueError(f"{name} is {value!r}, must be a number between 1 and 65535") from None


def _truth(value: str) -> bool:
    return value.strip().lower() in {"1", "true", "yes", "on"}
