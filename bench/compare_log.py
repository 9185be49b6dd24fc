"""A synthetic prediction log for `bench/compare.py`: one canary stage, written with Arrow, the same each time."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from model_rollouts.adapters.delta_schema import table_path

MODEL, ROLLOUT, STAGE = "bench", "bench-rollout", 1
START = datetime(2026, 3, 2, tzinfo=UTC)
ROWS_A_DAY = 10_000_000
NUMBERS, TEXTS = 15, 5
FEATURES = [f"f_n{at}" for at in range(NUMBERS)] + [f"f_t{at}" for at in range(TEXTS)]
MATURITY = timedelta(hours=1)
_FILE_ROWS = 1_000_000
_SEED = 20261125
_HOUR = 3_600_000_000
_UNIT_REQUESTS = 20  # on average, so that units come back


@dataclass(frozen=True)
class Made:
    """What was written.

    Attributes:
        root: The log's folder.
        rows: Predictions; about nine of ten have an outcome.
        start: First time.
        end: Time after the last, UTC.
    """

    root: Path
    rows: int
    start: datetime
    end: datetime


def make(root: Path, rows: int, rows_a_day: int = ROWS_A_DAY) -> Made:
    """Write a log: half of the units ask the challenger, which is worse by a little in one corner of the inputs.

    Files have a million rows, in order of time, as they are after upkeep.

    Args:
        root: An empty folder.
        rows: How many predictions.
        rows_a_day: How dense they are.
    """
    span = timedelta(days=rows / rows_a_day)
    predictions, outcomes = (table_path(root, MODEL, name) for name in ("predictions", "outcomes"))
    for asked, known in _parts(rows, span):
        write_deltalake(predictions, asked, mode="append", partition_by=["day"])
        write_deltalake(outcomes, known, mode="append", partition_by=["day"])
    return Made(root, rows, START, START + span)


def bytes_of(made: Made) -> int:
    """Size of the log's files."""
    return sum(
        file.stat().st_size
        for name in ("predictions", "outcomes")
        for file in map(Path, DeltaTable(str(table_path(made.root, MODEL, name))).file_uris())
    )


def _parts(rows: int, span: timedelta) -> Iterator[tuple[pa.Table, pa.Table]]:
    us_a_row = span / timedelta(microseconds=1) / rows
    first = int(START.timestamp()) * 1_000_000
    for begin in range(0, rows, _FILE_ROWS):
        n = min(_FILE_ROWS, rows - begin)
        rng = np.random.default_rng([_SEED, begin])
        us = (first + (begin + np.arange(n)) * us_a_row).astype(np.int64)
        yield _part(rng, us, max(rows // _UNIT_REQUESTS, 1))


def _part(rng: np.random.Generator, us: Any, units: int) -> tuple[pa.Table, pa.Table]:
    n = len(us)
    ids = _uuids(rng, n)
    unit = rng.integers(0, units, n)
    challenger = unit % 2 == 1
    numbers = [rng.normal(size=n) * (1 + at) for at in range(NUMBERS)]
    texts = [rng.zipf(1.5 + 0.2 * at, n) % (10 * (at + 1)) for at in range(TEXTS)]
    chance = 1 / (1 + np.exp(-(numbers[0] + numbers[1] / 2)))
    worse = challenger & (texts[0] == 3)
    score = np.clip(np.where(worse, 1 - chance, chance) + rng.normal(size=n) * 0.05, 0, 1)
    label = rng.random(n) < chance
    failed = rng.random(n) < 0.01
    arm = _choice(challenger.astype(np.int8), ["champion", "challenger"])
    same = pa.nulls(n)
    predictions = {
        "day": us // (24 * _HOUR),
        "request_id": ids,
        "ts": pa.array(us, pa.timestamp("us", tz="UTC")),
        "model": _constant(MODEL, n),
        "version": _choice(challenger.astype(np.int8), ["3", "4"]),
        "arm": arm,
        "cohort": arm,
        "served": pa.array(np.ones(n, bool)),
        "rollout_id": _constant(ROLLOUT, n),
        "stage": pa.array(np.full(n, STAGE, np.int32)),
        "unit_id": pa.array(unit).cast(pa.string()),
        "status": _choice(failed.astype(np.int8), ["ok", "error"]),
        "error": same.cast(pa.string()),
        "latency_ms": pa.array(np.exp(rng.normal(2, 0.5, n))),
        "prediction": _choice(np.where(failed, -1, score > 0.5).astype(np.int8), ["0", "1"]),
        "score": pa.array(score, mask=failed),
        "gateway_id": _constant("g1", n),
        "traffic_revision": pa.array(np.full(n, 2, np.int64)),
    }
    predictions |= {f"f_n{at}": pa.array(values) for at, values in enumerate(numbers)}
    predictions |= {f"f_t{at}": pa.array(values).cast(pa.string()) for at, values in enumerate(texts)}
    predictions["day"] = pa.array(predictions["day"].astype(np.int32)).cast(pa.date32())
    kept = np.flatnonzero(rng.random(n) < 0.9)
    known_us = us[kept] + rng.integers(_HOUR // 60, _HOUR // 2, len(kept))
    outcomes = {
        "day": pa.array((known_us // (24 * _HOUR)).astype(np.int32)).cast(pa.date32()),
        "request_id": ids.take(pa.array(kept)),
        "ts": pa.array(known_us, pa.timestamp("us", tz="UTC")),
        "label": _choice(label[kept].astype(np.int8), ["0", "1"]),
        "value": pa.array(np.where(label[kept], rng.exponential(5, len(kept)), 0.0)),
    }
    return pa.table(predictions), pa.table(outcomes)


def _uuids(rng: np.random.Generator, n: int) -> pa.Array:
    """Random ids of 32 hexadecimal digits, as the gateway makes them."""
    raw = rng.integers(0, 256, n * 16, dtype=np.uint8)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = np.empty(n * 32, np.uint8)
    text[0::2], text[1::2] = digits[raw >> 4], digits[raw & 15]
    offsets = pa.py_buffer((np.arange(n + 1, dtype=np.int32) * 32).tobytes())
    return pa.StringArray.from_buffers(n, offsets, pa.py_buffer(text.tobytes()))


def _choice(index: Any, names: list[str]) -> pa.Array:
    """A text column; -1 is null."""
    picked = pa.array(index, mask=index < 0)
    return pa.DictionaryArray.from_arrays(picked, pa.array(names)).cast(pa.string())


def _constant(name: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), pa.array([name])).cast(pa.string())
