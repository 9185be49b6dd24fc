"""What Prometheus is told, and that docs/metrics.md tells the same."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from model_rollouts.core.traffic import Traffic
from model_rollouts.gateway.metrics import Metrics, Recorder
from model_rollouts.gateway.metrics_families import Sources

_DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
_PREFIX = "model_rollouts_gateway_"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(metrics: Metrics) -> Samples:
    """What a Prometheus server would read."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(read: Samples, name: str, **labels: str) -> float | None:
    return read.get((_PREFIX + name, frozenset(labels.items())))


def of(g: Any, **more: Any) -> Metrics:
    return Metrics("g1", Recorder(g.follower.follows), Sources(g.follower, g.spool, g.mirror, **more))


def test_what_happened_is_counted_under_its_labels(gateway: Callable[..., Any]) -> None:
    async def run() -> None:
        async with gateway() as g:
            metrics = of(g)
            recorder = metrics.recorder
            for latency in (0.5, 0.6, 9_999.0, 20_000.0):
                recorder.count("m", "1", "champion", "ok", latency, served=True)
            recorder.count("m", "2", "challenger", "timeout", 1000.0, served=False)
            recorder.fallback("m", "2", 3)
            recorder.overloaded("m", "1", 2)
            recorder.batch("m", "1", 4)
            recorder.batch("m", "1", 5)
            recorder.batch("m", "1", 5_000)
            recorder.request("m", 200)
            recorder.request("m", 200)
            for name in ("stranger", "\x00", 'a"b'):
                recorder.request(name, 404)
            read = samples(metrics)
            champion = {"model": "m", "version": "1", "arm": "champion"}
            assert value(read, "predictions_total", **champion, status="ok", served="true") == 4
            challenger = {"model": "m", "version": "2", "arm": "challenger"}
            assert value(read, "predictions_total", **challenger, status="timeout", served="false") == 1
            buckets = {le: value(read, "latency_seconds_bucket", **champion, le=le) for le in ("0.0005", "0.001")}
            assert buckets == {"0.0005": 1, "0.001": 2}
            assert value(read, "latency_seconds_bucket", **champion, le="10.0") == 3
            assert value(read, "latency_seconds_bucket", **champion, le="+Inf") == 4
            assert value(read, "latency_seconds_count", **champion) == 4
            assert value(read, "latency_seconds_sum", **champion) == 30.0001
            assert value(read, "latency_seconds_count", **challenger) is None, "a timeout is no latency"
            version = {"model": "m", "version": "1"}
            assert value(read, "batch_rows_bucket", **version, le="4.0") == 1
            assert value(read, "batch_rows_bucket", **version, le="8.0") == 2
            assert value(read, "batch_rows_bucket", **version, le="+Inf") == 3
            assert value(read, "batch_rows_sum", **version) == 5_009
            assert value(read, "fallbacks_total", model="m", version="2") == 3
            assert value(read, "overloads_total", **version) == 2
            assert value(read, "requests_total", model="m", code="200") == 2
            assert value(read, "requests_total", model="unknown", code="404") == 3

    asyncio.run(run())


def test_the_parts_say_how_they_are(gateway: Callable[..., Any], rollout: Any, writer: Any) -> None:
    async def run() -> None:
        async with gateway() as g:
            tripped: set[str | None] = set()
            problems: dict[tuple[str, str], str | None] = {("m", "2"): None}
            metrics = of(g, tripped=tripped.__contains__, upstreams=lambda: problems)
            read = samples(metrics)
            assert value(read, "traffic_routed_revision", model="m") == 1
            assert value(read, "version_state", model="m", version="1", role="champion", state="ready") == 1
            assert value(read, "breaker_open", model="m") == 0
            assert value(read, "upstream_up", model="m", version="2") == 1
            assert value(read, "healthy") == 1
            assert value(read, "store_up") == 1
            assert value(read, "info", gateway_id="g1") == 1
            assert value(read, "log_lag_seconds") is None, "nothing was committed yet, which is not 0 s ago"

            g.models.errors["9"] = OSError("gone")
            g.set(Traffic("m", "9", challenger="2", share=50.0, rollout_id="r1", stage=0, salt="s", revision=3))
            await g.happens(lambda: "failed" in g.follower.status("m")["versions"].get("9", ""))
            tripped.add("r1")
            problems["m", "2"] = "it is down"
            writer.away = True
            assert (await g.score()).status_code == 200
            await asyncio.to_thread(g.spool.flush)
            read = samples(metrics)
            assert value(read, "traffic_followed_revision", model="m") == 3
            assert value(read, "traffic_routed_revision", model="m") == 1
            assert value(read, "traffic_share_percent", model="m") == 50
            assert value(read, "version_state", model="m", version="9", role="champion", state="failed") == 1
            assert value(read, "version_state", model="m", version="9", role="champion", state="ready") == 0
            assert value(read, "breaker_open", model="m") == 1
            assert value(read, "upstream_up", model="m", version="2") == 0
            assert value(read, "log_up") == 0
            assert (value(read, "spool_bytes") or 0) > 0
            g.store_error = ConnectionError("away")
            await g.happens(lambda: not g.follower.store_status()["ok"])
            assert value(samples(metrics), "store_up") == 0
            writer.away = False

    asyncio.run(run())


def test_a_part_that_cannot_say_how_it_is_costs_its_own_metrics_alone(gateway: Callable[..., Any]) -> None:
    class Broken:
        def status(self) -> dict[str, Any]:
            raise RuntimeError("no idea")

    async def run() -> None:
        async with gateway() as g:
            metrics = Metrics("g1", Recorder(g.follower.follows), Sources(g.follower, Broken(), g.mirror))
            read = samples(metrics)
            assert value(read, "spool_bytes") is None, "0 would say that all is well"
            assert value(read, "metrics_failures_total") == 1
            assert value(read, "healthy") == 1

    asyncio.run(run())


def test_the_event_loop_is_seen_to_be_late(gateway: Callable[..., Any]) -> None:
    async def run() -> None:
        async with gateway() as g:
            metrics = of(g)
            metrics.start()
            await asyncio.sleep(0)
            time.sleep(0.6)  # noqa: ASYNC251  # what it is about
            await asyncio.sleep(0.01)
            assert (value(samples(metrics), "event_loop_lag_seconds") or 0) > 0.3
            await metrics.close()

    asyncio.run(run())


def test_counting_a_row_costs_about_a_microsecond(gateway: Callable[..., Any]) -> None:
    async def run() -> None:
        async with gateway() as g:
            count, times = of(g).recorder.count, []
            for _ in range(20):
                began = time.perf_counter()
                for _ in range(1_000):
                    count("m", "1", "champion", "ok", 3.2, served=True)
                times.append((time.perf_counter() - began) * 1000)
            assert min(times) < 2.0, f"microseconds: {min(times):.2f}, on a machine that does other things too"

    asyncio.run(run())


def test_series_have_a_bound(gateway: Callable[..., Any]) -> None:
    async def run() -> None:
        async with gateway() as g:
            metrics = of(g)
            for version in range(3_000):
                metrics.recorder.count("m", str(version), "champion", "ok", 1.0, served=True)
            assert len(metrics.recorder.counts.rows) == 2_000
            assert len(metrics.recorder.counts.latency) == 2_000

    asyncio.run(run())


def test_the_docs_name_every_metric_and_no_other(gateway: Callable[..., Any]) -> None:
    async def run() -> set[str]:
        async with gateway() as g:
            text = of(g).render().decode()
        found = set()
        for kind in re.findall(r"^# TYPE (\S+ \S+)$", text, re.MULTILINE):
            name = kind.split()[0]
            if not name.endswith("_created"):
                found.add(name)
        return found

    table = re.findall(r"^\| `(\w+)` \|", _DOCS.read_text(), re.MULTILINE)
    assert len(table) == len(set(table))
    assert set(table) == asyncio.run(run())


def test_the_alerts_use_metrics_that_there_are() -> None:
    text = _DOCS.read_text()
    table = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    used = set(re.findall(rf"{_PREFIX}\w+", text[text.index("```yaml") :]))
    assert used <= table
    assert len(used) > 10
