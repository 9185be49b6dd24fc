"""What a query may take, and what is said when that is too little."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.adapters.test_monitoring_drift import WINDOW, rows

from model_rollouts.adapters.delta_files import connect, run_local
from model_rollouts.adapters.delta_schema import table_path
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.log_places import log_appender
from model_rollouts.adapters.query_memory import DEFAULT_MB, limit_memory
from model_rollouts.settings import Settings
from model_rollouts.wiring import Wiring

FAR = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    limit_memory(DEFAULT_MB)


def limit_of_a_query() -> str:
    return str(connect().execute("SELECT current_setting('memory_limit')").fetchall()[0][0])


def test_the_setting_is_what_a_query_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limit_of_a_query() == "1.3 GiB"
    monkeypatch.setenv("MODEL_ROLLOUTS_QUERY_MEMORY_MB", "512")
    Wiring()
    assert limit_of_a_query() == "488.2 MiB"
    for wrong in ("255", "a lot"):
        monkeypatch.setenv("MODEL_ROLLOUTS_QUERY_MEMORY_MB", wrong)
        with pytest.raises(ValueError, match="query_memory_mb"):
            Settings()
    with pytest.raises(ValueError, match="query memory is 0 MB, must be at least 1"):
        limit_memory(0)


def test_what_does_not_fit_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    assert log_appender(tmp_path, "g1").append("m", "predictions", rows(WINDOW, 5), 1)
    where = {"predictions": (table_path(tmp_path, "m", "predictions"), WINDOW[0] - timedelta(days=1), FAR)}
    limit_memory(64)
    with pytest.raises(LogReadError, match=r"does not fit into 64 MB; give it more by MODEL_ROLLOUTS_QUERY_MEMORY_MB"):
        run_local("SELECT len(list(i)) FROM range(20000000) AS t(i), (SELECT 1 FROM {predictions} LIMIT 1)", where, {})
    with pytest.raises(LogReadError, match="query over") as other:
        run_local("SELECT nonsense FROM {predictions}", where, {})
    assert "MEMORY_MB" not in str(other.value)
