"""`rollouts replay` and `rollouts recompute`, as a person types them."""

import json
import re
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from tests.replay.past import BAD, START, Live, Past, quick_plan
from typer.testing import CliRunner

from model_rollouts.cli import app


@pytest.fixture
def run(tmp_path: Path, past: Past, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", f"sqlite:///{tmp_path / 'rollouts.db'}")
    monkeypatch.setenv("MODEL_ROLLOUTS_LOG_DIR", str(past.root))

    def go(*arguments: str):
        return CliRunner().invoke(app, list(arguments))

    return go


@pytest.fixture
def rolled_back(live: Live) -> Live:
    live.past.rates["2"] = BAD
    live.roll_out(quick_plan())
    return live


def test_a_rollout_on_record_is_replayed_and_recomputed_with_the_same_end(run, rolled_back: Live) -> None:
    replayed = run("replay", "flights")
    assert replayed.exit_code == 0, replayed.output
    assert "1 of 1 live decisions are reproduced exactly" in replayed.output
    assert "wrong predictions" in replayed.output
    assert re.search(r"stage 1, rolled_back: fail on \d+ looks: the same", replayed.output)
    again = run("recompute", "flights", "--rollout", "live-1")
    assert again.exit_code == 0
    assert "live-1: 1 of 1 verdicts on record come out the same" in again.output


def test_as_json_there_is_one_entry_a_look(run, rolled_back: Live) -> None:
    result = run("replay", "flights", "--json")
    document = json.loads(result.stdout)[0]
    assert document["compared"] == [{"event": "rolled_back", "verdict": "fail", "differences": []}]
    assert document["steps"][-1]["decision"]["verdict"] == "fail"
    assert document["changed_looks"] == []


def test_other_margins_are_tried_on_the_same_traffic(run, rolled_back: Live) -> None:
    lax = run("replay", "flights", "--set", "pass_odds=100", "--set", "wrong_rate.rollback_odds=50")
    assert lax.exit_code == 0, lax.output
    assert "reproduced" not in lax.output
    assert " fail " not in lax.output
    unknown = run("replay", "flights", "--set", "margin=2")
    assert unknown.exit_code == 2
    assert "error: --set margin: gates have no such field; they have alpha" in unknown.output
    nowhere = run("replay", "flights", "--set", "agreement.floor=0.9")
    assert "--set agreement.floor: no gate of the plan has it" in nowhere.output
    assert "'rollback_odds' must be NAME=VALUE" in run("replay", "flights", "--set", "rollback_odds").output


def test_a_store_that_was_tampered_with_is_found_out(run, rolled_back: Live, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "rollouts.db") as store:
        for (guard,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            store.execute(f"DROP TRIGGER {guard}")  # who writes to the file can do this too
        counts = json.loads(store.execute("SELECT counts FROM looks WHERE look = 1").fetchone()[0])
        counts["challenger"]["errors"] += 1
        counts["challenger"]["latency"] = {}
        store.execute("UPDATE looks SET counts = ? WHERE look = 1", [json.dumps(counts)])
    again = run("recompute", "flights")
    assert again.exit_code == 1
    assert "DIFFERS in" in again.output
    assert "0 of 1 verdicts on record come out the same" in again.output
    # the log was not tampered with: it gives the decision again, and says which look the store has otherwise
    replayed = run("replay", "flights")
    assert replayed.exit_code == 0
    assert "warning: 1 looks have other counts in the log" in replayed.output


def test_a_canary_is_played_over_a_period(run, past: Past) -> None:
    past.mirrored(200)
    quick = [f"{k}={json.dumps(v)}" for k, v in {
        "steps": [10, 100], "bake_seconds": 20, "deadline_seconds": 150, "look_seconds": 5, "grace_seconds": 2,
        "label_maturity_seconds": 10, "control_percent": 40, "pass_odds": 2.5, "min_requests": 20,
        "negligible_error_rate": 0.06,
    }.items()]  # fmt: skip
    sets = [part for value in quick for part in ("--set", value)]
    period = ["--champion", "1", "--challenger", "2", "--from", START.isoformat(), "--to"]
    result = run("replay", "flights", *period, (START + timedelta(seconds=200)).isoformat(), *sets)
    assert result.exit_code == 0, result.output
    assert "ends with pass, cut_over: every gate passed at 100 %" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--champion", "1"], "a period needs --champion, --challenger and --from, and no --rollout"),
        (["--to", "2026-01-01"], "--to, --plan and --mapping belong to a period"),
        (["--champion", "1", "--challenger", "2", "--from", "yesterday"], "time is 'yesterday', must be ISO 8601"),
        (["--rollout", "nothing"], "there is no rollout 'nothing'"),
        (["--champion", "1", "--challenger", "2", "--from", "2026-01-01", "--set", "stepps=[1]"], "unknown stepps"),
    ],
)
def test_what_can_not_be_replayed_is_refused_with_the_reason(run, rolled_back: Live, arguments, said: str) -> None:
    result = run("replay", "flights", *arguments)
    assert result.exit_code == (4 if said.startswith("there is no") else 2)
    assert said in result.output
    assert "Traceback" not in result.output
