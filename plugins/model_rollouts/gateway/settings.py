"""Settings of the serving process, from the environment (prefix MODEL_ROLLOUTS_)."""

import ipaddress
import socket
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from model_rollouts.core.breaker import failures_to_trip
from model_rollouts.gateway.spool import OnLogFailure
from model_rollouts.gateway.tls import make_context
from model_rollouts.gateway.token_file import read_file
from model_rollouts.gateway.upstream_address import check, check_tokens
from model_rollouts.logs import Format
from model_rollouts.settings import Settings

_MOST_PORT = 65_535
_LEAST_KEY_CHARS = 16  # of the key that hides units
_LEAST_TOKEN_CHARS = 16  # of the testers' token, and of one that others can try to guess


class GatewaySettings(Settings):
    """What one gateway process needs. Every queue, body and folder has a bound."""

    host: str = Field("127.0.0.1", description="Address to listen on; beyond this machine only with a token")
    port: int = Field(8600, ge=1, le=65535, description="Port to listen on")
    models: tuple[str, ...] = Field((), description="Models to adopt and follow; none: follow every model in the store")
    gateway_tokens_file: Path | None = Field(
        None, description="File of tokens with roles, one a line; read again when it changes (rollouts token new)"
    )
    tls_cert_file: Path | None = Field(
        None,
        description="Certificate that callers are shown, PEM, with those between it and its authority: HTTPS alone",
    )
    tls_key_file: Path | None = Field(None, description="The certificate's key, PEM; none: it is in the same file")
    tls_key_password: SecretStr | None = Field(None, description="Password of the key, where it has one")
    default_model: str = Field("", description="Model behind /invocations; empty: the only one that is followed")
    gateway_id: str = Field("", max_length=200, description="Name of this process in the log, the same after restarts")
    unit_columns: dict[str, str] = Field({}, description="Input column that names the unit, for each model")

    poll_seconds: float = Field(0.2, gt=0, le=10, description="Time between looks at the traffic table")
    retry_seconds: float = Field(5.0, gt=0, le=600, description="Wait before a failed load or adoption is tried again")
    challenger_timeout_seconds: float = Field(1.0, gt=0, le=60, description="After this the champion answers instead")
    champion_timeout_seconds: float = Field(10.0, gt=0, le=600, description="After this the call fails")
    mirror_timeout_seconds: float = Field(
        default_factory=lambda values: float(values.get("challenger_timeout_seconds", 1.0)),
        gt=0,
        le=60,
        description="After this a challenger that answers unseen has failed; by default as where callers wait for it",
    )

    max_body_bytes: int = Field(4_194_304, ge=1024, description="Largest request body")
    max_header_bytes: int = Field(
        32_768, ge=1024, le=1_048_576, description="Largest head of a request: its path and its headers"
    )
    max_headers: int = Field(100, ge=10, le=10_000, description="Most headers of a request")
    max_rows: int = Field(10_000, ge=1, description="Most rows in one request")
    max_batch_rows: int = Field(256, ge=1, description="Most waiting rows that are scored in one call")
    max_waiting_rows: int = Field(4_096, ge=1, description="Rows that may wait for one version; more are refused")
    batch_wait_ms: float = Field(
        0.0, ge=0, le=100, description="Under load, how long a call with room waits for more rows; never when idle"
    )
    max_open_requests: int = Field(2_048, ge=1, description="Predictions under way at once; more are told to come back")
    max_connections: int = Field(
        4_096, ge=1, description="Connections of one process at once; more are closed, as are those without a request"
    )
    breaker_failures: int = Field(
        failures_to_trip(),
        ge=0,
        description="Failures of a challenger in a burst that take it out at once; 0: the gates alone judge",
    )
    tester_token: SecretStr | None = Field(
        None,
        description="Who sends it, 16 characters or more, as X-Rollouts-Token may choose the arm with X-Rollouts-Route",
    )
    mirror_queue: int = Field(256, ge=1, description="Requests that may wait to be mirrored; more are dropped")
    max_mirror_bytes: int = Field(67_108_864, ge=1024, description="Bodies that may wait to be mirrored, in all")

    max_memory_mb: int = Field(
        0, ge=0, description="Memory of this process beyond which only champions stay loaded; 0: no bound"
    )
    upstreams: dict[str, str] = Field(
        {},
        description="Versions that have a server of their own: model or model/version -> mlflow+http://host:port or "
        "oip+http://host:port, with {model} and {version}",
    )
    upstream_tokens: dict[str, SecretStr] = Field(
        {}, description="A key of upstreams -> bearer token that the gateway shows the servers named there"
    )
    upstream_calls: int = Field(4, ge=1, le=1_000, description="Calls in flight to one version's server")
    upstream_connect_seconds: float = Field(1.0, gt=0, le=60, description="Time to connect to a version's server")
    upstream_probe_seconds: float = Field(5.0, gt=0, le=600, description="Time between looks at the servers' health")
    max_upstream_bytes: int = Field(16_777_216, ge=1024, description="Largest answer of a version's server")

    log_format: Format = Field("json", description="Of what is logged to standard error")
    spool_dir: Path = Field(Path(".local/spool"), description="Answered rows on their way to the log")
    flush_seconds: float = Field(0.5, gt=0, le=60, description="Time between commits to the log")
    max_spool_bytes: int = Field(1_073_741_824, ge=1_048_576, description="Spool size at which nothing more is taken")
    on_log_failure: OnLogFailure = Field(
        "refuse",
        description="What becomes of answers that can't be logged: refuse (503), or serve them and count their rows. "
        "Outcomes are refused in any case",
    )
    log_features: bool = Field(True, description="Whether the log keeps models' inputs, as columns f_<name>")
    log_features_except: tuple[str, ...] = Field(
        (), description="Inputs that it does not keep: patterns of column or model/column, such as *email*"
    )
    hash_units: bool = Field(False, description="Whether the log has a keyed hash in the place of the unit's name")
    unit_hash_key: SecretStr | None = Field(
        None, description="Key of that hash, 16 characters or more; the same in all gateway processes, and for good"
    )
    processes: int = Field(
        1, ge=1, le=64, description="Processes that share the port; each has port + 1 + i as its own"
    )
    shared_port: int | None = Field(
        None, ge=1, le=65535, description="Port that this process shares with others; `processes` sets it"
    )
    sibling_ids: tuple[str, ...] = Field((), description="Ids of all of them; `processes` sets it")
    drain_notice_seconds: float = Field(
        0.0, ge=0, le=600, description="Time between the first sign of the end (/readyz says 503) and no new requests"
    )
    drain_seconds: int = Field(20, ge=1, le=600, description="Time that open requests get when the process ends")

    @property
    def is_seen_by_others(self) -> bool:
        """Whether other machines reach it."""
        return not _is_loopback(self.host)

    @field_validator("upstreams")
    @classmethod
    def _addresses_of_servers(cls, value: dict[str, str]) -> dict[str, str]:
        check(value)
        return value

    @field_validator("log_features_except")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if blank := [pattern for pattern in value if not pattern.strip() or pattern != pattern.strip()]:
            raise ValueError(f"log_features_except has {blank[0]!r}, must be column names or patterns without blanks")
        return value

    @field_validator("gateway_token")
    @classmethod
    def _some_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().strip():
            raise ValueError("the token is empty; set MODEL_ROLLOUTS_GATEWAY_TOKEN to a random text, or leave it out")
        return value

    @field_validator("tester_token")
    @classmethod
    def _long_token(cls, value: SecretStr | None) -> SecretStr | None:
        size = _LEAST_TOKEN_CHARS if value is None else len(value.get_secret_value().strip())
        if size < _LEAST_TOKEN_CHARS:
            raise ValueError(
                f"the token has {size} characters, must have {_LEAST_TOKEN_CHARS} or more; set a random text, or "
                "leave the variable out if nobody is to choose the arm"
            )
        return value

    @field_validator("gateway_tokens_file")
    @classmethod
    def _tokens(cls, value: Path | None) -> Path | None:
        if value is not None:
            read_file(value)
        return value

    @model_validator(mode="after")
    def _only_safe(self) -> Self:
        if not self.gateway_id:
            self.gateway_id = f"{socket.gethostname()}-{self.port}"
        if self.is_seen_by_others and self.gateway_token is None and self.gateway_tokens_file is None:
            raise ValueError(
                f"host is {self.host}, which others can reach, and there is no token; listen on 127.0.0.1, or set "
                "MODEL_ROLLOUTS_GATEWAY_TOKENS_FILE or MODEL_ROLLOUTS_GATEWAY_TOKEN"
            )
        size = _LEAST_TOKEN_CHARS if self.gateway_token is None else len(self.gateway_token.get_secret_value().strip())
        if self.is_seen_by_others and size < _LEAST_TOKEN_CHARS:
            raise ValueError(
                f"host is {self.host}, which others can reach, and the token has {size} characters, must have "
                f"{_LEAST_TOKEN_CHARS} or more; set MODEL_ROLLOUTS_GATEWAY_TOKEN to a random text, or listen on "
                "127.0.0.1"
            )
        if self.tls_cert_file is not None:
            make_context(self.tls_cert_file, self.tls_key_file, self.tls_key_password)
        elif self.tls_key_file is not None:
            raise ValueError("tls_key_file is set and tls_cert_file is not; set MODEL_ROLLOUTS_TLS_CERT_FILE, too")
        check_tokens(self.upstream_tokens, self.upstreams)
        if self.processes > 1 and self.port + self.processes > _MOST_PORT:
            raise ValueError(
                f"port is {self.port} and processes {self.processes}, so the last one would listen on "
                f"{self.port + self.processes}, must be at most {_MOST_PORT}; set a lower MODEL_ROLLOUTS_PORT"
            )
        key = self.unit_hash_key.get_secret_value() if self.unit_hash_key else ""
        if self.hash_units and len(key) < _LEAST_KEY_CHARS:
            raise ValueError(
                f"hash_units is on and unit_hash_key has {len(key)} characters, must have {_LEAST_KEY_CHARS} or more; "
                "set MODEL_ROLLOUTS_UNIT_HASH_KEY to the same random text in every gateway process"
            )
        if self.default_model and self.models and self.default_model not in self.models:
            raise ValueError(f"default_model is {self.default_model}, must be one of models: {', '.join(self.models)}")
        return self


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
