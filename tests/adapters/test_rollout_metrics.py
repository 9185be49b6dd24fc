"""What Prometheus is told of rollouts; documentation and dashboard name nothing else."""

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from model_rollouts.adapters.rollout_metrics import CONTENT_TYPE, RolloutMetrics
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.cli import app
from model_rollouts.core import rollout as steps
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.evidence import Look, RequestCounts
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.patterns.shadow import ShadowParameters, plan_shadow
from model_rollouts.core.plan import Plan
from model_rollouts.core.rollout import Cause, EventKind
from model_rollouts.metrics_server import make_server

REPO = Path(__file__).parents[2]
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW = START + timedelta(minutes=10)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def _open(store: SqlStore, model: str, rollout_id: str, plan: Plan) -> None:
    """A rollout with its first stage open."""
    cause = Cause("test", START, "because")
    traffic = store.traffic(model)
    assert traffic is not None
    store.apply(steps.start(rollout_id, plan, "2", "salt", traffic, cause))
    traffic = store.traffic(model)
    assert traffic is not None
    opened = steps.open_stage(store.rollout(rollout_id), traffic, 0, cause)
    assert opened is not None
    store.apply(opened)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A store with a canary of flights, two looks old, and a model that was only adopted."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    store = SqlStore(url)
    store.migrate()
    cause = Cause("test", START, "because")
    for model in ("flights", "airports"):
        store.apply(steps.adopt(model, "1", cause))
    plan = plan_canary(CanaryParameters(steps=(5, 100), look_seconds=60, bake_seconds=600, deadline_seconds=7200))
    _open(store, "flights", "r1", plan)
    counts = RequestCounts(10, 0)
    store.save_looks("r1", [Look(0, index, counts, counts) for index in range(2)])
    yield url
    store.close()


def read(url: str, now: datetime = NOW) -> Samples:
    text = RolloutMetrics(url, lambda: now).render().decode()
    return {
        (s.name, frozenset(s.labels.items())): s.value for f in text_string_to_metric_families(text) for s in f.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"model_rollouts_{name}", frozenset(labels.items())))


def test_where_a_rollout_is(url: str) -> None:
    told = read(url)

    flights = {"model": "flights"}
    assert value(told, "store_up") == 1
    assert value(told, "traffic_share_percent", **flights) == 5
    assert value(told, "traffic_share_percent", model="airports") == 0
    assert value(told, "version", **flights, role="challenger", version="2") == 1
    assert value(told, "version", model="airports", role="challenger", version="2") is None
    assert value(told, "state", **flights, pattern="canary", state="baking") == 1
    assert value(told, "state", **flights, pattern="canary", state="holding") == 0
    assert (value(told, "stage", **flights), value(told, "stages", **flights)) == (1, 2)
    assert value(told, "deadline_left_seconds", **flights) == 6600
    assert value(told, "stage_looks", **flights) == 2
    assert value(told, "look_age_seconds", **flights) == 480
    assert value(told, "events_total", **flights, kind="stage_opened") == 1
    assert value(told, "rollouts", **flights, state="baking") == 1
    assert value(told, "stage", model="airports") is None


def test_what_has_not_happened_yet_is_counted_as_0_so_that_the_first_time_is_an_increase(url: str) -> None:
    told = read(url)

    for model in ("flights", "airports"):
        counts = {kind: value(told, "events_total", model=model, kind=kind) for kind in EventKind}
        assert counts[EventKind.ROLLED_BACK] == 0
        assert counts[EventKind.ADOPTED] == 1
        assert None not in counts.values()


def _move(url: str, step: Any, *more: Any) -> None:
    store = SqlStore(url)
    traffic = store.traffic("flights")
    assert traffic is not None
    change = step(store.rollout("r1"), traffic, *more, Cause("test", NOW, "because"))
    assert change is not None
    store.apply(change)
    store.close()


def _overdue(url: str, minutes: float = 10, model: str = "flights") -> float | None:
    return value(read(url, START + timedelta(minutes=minutes)), "look_overdue_seconds", model=model)


def test_a_look_is_overdue_once_it_could_have_been_counted(url: str) -> None:
    assert _overdue(url) == 480 - 60 - 10  # after two looks; the third had 60 s to last and 10 s of grace
    assert _overdue(url, 3) == 0
    assert _overdue(url, 3.5) == 20


@pytest.mark.parametrize(("minutes", "overdue"), [(119, 0), (125, 300 - 10)])
def test_a_stage_whose_first_look_never_comes_is_overdue_and_a_long_look_is_not(
    url: str, minutes: float, overdue: float
) -> None:
    store = SqlStore(url)
    _open(store, "airports", "r2", plan_canary(CanaryParameters(steps=(5, 100), look_seconds=7200)))
    store.close()

    assert _overdue(url, minutes, "airports") == overdue


def test_looks_are_due_while_a_stage_holds_but_not_once_it_has_passed(url: str) -> None:
    _move(url, steps.hold, 0)
    assert _overdue(url) == 410

    _move(url, steps.resume, 0)
    _move(url, steps.clear, 0)
    assert _overdue(url, 7 * 24 * 60) is None  # it waits for its schedule


def test_batches_of_an_offline_stage_are_not_of_the_clock(url: str) -> None:
    store = SqlStore(url)
    _open(store, "airports", "r2", plan_shadow(ShadowParameters(offline=True)))
    store.close()

    assert _overdue(url, 10, "airports") is None


def test_a_rollout_that_has_ended_has_no_stage_and_its_rollback_is_counted(url: str) -> None:
    store = SqlStore(url)
    traffic = store.traffic("flights")
    assert traffic is not None
    change = steps.roll_back(store.rollout("r1"), traffic, Cause("test", NOW, "complaints"))
    assert change is not None
    store.apply(change)
    told = read(url)

    assert value(told, "events_total", model="flights", kind="rolled_back") == 1
    assert value(told, "state", model="flights", pattern="canary", state="rolled_back") == 1
    for name in ("stage", "deadline_left_seconds", "look_age_seconds", "look_overdue_seconds", "stage_age_seconds"):
        assert value(told, name, model="flights") is None, name
    assert value(told, "last_event_age_seconds", model="flights") == 0


@pytest.mark.parametrize("where", ["/nowhere/at/all/store.db", "empty.db"])
def test_a_store_that_can_not_be_read_says_so_and_gives_no_numbers(tmp_path: Path, where: str) -> None:
    assert read(f"sqlite:///{tmp_path / where}") == {("model_rollouts_store_up", frozenset()): 0.0}


def test_the_command_prints_them(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", url)

    printed = CliRunner().invoke(app, ["metrics"])

    assert printed.exit_code == 0, printed.output
    assert 'model_rollouts_traffic_share_percent{model="flights"} 5.0' in printed.stdout


def _documented(file: str) -> dict[str, set[str]]:
    """Metric -> labels, of the tables in the documentation; those of the gateway are held to it by its own tests."""
    rows = re.findall(r"^\| `(model_rollouts_\w+)` \|([\w, ]*)\|", (REPO / "docs" / file).read_text(), re.MULTILINE)
    return {name: {label.strip() for label in labels.split(",") if label.strip()} for name, labels in rows}


def test_the_documentation_names_each_metric_with_its_labels(url: str) -> None:
    found: dict[str, set[str]] = {}
    for name, labels in read(url):
        found.setdefault(name, set()).update(label for label, _ in labels)

    assert found == _documented("rollout-metrics.md")


def _queries() -> dict[str, str]:
    dashboard = json.loads((REPO / "reports" / "grafana" / "rollouts.json").read_text())
    queries = {p["title"] + t["refId"]: t["expr"] for p in dashboard["panels"] for t in p.get("targets", [])}
    queries |= {a["name"]: a["expr"] for a in dashboard["annotations"]["list"] if "expr" in a}
    return queries | {v["name"]: v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"}


def _alerts() -> dict[str, str]:
    (rules,) = re.findall(r"```yaml\n(.*?)```", (REPO / "docs" / "rollout-metrics.md").read_text(), re.DOTALL)
    return {rule["alert"]: rule["expr"] for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]}


def test_alerts_and_dashboard_ask_for_values_of_labels_that_are_told_from_the_start(url: str) -> None:
    told = set(read(url))
    for title, query in (_queries() | _alerts()).items():
        for name, label, asked in re.findall(r'(model_rollouts_\w+)\{[^}]*\b(kind|state)="(\w+)"', query):
            found = {dict(labels)[label] for metric, labels in told if metric == name and label in dict(labels)}
            assert asked in found, (title, name, asked)


def test_no_alert_takes_a_waiting_rollout_for_evidence_that_stopped() -> None:
    expression = _alerts()["EvidenceStopped"]
    assert "look_overdue_seconds" in expression
    assert "look_age" not in expression


def test_dashboard_and_alerts_ask_for_metrics_and_labels_that_there_are(url: str) -> None:
    known = _documented("rollout-metrics.md") | _documented("metrics.md")
    for name, labels in list(known.items()):
        known[f"{name}_bucket"] = labels | {"le"}  # of histograms

    queries = _queries() | _alerts()
    assert len(queries) > 20
    for title, query in queries.items():
        names = re.findall(r"model_rollouts_\w+", query)
        assert names, title
        assert set(names) <= set(known), (title, set(names) - set(known))
        for name, selector in re.findall(r"(model_rollouts_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= known[name], (title, selector)
        for grouped in re.findall(r"by \(([^)]*)\)", query):
            wanted = {label.strip() for label in grouped.split(",")}
            assert all(wanted <= known[name] for name in names), (title, grouped)


def test_the_dashboards_panels_lie_side_by_side_and_have_ids_of_their_own() -> None:
    dashboard = json.loads((REPO / "reports" / "grafana" / "rollouts.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def _get(port: int, path: str, token: str = "") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def serve(url: str) -> Iterator[Any]:
    servers = []

    def start(token: str = "") -> int:
        server = make_server("127.0.0.1", 0, RolloutMetrics(url).render, CONTENT_TYPE, token)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_they_are_served_and_nothing_else_is(serve: Any) -> None:
    port = serve()
    status, text = _get(port, "/metrics")
    assert (status, 'model_rollouts_stages{model="flights"} 2.0' in text) == (200, True)
    assert _get(port, "/")[0] == 404


def test_with_a_token_nobody_else_reads_them(serve: Any) -> None:
    token = "0123456789abcdef"
    port = serve(token)
    assert _get(port, "/metrics")[0] == _get(port, "/metrics", "wrong")[0] == 401
    assert _get(port, "/metrics", token)[0] == 200


@pytest.mark.parametrize(
    ("host", "token"), [("192.0.2.1", ""), ("::", ""), ("metrics.example", ""), ("127.0.0.1", "short")]
)
def test_nothing_listens_beyond_this_machine_without_a_token(host: str, token: str) -> None:
    with pytest.raises(NotReadyError):
        make_server(host, 0, lambda: b"", CONTENT_TYPE, token)
