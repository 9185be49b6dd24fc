"""kill -9 of a gateway under load, again and again: what was answered is logged once, and nothing else as served."""

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
from tests.chaos.client import Asked, Client
from tests.chaos.world import FULL, VERSIONS, drained, logged, mirrored, raised, say, shares

from bench.serving import MODEL, GatewayProcess, Mover, serving
from model_rollouts.core.bucketing import in_share

pytestmark = pytest.mark.timeout(3600 if FULL else 300)

#: By where the log is.
KILLS = {"delta": 50 if FULL else 3, "postgresql": 10 if FULL else 2}
RATE, SHARE, SEED = 300.0, 50.0, 20261125
_LOAD_SECONDS = (0.2, 1.5)
_START_SECONDS = (0.5, 4.0)
_STARTS_KILLED = 5  # one of so many kills hits a process that has just begun to start again
_CHALLENGER, _SALT = VERSIONS["raises"], "salt"  # the salt of all of Mover's rollouts


@dataclass
class Life:
    """One process from its start to its death.

    Attributes:
        split: Whether half of the units were the challenger's; otherwise it was asked everything, unseen.
        asked: What the client sent.
        left: Of that, what was on its way when the process died.
    """

    split: bool
    asked: list[Asked] = field(default_factory=list)

    def expected_arms(self, asked: Asked) -> set[str]:
        """The arms that an answered request must have a row of."""
        challenged = self.split and in_share(_SALT, asked.unit, SHARE)
        if challenged and not raised(asked.x) and asked.version == _CHALLENGER:
            return {"challenger"}
        return {"challenger", "champion"} if challenged else {"champion"}


def _move(mover: Mover, *, split: bool) -> None:
    """Split the traffic, or mirror it. The store is all that this needs."""
    if mover.rollout_id:
        mover.roll_back()
    mover.start(shares(SHARE) if split else mirrored(), _CHALLENGER)
    mover.open()


def _live_and_die(gateway: GatewayProcess, mover: Mover, number: int, rng: random.Random) -> Life:
    life = Life(split=number % 2 == 0)
    _move(mover, split=life.split)
    gateway.wait(lambda: mover.is_ready(gateway.url))
    with Client(f"{gateway.url}/models/{MODEL}/invocations", RATE, f"k{number}") as client:
        time.sleep(rng.uniform(*_LOAD_SECONDS))
        gateway.end(signal.SIGKILL)
    life.asked = client.asked
    return life


@pytest.mark.parametrize("place", KILLS)
def test_what_was_answered_is_in_the_log_exactly_once_however_often_the_process_is_killed(
    registry: str, tmp_path: Path, request: pytest.FixtureRequest, place: str
) -> None:
    rng, lives, early, kills = random.Random(SEED), [], 0, KILLS[place]
    url = request.getfixturevalue("postgres_server") if place == "postgresql" else None
    more = {} if url is None else {"MODEL_ROLLOUTS_LOG_URL": url}
    with serving(tmp_path, registry, **more) as (gateway, mover):
        for number in range(kills):
            lives.append(_live_and_die(gateway, mover, number, rng))
            if number % _STARTS_KILLED == _STARTS_KILLED - 1:
                gateway.launch()
                time.sleep(rng.uniform(*_START_SECONDS))
                gateway.end(signal.SIGKILL)
                early += 1
            gateway.start()
        gateway.wait(lambda: drained(gateway))
    rows = logged(tmp_path, MODEL, url)

    asked = {each.request_id: each for life in lives for each in life.asked}
    answered = {name for name, each in asked.items() if each.answered}
    unanswered = asked.keys() - answered
    served = rows[rows["served"]]
    by_id: dict[str, set[str]] = {str(name): set(arms) for name, arms in rows.groupby("request_id")["arm"]}
    between = {name.split("-")[0] for name in unanswered & by_id.keys()}
    unmarked = answered - set(served["request_id"])
    say(
        f"kill-{place}",
        kills=kills + early,
        kills_while_starting=early,
        kills_between_append_and_answer=len(between),
        requests=len(asked),
        answered=len(answered),
        unanswered_while_sent=sum(asked[name].sent > 0 for name in unanswered),
        unanswered_with_a_row=len(unanswered & by_id.keys()),
        rows=len(rows),
        rows_of_challenger=int((rows["arm"] == "challenger").sum()),
        requests_with_two_rows=sum(len(arms) > 1 for arms in by_id.values()),
        answered_and_not_marked_as_served=len(unmarked),
        doubled=int(rows.duplicated(["request_id", "arm"]).sum()),
        unanswered_served=len(unanswered & set(served["request_id"])),
    )
    assert {each.status for each in asked.values()} <= {0, 200}, "nothing but death keeps an answer back"
    assert len(answered) > 20 * kills, "there was load"
    assert rows[rows.duplicated(["request_id", "arm"], keep=False)].empty
    missing = {
        each.request_id: life.expected_arms(each) - by_id.get(each.request_id, set())
        for life in lives
        for each in life.asked
        if each.answered
    }
    assert not {name: arms for name, arms in missing.items() if arms}, "an answer without its row"
    assert set(by_id) <= asked.keys()
    assert not served.duplicated("request_id").any()
    assert not unanswered & set(served["request_id"]), "nobody got these answers"
    # Between the answer and its mark a kill leaves a row that says less than was true; one request at a time is there.
    assert max(Counter(name.split("-")[0] for name in unmarked).values(), default=0) <= 1
    _check_rows(rows, {name: asked[name] for name in answered})


def _check_rows(rows: pd.DataFrame, answered: dict[str, Asked]) -> None:
    """Each row says what its caller saw."""
    served = rows[rows["served"]].set_index("request_id")
    for name, row in served.iterrows():
        each = answered[str(name)]
        assert row["version"] == each.version
        assert float(row["prediction"]) == each.prediction == 2 * each.x
    failures = rows[rows["status"] != "ok"]
    assert set(failures["arm"]) == {"challenger"}
    assert not failures["served"].any()
