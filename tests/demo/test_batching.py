"""What the demo's versions answer in a batch is what they answer alone."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from model_rollouts.gateway.answers import Answer, Failure
from model_rollouts.gateway.payload import Column
from model_rollouts.gateway.reading import SignatureReader
from model_rollouts.gateway.scorer import MicroBatcher
from model_rollouts.gateway.scoring_protocol import Document
from model_rollouts.gateway.signature import Signature

ROWS = 120


@pytest.mark.parametrize("variant", ["champion", "better", "inaccurate", "raises", "slow"])
def test_batched_answers_are_the_unbatched_ones(
    flights: Any, models: Any, project: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    monkeypatch.setattr(project.model, "time", SimpleNamespace(sleep=lambda _: None))
    inputs = project.flights_data.INPUTS
    reader = SignatureReader(
        Signature(tuple(Column(name, kind, not missing) for name, (kind, missing) in inputs.items()))
    )
    rows = flights[flights["month"] == 5][list(inputs)].iloc[::40].head(ROWS)
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
