"""Every setting, typed, from the environment (prefix MODEL_ROLLOUTS_)."""

import os
import tempfile
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model_rollouts.core.flavours import OF_MLFLOW, PYTHON, check_names
from model_rollouts.core.plan import Pattern

_POSTGRESQL = ("postgresql://", "postgresql+psycopg://", "postgres://")


class Settings(BaseSettings):
    """Where the parts are. Everything has a default that works on one machine."""

    model_config = SettingsConfigDict(
        env_prefix="MODEL_ROLLOUTS_",
        extra="ignore",
        hide_input_in_errors=True,  # among it are secrets
    )

    store_url: str = Field("sqlite:///.local/rollouts.db", description="SQLAlchemy URL of the rollout store")
    log_dir: Path = Field(Path(".local/log"), description="Root folder of the Delta prediction log")
    log_url: str = Field("", description="Database of the prediction log, postgresql://...; empty: Delta in log_dir")
    log_retention_days: int = Field(
        0, ge=0, le=36_500, description="Days that upkeep keeps of the prediction log; 0: all. What rollouts need stays"
    )
    log_vacuum_hours: int = Field(
        24, ge=1, le=8_760, description="Hours that files stay which are no longer part of a Delta log: readers' time"
    )
    engine: Literal["duckdb", "postgresql", "spark"] = Field(
        "duckdb",
        description="What runs the log's queries: duckdb in this process, postgresql where the log is (log_url), or "
        "spark over the Delta tables",
    )
    query_memory_mb: int = Field(
        1_500,
        ge=256,
        le=1_000_000,
        description="Memory of a query in DuckDB, MB; what does not fit waits in temporary files, where it can",
    )
    spark_master: str = Field("local[*]", min_length=1, description="Spark's master, where the engine is spark")
    batch_url: SecretStr | None = Field(
        None, description="Database of a mapped PostgreSQL table (rollouts compare --mapping), postgresql://..."
    )
    gateway_url: str = Field(
        "http://127.0.0.1:8600",
        description="Where operators reach the gateway: the own address of each process, separated by commas",
    )
    gateway_token: SecretStr | None = Field(
        None,
        description="Token that operators show the gateways; for a gateway itself: a token of every role but tester",
    )
    gateway_ca_file: Path | None = Field(
        None, description="Authorities that the gateways' certificates must be of, PEM; none: those of the system"
    )
    mlflow_tracking_uri: str = Field(
        "http://127.0.0.1:5000",
        description="MLflow server with the registry",
        validation_alias=AliasChoices("MODEL_ROLLOUTS_MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_URI"),
    )
    flavours: tuple[str, ...] = Field(
        (*OF_MLFLOW, PYTHON),
        description="MLflow flavours that are loaded, sklearn or sklearn:skops; python_function is a model's own code",
    )
    mlflow_ui_url: str = Field("", description="MLflow's address for links, when a browser needs another one")
    sync_stages: bool = Field(False, description="Also move registry stages, for teams still on stages")
    log_format: Literal["json", "text"] | None = Field(
        None,
        description="What the gateway and the command line log to standard error: json, one object a line, or text; "
        "left out: json for the gateway, and text for people",
    )
    scratch_dir: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()) / f"model-rollouts-{os.getuid()}",
        description="Folder of this machine and user for sums over units between looks; made again when it is lost",
    )
    expectations_dir: Path = Field(Path("expectations"), description="Great Expectations suites, as JSON")
    data_check_rows: int = Field(
        5_000_000,
        ge=1_000,
        description="Most rows that data checks look at; beyond, a sample of requests: 5 s a million",
    )
    watch_threads: int = Field(
        4, ge=2, le=8, description="Looks that one triggerer makes at once; each takes a query's memory while it counts"
    )
    reports_dir: Path = Field(Path("reports/out"), description="Scratch folder for reports before upload")
    evidently_workspace: str = Field(
        "", description="Folder of an Evidently workspace that gets each stage's drift (`evidently ui --workspace`)"
    )
    airflow_url: str = Field("", description="Airflow's API server, asked to run the DAGs of data rollbacks")
    airflow_token: SecretStr | None = Field(
        None, description="Bearer token of Airflow's API; or give user and password"
    )
    airflow_user: str = Field("", description="User of Airflow's API, with the right to trigger those DAGs")
    airflow_password: SecretStr | None = Field(None, description="The user's password")
    undo_allowed: tuple[str, ...] = Field(
        ("dag:*", "delta_restore:*"),
        description="What data rollbacks may do, as patterns of kind:target; functions only where they are named here",
    )
    metrics_token: SecretStr | None = Field(
        None, description="Bearer token of `rollouts metrics --port`, 16 characters or more; needed beyond this machine"
    )
    notify_url: SecretStr | None = Field(None, description="Webhook that is told of everything that happens")
    notifiers: SecretStr = Field(
        SecretStr(""), description="Airflow notifiers as a JSON list; see model_rollouts/operators/notify.py"
    )
    watched_models: str = Field(
        "", description="Registered models whose changes start rollouts, separated by commas; empty: all of them"
    )
    registry_poll_seconds: float = Field(10, ge=1, le=3600, description="Time between two looks at the registry")
    default_pattern: Pattern = Field(
        Pattern.CANARY, description="What a registry change starts where neither version nor model names a pattern"
    )
    webhook_secret: SecretStr | None = Field(
        None, description="Secret of MLflow's webhook, 16 characters or more; without one the receiver takes nothing"
    )

    @field_validator("flavours")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_names(value)
        return value

    @field_validator("log_url")
    @classmethod
    def _database(cls, value: str) -> str:
        if value and not value.startswith(_POSTGRESQL):
            raise ValueError(
                f"log_url begins with {value.partition(':')[0][:20]!r}, must be postgresql://...; "
                "leave it empty for Delta tables in log_dir"
            )
        return value

    @field_validator("batch_url")
    @classmethod
    def _warehouse(cls, value: SecretStr | None) -> SecretStr | None:
        url = value.get_secret_value() if value else ""
        if url and not url.startswith(_POSTGRESQL):
            raise ValueError(
                "batch_url is of another scheme, must be postgresql://..., postgresql+psycopg://... or postgres://...; "
                "it is not shown, as there may be a password in it"
            )
        return value

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.engine == "postgresql" and not self.log_url:
            raise ValueError(
                "engine is postgresql and log_url is empty: the queries run where the log is; set "
                "MODEL_ROLLOUTS_LOG_URL=postgresql://..., or MODEL_ROLLOUTS_ENGINE=duckdb or spark for Delta tables"
            )
        if self.engine == "spark" and self.log_url:
            raise ValueError(
                "engine is spark and log_url is set: Spark reads Delta tables only; unset MODEL_ROLLOUTS_LOG_URL, or "
                "set MODEL_ROLLOUTS_ENGINE=postgresql or duckdb for a log in PostgreSQL"
            )
        return self

    @field_validator("gateway_url")
    @classmethod
    def _addresses(cls, value: str) -> str:
        urls = [part.strip().rstrip("/") for part in value.split(",")]
        for url in urls:
            if not _is_address(url):
                raise ValueError(
                    f"gateway_url has {url!r}, must be addresses such as http://gateway-1:8600, separated by commas"
                )
        if len(set(urls)) != len(urls):
            raise ValueError(f"gateway_url is {value!r}, must name each gateway process once")
        return ",".join(urls)

    @property
    def gateway_urls(self) -> tuple[str, ...]:
        """The address of each gateway process."""
        return tuple(self.gateway_url.split(","))


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # no number, or none of a port
        return False
    plain = not (parts.query or parts.fragment or parts.username or parts.password) and " " not in url
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and plain
