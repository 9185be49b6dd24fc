"""The demo's versions behave as they are named, on the real traffic months."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_rollouts.gateway.answers import Answer, Failure
from model_rollouts.gateway.payload import Column
from model_rollouts.gateway.reading import SignatureReader
from model_rollouts.gateway.scorer import MicroBatcher
from model_rollouts.gateway.scoring_protocol import Document
from model_rollouts.gateway.signature import Signature

MONTHS = range(4, 13)
BATCHED = 120  # rows


def accuracy(model: Any, rows: Any) -> float:
    return float(((model.score(rows) >= 0.5) == rows["late"]).mean())


def month(flights: Any, number: int) -> Any:
    return flights[flights["month"] == number]


@pytest.mark.parametrize("number", MONTHS)
def test_better_beats_the_champion_in_every_month_of_traffic(flights: Any, models: Any, number: int) -> None:
    rows = month(flights, number)
    assert accuracy(models["better"], rows) > accuracy(models["champion"], rows)


@pytest.mark.parametrize("number", MONTHS)
def test_inaccurate_is_plainly_worse_in_every_month(flights: Any, models: Any, number: int) -> None:
    rows = month(flights, number)
    assert accuracy(models["inaccurate"], rows) < accuracy(models["champion"], rows) - 0.05


def test_raises_fails_on_planes_in_no_register_and_on_nothing_else(flights: Any, models: Any) -> None:
    rows = month(flights, 5)
    unknown = rows["seats"].isna()
    assert 0.05 < unknown.mean() < 0.15
    with pytest.raises(KeyError):
        models["raises"].predict(None, rows[unknown].head(1))
    learned = {float(seats) for seats in models["raises"].tables["cabin"]}
    known = rows[rows["seats"].isin(learned)]
    assert len(known) > 0.98 * (~unknown).sum()
    assert accuracy(models["raises"], known) > accuracy(models["champion"], known) - 0.005


def test_slow_pays_a_remote_lookup_for_a_few_percent_of_flights(
    flights: Any, models: Any, project: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(project.model, "time", SimpleNamespace(sleep=waits.append))
    rows = month(flights, 5).iloc[::60]
    for position in range(len(rows)):
        models["slow"].score(rows.iloc[position : position + 1])
    assert 0.02 < len(waits) / len(rows) < 0.10
    assert min(waits) >= 0.15
    assert max(waits) <= 0.25
    np.testing.assert_array_equal(models["slow"].score(rows), models["better"].score(rows))


def test_a_batch_of_many_unknown_routes_pays_one_lookup(
    flights: Any, models: Any, project: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(project.model, "time", SimpleNamespace(sleep=waits.append))
    models["slow"].score(month(flights, 5).head(2000))
    assert len(waits) == 1


@pytest.mark.parametrize("name", ["champion", "better", "inaccurate", "slow"])
def test_missing_values_and_missing_optional_columns_are_answered(
    flights: Any, models: Any, project: Any, name: str
) -> None:
    rows = month(flights, 5)[list(project.flights_data.INPUTS)].head(3)
    optional = [column for column, (_, missing) in project.flights_data.INPUTS.items() if missing]
    without = models[name].predict(None, rows.drop(columns=optional))
    empty = models[name].predict(None, rows.assign(**dict.fromkeys(optional)))
    assert without.equals(empty)
    assert without["prediction"].isin([0, 1]).all()
    assert without["score"].between(0, 1).all()


def test_an_answer_does_not_depend_on_the_rows_beside_it(flights: Any, models: Any) -> None:
    rows = month(flights, 6).head(64)
    together = models["better"].predict(None, rows)["score"].to_numpy()
    alone = [models["better"].predict(None, rows.iloc[i : i + 1])["score"].iloc[0] for i in range(64)]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)


def test_recently_lost_uses_only_flights_that_had_landed(project: SimpleNamespace) -> None:
    import pandas as pd

    def flight(minute: int, air_time: int, lost: int) -> dict[str, Any]:
        return {
            "time_hour": "2013-04-01T12:00:00Z", "minute": minute, "dep_delay": 0.0, "arr_delay": float(lost),
            "air_time": float(air_time), "origin": "JFK",
        }  # fmt: skip

    # The first is known at minute 60, the second at 130, the third asks at 100, the last at 300, past the window.
    rows = pd.DataFrame([flight(0, 20, 10), flight(30, 60, 50), flight(100, 60, 0), flight(400, 60, 0)])
    found = project.recent.recently_lost(rows, "origin")
    assert np.isnan(found[[0, 1, 3]]).all()
    assert found[2] == 10.0


def test_an_unknown_variant_is_named(project: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="variant is 'worse', must be one of champion, better"):
        project.variants.parse("champion,worse")
    with pytest.raises(ValueError, match="must name at least one"):
        project.variants.parse(" , ")


def test_every_line_of_the_replay_is_one_request_with_its_unit_and_truth(
    project: SimpleNamespace, flights: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    head = flights[flights["month"] == 4].head(500)
    monkeypatch.setattr(project.flights_data, "load", lambda: head)
    assert project.replay.write(tmp_path / "replay.tsv") == 500
    lines = (tmp_path / "replay.tsv").read_bytes().splitlines()
    for line, (_, flight) in zip(lines, head.iterrows(), strict=True):
        unit, label, body = line.split(b"\t")
        split = json.loads(body)["dataframe_split"]
        values = dict(zip(split["columns"], split["data"][0], strict=True))
        assert (unit.decode(), label.decode()) == (flight["tailnum"], str(flight["late"]))
        assert values["dep_delay"] == flight["dep_delay"]
        assert (values["seats"] is None) == np.isnan(flight["seats"])


@pytest.mark.parametrize("variant", ["champion", "better", "inaccurate", "raises", "slow"])
def test_batched_answers_are_the_unbatched_ones(
    flights: Any, models: Any, project: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    monkeypatch.setattr(project.model, "time", SimpleNamespace(sleep=lambda _: None))
    inputs = project.flights_data.INPUTS
    reader = SignatureReader(
        Signature(tuple(Column(name, kind, not missing) for name, (kind, missing) in inputs.items()))
    )
    rows = flights[flights["month"] == 5][list(inputs)].iloc[::40].head(BATCHED)
    records = [{k: v for k, v in row.items() if v == v} for row in rows.to_dict(orient="records")]  # noqa: PLR0124  # NaN
    payloads = [reader.read(Document("dataframe_records", [record]), None, 1).payload for record in records]
    sizes: list[int] = []
    scorer = MicroBatcher(
        lambda payload, _: models[variant].predict(None, payload.data()), variant, 64, 10_000, called=sizes.append
    )

    async def together() -> list[Answer | Failure]:
        found = await asyncio.gather(*(scorer.score(payload, {}, 60) for payload in payloads))
        return [result for results in found for result in results]

    async def alone() -> list[Answer | Failure]:
        return [(await scorer.score(payload, {}, 60))[0] for payload in payloads]

    batched = asyncio.run(together())
    assert max(sizes) > 10, "they were scored in batches"
    for one, other in zip(batched, asyncio.run(alone()), strict=True):
        assert type(one) is type(other)
        if isinstance(one, Answer) and isinstance(other, Answer):
            assert one.prediction == other.prediction
            assert one.score == pytest.approx(other.score, rel=1e-9)
        else:
            assert one == other, "the same row fails, for the same reason"
    failed = sum(isinstance(result, Failure) for result in batched)
    assert (failed > 0) is (variant == "raises")
