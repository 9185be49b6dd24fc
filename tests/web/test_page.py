"""The page's JSON as a browser gets it from a real API server, by users with and without rights."""

import json
import time
from typing import Any

import pytest
from tests.web.conftest import OURS, PageServer

from model_rollouts.core.plan import Pattern
from model_rollouts.core.rollout import EventKind, Rollout, State


def whole(page: PageServer, rollout: Rollout, user: str = "ada") -> dict[str, Any]:
    """One rollout, once all its looks are added up."""
    until = time.monotonic() + 20
    while True:
        told: dict[str, Any] = page.get(f"/api/rollouts/{rollout.id}", user).json()
        if told["evidence"]["complete"] or time.monotonic() > until:
            return told


# --- seeing


def test_the_files_are_there_and_may_load_nothing_from_elsewhere(page: PageServer) -> None:
    for path in ("/", "/app.js", "/style.css", "/icon.svg"):
        answer = page.get(path, user=None)
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert "frame-ancestors 'self'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "http" not in page.get("/", user=None).text.replace("http-equiv", "")


@pytest.mark.parametrize("path", ["/api/rollouts", "/api/rollouts/x", "/api/rollouts/x/reports", "/api/of-run?dag_id=x",
                                  "/api/rollouts/x/reports/r/a.html"])  # fmt: skip
def test_nobody_reads_without_a_login(page: PageServer, path: str) -> None:
    answer = page.get(path, user=None)

    assert answer.status_code == 401
    assert answer.json() == {"detail": "Not authenticated", "code": "401"}
    forged = page.client(None).get(path, headers={"Authorization": "Bearer x.y.z"})
    assert forged.status_code in (401, 403)


def test_the_list_has_what_a_row_shows_and_takes_filters(page: PageServer) -> None:
    mine = page.rollout(Pattern.CANARY)
    other = page.rollout(Pattern.GRADUAL)

    def ids(query: str) -> set[str]:
        return {row["id"] for row in page.get(f"/api/rollouts?{query}").json()["rollouts"]}

    row = next(r for r in page.get("/api/rollouts").json()["rollouts"] if r["id"] == mine.id)
    assert (row["state"], row["stage"], row["stages"], row["share"]) == ("baking", 1, 5, 1.0)
    assert (row["champion"], row["challenger"], row["pattern"], row["created_by"]) == ("1", "2", "canary", "anna")
    assert ids(f"q={mine.model}") == {mine.id}
    assert ids(f"model={other.model}") == {other.id}
    assert mine.id in ids("pattern=canary")
    assert other.id not in ids("pattern=canary")
    assert ids(f"state=promoted&q={mine.model}") == set()
    assert ids("q=%25") == ids("q=_%5C") == set()  # nobody's wildcards
    assert page.get("/api/rollouts?page=0").status_code == 422


def test_what_has_not_changed_is_not_sent_again(page: PageServer) -> None:
    rollout = page.rollout()
    path = f"/api/rollouts?q={rollout.model}"
    tag = page.get(path).headers["etag"]

    assert page.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert page.do(rollout, "hold").status_code == 200
    assert page.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_one_rollout_tells_stages_gates_arms_and_who_did_what(page: PageServer) -> None:
    rollout = page.rollout(looks=8)

    told = whole(page, rollout)

    assert [stage["share"] for stage in told["stages"]] == [1, 5, 25, 50, 100]
    assert [stage["status"] for stage in told["stages"]] == ["open", *["ahead"] * 4]
    assert told["stages"][0]["run"] == {"dag_id": "canary", "run_id": f"manual__{rollout.model}"}
    arms = told["stages"][0]["arms"]
    assert (arms["champion"]["requests"], arms["challenger"]["errors"]) == (8000, 240)
    assert (arms["challenger"]["labelled"], arms["challenger"]["due"]) == (7040, 7760)
    gate = next(gate for gate in told["gates"] if gate["metric"] == "error_rate")
    assert gate["lines"][0] == {"stage": 0, "harm": 1.25, "pass": 4.0}
    assert [point[0] for point in gate["points"]] == list(range(1, 9))
    assert gate["points"][-1][3] == pytest.approx(gate["effect"]) == pytest.approx(1.515, rel=0.01)
    assert gate["points"][-1][4] < gate["effect"] < gate["points"][-1][5]
    assert told["verdict"]["looks"] == 8
    assert told["verdict"]["reason"] in told["waits_for"]
    assert [event["kind"] for event in told["events"]] == ["started", "stage_opened"]
    assert {offer["deed"] for offer in told["offers"] if not offer["refusal"]} == {"hold", "expand", "roll_back"}
    assert "secret" not in json.dumps(told)
    assert told["mlflow"] == "http://127.0.0.1:9"


def test_a_run_knows_its_rollout(page: PageServer) -> None:
    rollout = page.rollout()
    run = f"manual__{rollout.model}"

    assert page.get(f"/api/of-run?dag_id=canary&run_id={run}").json() == {"pattern": "canary", "rollouts": [rollout.id]}
    assert page.get(f"/api/of-run?dag_id=gradual&run_id={run}").json() == {"pattern": "gradual", "rollouts": []}
    assert page.get("/api/of-run?dag_id=etl").json() == {"pattern": None, "rollouts": []}


def test_a_rollout_that_is_not_there_is_told_without_a_trace(page: PageServer) -> None:
    for path in ("/api/rollouts/nope", "/api/rollouts/nope/reports", "/api/nothing", "/api/rollouts/%2e%2e/x"):
        answer = page.get(path)
        assert answer.status_code == 404, path
        assert set(answer.json()) == {"detail", "code"}


def test_reports_say_what_to_do_while_mlflow_is_away(page: PageServer) -> None:
    path, until = f"/api/rollouts/{page.rollout().id}/reports", time.monotonic() + 40
    answer = page.get(path)
    while answer.status_code == 200 and answer.json()["waiting"] and time.monotonic() < until:
        answer = page.get(path)

    assert answer.status_code == 503
    assert answer.json()["code"] == "mlflow"
    assert "rolling back works" in answer.json()["detail"]
    assert "secret" not in answer.text


# --- doing


def test_a_rollback_moves_the_traffic_and_is_in_the_audit_with_who_and_why(page: PageServer) -> None:
    rollout = page.rollout()

    answer = page.do(rollout, "roll_back", user="uma", reason="  twice the errors ")

    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "rolled_back"
    assert "MLflow" in answer.json()["warnings"][0]
    assert "secret" not in answer.text
    assert len(answer.json()["warnings"][0]) < 300
    traffic = page.store.traffic(rollout.model)
    assert traffic is not None
    assert (traffic.champion, traffic.challenger, traffic.share) == ("1", None, 0)
    event = page.store.events(rollout_id=rollout.id)[-1]
    assert (event.kind, event.actor, event.reason) == (EventKind.ROLLED_BACK, "uma (page)", "twice the errors")


def test_a_stage_is_held_and_resumed(page: PageServer) -> None:
    rollout = page.rollout()

    assert page.do(rollout, "hold", reason="lunch").json()["state"] == "holding"
    held = page.store.rollout(rollout.id)
    told = whole(page, held)
    assert told["waits_for"] == "a person: lunch"
    assert {o["deed"] for o in told["offers"] if not o["refusal"]} == {"resume", "expand", "roll_back"}
    answer = page.do(held, "resume", reason="back")
    assert answer.json()["state"] == "baking"
    assert "Airflow has no DAG canary" in " ".join(answer.json()["warnings"])


@pytest.mark.parametrize("deed", ["hold", "resume", "expand", "cut_over", "roll_back", "approve"])
def test_a_viewer_sees_and_can_not_act(page: PageServer, deed: str) -> None:
    rollout = page.rollout()

    told = whole(page, rollout, user="eve")
    assert (told["may_act"], told["offers"]) == (False, [])
    answer = page.do(rollout, deed, user="eve")

    assert answer.status_code == 403
    assert "trigger the DAG canary" in answer.json()["detail"]
    assert page.store.rollout(rollout.id) == rollout


@pytest.mark.parametrize("deed", ["hold", "roll_back"])
def test_without_a_login_nothing_is_done(page: PageServer, deed: str) -> None:
    rollout = page.rollout()

    assert page.do(rollout, deed, user=None).status_code == 401
    assert page.store.rollout(rollout.id) == rollout


@pytest.mark.parametrize("deed", ["hold", "expand", "roll_back", "approve"])
def test_a_step_that_was_overtaken_is_refused_with_what_has_changed(page: PageServer, deed: str) -> None:
    rollout = page.rollout()
    page.do(rollout, "hold", user="uma", reason="lunch")

    answer = page.do(rollout, deed)

    assert (answer.status_code, answer.json()["code"]) == (409, "stale")
    since = answer.json()["since"]
    assert [(each["kind"], each["actor"], each["reason"]) for each in since] == [("held", "uma (page)", "lunch")]
    assert page.store.rollout(rollout.id).state is State.HOLDING


def test_what_a_state_does_not_allow_is_refused(page: PageServer) -> None:
    rollout = page.rollout()

    for deed in ("resume", "cut_over", "approve"):
        answer = page.do(rollout, deed)
        assert (answer.status_code, answer.json()["code"]) == (409, "refused"), deed
    assert page.do(rollout, "destroy").status_code == 404
    assert page.store.rollout(rollout.id) == rollout


@pytest.mark.parametrize("body", [{"reason": ""}, {"reason": " \n"}, {"reason": "x" * 2001}, {"revision": 0},
                                  {"revision": "x"}, {"reason": None}])  # fmt: skip
def test_a_step_without_a_reason_or_a_revision_is_refused(page: PageServer, body: dict[str, Any]) -> None:
    rollout = page.rollout()

    assert page.do(rollout, "hold", **body).status_code == 422
    assert page.store.rollout(rollout.id) == rollout


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Model-Rollouts": ""},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_can_not_act_with_the_users_cookie(page: PageServer, headers: dict[str, str]) -> None:
    rollout = page.rollout()

    answer = page.do(rollout, "roll_back", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "foreign")
    assert page.store.rollout(rollout.id) == rollout


def test_a_body_beyond_its_bound_is_not_read(page: PageServer) -> None:
    rollout = page.rollout()
    client = page.client("ada")
    path = f"/api/rollouts/{rollout.id}/hold"

    assert client.post(path, content=b"x" * 20_000, headers=OURS).status_code == 413
    assert client.post(path, content=iter([b"{}"]), headers=OURS).status_code == 413  # no length at all


def test_the_log_has_no_fault_of_the_page(page: PageServer) -> None:
    assert "page error" not in page.log.read_text()
