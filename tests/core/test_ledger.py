"""A ledger that took the looks one by one decides what a fresh one decides, and what is on record can be recomputed."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from model_rollouts.core.conclusion import distrust
from model_rollouts.core.decision import Verdict, decide, decide_from
from model_rollouts.core.evidence import LabelCounts, Look, RequestCounts
from model_rollouts.core.ledger import Ledger
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.recompute import recompute, recompute_from, record_of
from model_rollouts.core.unit_evidence import ClusterSums, UnitCounts, ValueSums

PLAN = plan_canary(CanaryParameters(value_loss=0.1))
METRICS = ("error_rate", "latency_p50", "latency_p95", "latency_p99")


def some_look(rng: np.random.Generator, stage: int, index: int, *, matured: bool = True, worse: float = 1.0) -> Look:
    def arm(n: int, factor: float) -> tuple[RequestCounts, LabelCounts, UnitCounts, ClusterSums]:
        errors = int(rng.binomial(n, 0.02 * factor))
        bins, counts = np.unique(rng.integers(300, 420, n - errors), return_counts=True)
        known = int(rng.binomial(n - errors, 0.95))
        sums = ClusterSums(n, 2 * n, float(rng.normal(0, 1)), float(n), float(n) / 50)
        return (
            RequestCounts(n, errors, dict(zip(bins.tolist(), counts.tolist(), strict=True))),
            LabelCounts(n - errors, known, int(rng.binomial(known, 0.1 * factor))),
            UnitCounts(0, dict.fromkeys(METRICS, sums)),
            sums,
        )

    (a, a_labels, a_units, a_sums) = arm(300, 1.0)
    (b, b_labels, b_units, b_sums) = arm(int(rng.integers(0, 300)), worse)
    look = Look(stage, index, a, b, champion_units=a_units, challenger_units=b_units)
    if not matured:
        return look
    n, m = a_labels.labelled, b_labels.labelled
    sums = ValueSums(a_labels.due, b_labels.due, n, m, n * 1.0, m * 1.0, 0.0, 0.0, n // 5, m // 5, 0.2 * (n + m), 0, 0)
    return replace(
        look,
        champion_labels=a_labels,
        challenger_labels=b_labels,
        champion_label_clusters=a_sums,
        challenger_label_clusters=b_sums,
        values=sums,
    )


def unlabelled(look: Look) -> Look:
    return replace(look, champion_labels=None, challenger_labels=None, champion_label_clusters=None,
                   challenger_label_clusters=None, values=None)  # fmt: skip


def test_looks_taken_one_by_one_with_labels_later_decide_like_looks_taken_at_once() -> None:
    rng = np.random.default_rng(3)
    seen = [some_look(rng, stage, i) for stage in range(3) for i in range(15)]
    ledger = Ledger(PLAN)
    for count in range(1, len(seen) + 1):
        # the labels of a look come four looks later
        known = [look if i < count - 4 else unlabelled(look) for i, look in enumerate(seen[:count])]
        ledger.take(known)
        stage = known[-1].stage
        decision = decide_from(ledger, stage, 4000.0)
        fresh = decide(PLAN, stage, known, 4000.0)
        assert decision == fresh
        assert decision.labelled_looks == max(0, count - 4)


def test_a_ledger_refuses_looks_that_became_fewer() -> None:
    rng = np.random.default_rng(4)
    seen = [some_look(rng, 0, i) for i in range(3)]
    ledger = Ledger(PLAN)
    ledger.take(seen)
    with pytest.raises(ValueError, match="2 looks are given and 3 are tallied; start a new ledger"):
        ledger.take(seen[:2])
    with pytest.raises(ValueError, match="looks must be in order"):
        ledger.take([*seen, seen[0]])


def test_a_labelled_look_after_one_without_labels_is_not_counted_before_it() -> None:
    """Counting it now and the earlier one later would make the verdict depend on who looked when."""
    rng = np.random.default_rng(5)
    seen = [some_look(rng, 0, i) for i in range(4)]
    hole = [seen[0], unlabelled(seen[1]), seen[2], seen[3]]
    assert decide(PLAN, 0, hole, 0).labelled_looks == 1
    assert decide(PLAN, 0, hole, 0).gates[1].measured.challenger_n == seen[0].challenger_labels.labelled  # type: ignore[union-attr]


def test_a_verdict_on_record_is_recomputed_to_the_last_digit_also_after_looks_were_added() -> None:
    rng = np.random.default_rng(6)
    for worse in (1.0, 3.0):
        seen = [some_look(rng, 0, i, worse=worse) for i in range(30)]
        then = [look if i < 20 else unlabelled(look) for i, look in enumerate(seen[:25])]
        decision = decide(PLAN, 0, then, 4000.0)
        assert decision.verdict is (Verdict.FAIL if worse > 1 else Verdict.PASS)
        again = recompute_from(PLAN, seen, decision)
        assert (again.again, again.differences) == (decision, ())
        record = json.loads(json.dumps(record_of(PLAN, seen, decision), allow_nan=False))
        assert len(record["looks"]) == 25
        assert recompute(record).again == decision


def test_a_verdict_on_evidence_that_could_not_be_read_is_recomputed_as_that() -> None:
    rng = np.random.default_rng(6)
    seen = [some_look(rng, 0, i) for i in range(30)]
    blind = distrust(decide(PLAN, 0, seen, 4000.0), "log away", PLAN)
    assert (blind.verdict, blind.unreadable) == (Verdict.WAIT, "log away")
    assert recompute_from(PLAN, seen, blind).differences == ()


def test_a_record_that_was_changed_is_found_out_and_the_number_named() -> None:
    rng = np.random.default_rng(7)
    seen = [some_look(rng, 0, i) for i in range(30)]
    record = record_of(PLAN, seen, decide(PLAN, 0, seen, 4000.0))
    record["looks"][3]["challenger"]["errors"] += 5
    record["looks"][3]["challenger"]["latency"] = {}
    found = recompute(record).differences
    assert "gates.0.measured.log_e_harm" in found
    assert "gates.0.measured.challenger_bad" in found
    with pytest.raises(ValueError, match="rests on 30 looks, 30 of them with labels; there are 29 and 29"):
        recompute({**record, "looks": record["looks"][:29]})


def test_one_more_look_after_ten_thousand_is_judged_in_under_100_ms() -> None:
    rng = np.random.default_rng(8)
    some = [some_look(rng, 0, i) for i in range(40)]
    seen = [replace(some[i % 40], index=i) for i in range(10_001)]
    ledger = Ledger(PLAN)
    ledger.take(seen[:-1])
    decide_from(ledger, 0, 10.0)
    began = time.process_time()
    ledger.take(seen)
    decide_from(ledger, 0, 10.0)
    assert time.process_time() - began < 0.1


def test_labels_that_are_gone_again_make_a_new_ledger_necessary() -> None:
    """A reader with an older list must not make the tallies skip what it lacks."""
    rng = np.random.default_rng(9)
    seen = [some_look(rng, 0, i) for i in range(6)]
    ledger = Ledger(PLAN)
    ledger.take(seen)
    with pytest.raises(ValueError, match="look 5 had labels before; start a new ledger"):
        ledger.take([*seen[:2], *(unlabelled(look) for look in seen[2:])])
    ledger.take(seen)
    assert decide_from(ledger, 0, 4000.0) == decide(PLAN, 0, seen, 4000.0)


def test_a_verdict_of_another_engine_is_named_as_that_and_not_compared() -> None:
    rng = np.random.default_rng(10)
    seen = [some_look(rng, 0, i) for i in range(6)]
    record = record_of(PLAN, seen, decide(PLAN, 0, seen, 4000.0))
    record["decision"]["engine"] = 0
    with pytest.raises(ValueError, match="the decision was made by engine 0, this is engine 1"):
        recompute(record)
    del record["decision"]["engine"]
    with pytest.raises(ValueError, match="made before decisions could be made again"):
        recompute(record)
