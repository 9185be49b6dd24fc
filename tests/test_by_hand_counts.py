"""What people do is found in the course of the looks, for charts."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from model_rollouts.by_hand import ByHand
from model_rollouts.core import rollout as steps
from model_rollouts.core.by_hand import Deed
from model_rollouts.core.errors import RolloutError
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Cause, EventKind
from model_rollouts.settings import Settings
from model_rollouts.web.evidence import View
from model_rollouts.web.told import rollout_told
from model_rollouts.wiring import Wiring


def nowhere() -> Any:
    """No Airflow."""
    raise RolloutError("no Airflow answers")


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wiring:
    """A canary with three looks, one of them with labels."""
    made = Wiring(
        Settings(
            store_url=f"sqlite:///{tmp_path / 'store.db'}", log_dir=tmp_path, mlflow_tracking_uri="http://127.0.0.1:9"
        )
    )
    monkeypatch.setattr(made.service, "sync_registry", lambda _: None)
    store = made.store
    store.migrate()
    cause = Cause("test", datetime.now(UTC) - timedelta(minutes=5), "as planned")
    store.apply(steps.adopt("m", "1", cause))
    traffic = store.traffic("m")
    assert traffic is not None
    store.apply(steps.start("r", plan_canary(CanaryParameters()), "2", "salt", traffic, cause))
    traffic = store.traffic("m")
    assert traffic is not None
    opened = steps.open_stage(store.rollout("r"), traffic, 0, cause)
    assert opened is not None
    store.apply(opened)
    counts, known = RequestCounts(100, 1), LabelCounts(99, 90, 3)
    looks = [Look(0, 0, counts, counts, known, known), Look(0, 1, counts, counts), Look(0, 2, counts, counts)]
    store.save_looks("r", looks)
    return made


def test_deeds_say_how_many_looks_there_were_and_charts_have_them(parts: Wiring) -> None:
    hands = ByHand(parts.service, nowhere)
    for deed in (Deed.HOLD, Deed.RESUME, Deed.ROLL_BACK):
        hands.do(deed, "r", "anna", "because")

    store = parts.store
    events = store.events(rollout_id="r")
    done = [e for e in events if e.kind in (EventKind.HELD, EventKind.RESUMED, EventKind.ROLLED_BACK)]
    assert [(e.evidence["looks"], e.evidence["labelled_looks"]) for e in done] == [(3, 1)] * 3
    traffic = store.traffic("m")
    assert traffic is not None
    told = rollout_told(store.rollout("r"), traffic, events, View(), [], None)
    assert [(d["what"], d["position"], d["labelled"]) for d in told["decided"]] == [
        ("held", 3, 1),
        ("resumed", 3, 1),
        ("rolled back", 3, 1),
    ]
    assert told["traffic"]["champion"] == "1"


def test_looks_that_can_not_be_counted_keep_nobody_from_rolling_back(
    parts: Wiring, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: str) -> None:
        raise OSError("the disk is slow")

    monkeypatch.setattr(parts.service.evidence, "look_counts", fails)

    assert ByHand(parts.service, nowhere).do(Deed.ROLL_BACK, "r", "anna", "because").rollout.state == "rolled_back"
