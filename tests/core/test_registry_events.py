"""The mapping of docs/registry-triggers.md, row by row."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from model_rollouts.core import rollout as steps
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.plan import Pattern
from model_rollouts.core.registry_events import Intention, Response, View, refused, respond
from model_rollouts.core.registry_snapshot import ChangeKind, RegistryChange, Snapshot, VersionSeen
from model_rollouts.core.rollout import Cause, Rollout, State
from model_rollouts.core.traffic import Traffic

AT = datetime(2026, 1, 1, tzinfo=UTC)
BASE = Traffic("m", champion="1")


def rollout_of(version: str, state: State = State.BAKING, rollout_id: str = "r1") -> Rollout:
    change = steps.start(rollout_id, plan_canary(CanaryParameters()), version, "s", BASE, Cause("test", AT, "started"))
    assert change.rollout is not None
    return replace(change.rollout, state=state)


def view(challenger=None, version=None, traffic: Traffic | None = BASE, rollouts=(), **more) -> View:
    known = {"default_pattern": more.pop("model_default", "")}
    versions = {"2": version} if version else {}
    versions |= more.pop("others", {})
    snapshot = Snapshot("m", AT, champion=more.pop("champion", "1"), challenger=challenger, versions=versions, **known)
    return View(snapshot, traffic, tuple(rollouts), **more)


def alias(version: str = "2") -> RegistryChange:
    return RegistryChange("m", ChangeKind.ALIAS_SET, version, {"from": ""})


def request(pattern: str = "shadow") -> RegistryChange:
    return RegistryChange("m", ChangeKind.REQUESTED, "2", {"pattern": pattern})


def staged(to: str, source: str = "None", version: str = "2") -> RegistryChange:
    return RegistryChange("m", ChangeKind.STAGED, version, {"from": source, "to": to})


def test_the_alias_starts_the_pattern_of_the_settings():
    found = respond(alias(), view("2", default_pattern=Pattern.GRADUAL))

    assert found.response is Response.START
    assert found.dag_id == "gradual"
    assert found.conf == {"model": "m", "challenger": "2", "requested_by": "registry"}


def test_the_alias_starts_the_pattern_of_the_model_before_that_of_the_settings():
    assert respond(alias(), view("2", model_default="ab_test")).dag_id == "ab_test"


def test_the_alias_starts_the_pattern_of_the_version_before_that_of_the_model():
    assert respond(alias(), view("2", VersionSeen(request="Blue-Green"), model_default="canary")).dag_id == "blue_green"


@pytest.mark.parametrize("pattern", list(Pattern))
def test_each_pattern_has_its_dag(pattern):
    found = respond(request(pattern.value), view(version=VersionSeen(request=pattern.value)))

    assert (found.response, found.dag_id) == (Response.START, pattern.value.replace("-", "_"))


def test_a_version_moved_to_staging_starts():
    assert respond(staged("Staging"), view(version=VersionSeen("Staging"))).response is Response.START


def test_a_version_moved_to_production_without_a_rollout_starts_the_pattern():
    seen = VersionSeen("Production", request="blue-green")

    found = respond(staged("Production", "Staging"), view(version=seen))

    assert (found.response, found.dag_id) == (Response.START, "blue_green")


def test_a_version_moved_to_production_resumes_its_rollout_where_it_holds():
    holding = rollout_of("2", State.HOLDING)

    found = respond(staged("Production", "Staging"), view(version=VersionSeen("Production"), rollouts=[holding]))

    assert (found.response, found.dag_id) == (Response.RESUME, "canary")
    assert found.conf == {"model": "m", "challenger": "2", "rollout_id": "r1", "requested_by": "registry"}


@pytest.mark.parametrize("state", [State.PENDING, State.BAKING, State.CLEARED])
def test_a_version_moved_to_production_leaves_a_rollout_that_goes_on_to_its_plan(state):
    seen = view(version=VersionSeen("Production"), rollouts=[rollout_of("2", state)])

    found = respond(staged("Production", "Staging"), seen)

    assert (found.response, found.dag_id) == (Response.NOTHING, "")
    assert "goes on by its plan" in found.reason


@pytest.mark.parametrize("source", ["Production", "Staging", "None"])
def test_a_challenger_moved_to_archived_is_rolled_back(source):
    seen = view(version=VersionSeen("Archived"), rollouts=[rollout_of("2")])

    found = respond(staged("Archived", source), seen)

    assert (found.response, found.dag_id) == (Response.ROLL_BACK, "rollback")
    assert found.conf == {"model": "m", "reason": found.reason}
    assert "rollout r1" in found.reason


def promoted(previous: str | None = "1") -> Traffic:
    return Traffic("m", champion="2", previous=previous)


def test_a_promoted_champion_moved_from_production_to_archived_is_rolled_back():
    found = respond(staged("Archived", "Production"), view(version=VersionSeen("Archived"), traffic=promoted()))

    assert (found.response, found.dag_id) == (Response.ROLL_BACK, "rollback")


def test_a_champion_without_an_earlier_one_kept_is_refused_and_reported():
    seen = view(version=VersionSeen("Archived"), traffic=promoted(previous=None))

    found = respond(staged("Archived", "Production"), seen)

    assert (found.response, found.dag_id, found.reported) == (Response.REFUSED, "", True)


def test_a_champion_archived_because_another_version_went_to_production_is_not_rolled_back():
    # MLflow archives what was in Production when a version is moved there, unless told otherwise
    seen = view(version=VersionSeen("Archived"), traffic=promoted(), others={"3": VersionSeen("Production")})

    found = respond(staged("Archived", "Production"), seen)

    assert found.response is Response.NOTHING
    assert "version 3 was put in its place" in found.reason


def test_a_champion_archived_while_another_version_is_rolled_out_is_reported():
    seen = view(version=VersionSeen("Archived"), traffic=promoted(), rollouts=[rollout_of("3")])

    found = respond(staged("Archived", "Production"), seen)

    assert (found.response, found.reported) == (Response.NOTHING, True)


def test_a_version_that_neither_serves_nor_wants_to_is_archived_in_peace():
    found = respond(staged("Archived", "Production"), view(version=VersionSeen("Archived")))

    assert (found.response, found.reported) == (Response.NOTHING, False)


def test_a_challenger_archived_before_its_rollout_began_is_asked_about_again():
    seen = view(version=VersionSeen("Archived"), starting={"2": 7})

    assert respond(staged("Archived", "Staging"), seen) is None


STARTS = [
    (alias(), "2", VersionSeen(request="shadow")),
    (request(), None, VersionSeen(request="shadow")),
    (staged("Staging"), None, VersionSeen("Staging", "shadow")),
    (staged("Production"), None, VersionSeen("Production", "shadow")),
]


@pytest.mark.parametrize(("change", "challenger", "seen"), STARTS)
def test_nothing_follows_where_the_registry_says_what_the_store_says(change, challenger, seen):
    serving = respond(change, view(challenger, seen, traffic=promoted()))
    rolling = respond(change, view(challenger, seen, rollouts=[rollout_of("2")]))

    assert (serving.response, serving.reported) == (Response.NOTHING, False)
    assert (rolling.response, rolling.reported) == (Response.NOTHING, False)


@pytest.mark.parametrize(("change", "challenger", "seen"), STARTS)
def test_a_second_wish_for_a_version_whose_start_is_under_way_starts_nothing(change, challenger, seen):
    found = respond(change, view(challenger, seen, starting={"2": 7}))

    assert (found.response, found.reported) == (Response.NOTHING, False)
    assert "already started by change 7" in found.reason


@pytest.mark.parametrize(("change", "challenger", "seen"), STARTS)
@pytest.mark.parametrize("more", [{"rollouts": [rollout_of("3")]}, {"starting": {"3": 7}}])
def test_another_version_that_is_rolled_out_is_reported(change, challenger, seen, more):
    found = respond(change, view(challenger, seen, **more))

    assert (found.response, found.reported) == (Response.NOTHING, True)
    assert "one rollout at a time" in found.reason


@pytest.mark.parametrize(("change", "challenger", "seen"), STARTS)
def test_what_was_changed_again_since_starts_nothing(change, challenger, seen):
    found = respond(change, view())

    assert found.response is Response.NOTHING
    assert "changed again since" in found.reason


def test_a_version_that_was_rolled_back_can_be_started_again_by_hand():
    over = rollout_of("2", State.ROLLED_BACK)
    seen = VersionSeen(rollout_id="r1", rollout_state="rolled_back")

    assert respond(alias(), view("2", seen, rollouts=[over])).response is Response.START


@pytest.mark.parametrize("change", [alias(), staged("Staging")])
def test_what_a_rollout_left_behind_when_mlflow_was_away_starts_nothing(change):
    # the rollout has ended, and could neither take the alias away nor say so in its tags
    over = rollout_of("2", State.ROLLED_BACK)
    seen = VersionSeen("Staging", rollout_id="r1", rollout_state="baking")

    found = respond(change, view("2", seen, rollouts=[over]))

    assert (found.response, found.reported) == (Response.NOTHING, True)
    assert "may be left" in found.reason


def test_a_request_is_no_leftover():
    over = rollout_of("2", State.ROLLED_BACK)
    seen = VersionSeen(request="shadow", rollout_id="r1", rollout_state="baking")

    assert respond(request(), view("2", seen, rollouts=[over])).response is Response.START


def test_tags_of_a_rollout_that_the_store_has_lost_do_not_lock_a_version():
    seen = VersionSeen(rollout_id="gone", rollout_state="baking")

    assert respond(alias(), view("2", seen)).response is Response.START


def test_an_alias_removed_during_a_rollout_is_reported():
    change = RegistryChange("m", ChangeKind.ALIAS_REMOVED, "2")

    by_hand = respond(change, view(rollouts=[rollout_of("2")]))
    by_us = respond(change, view(rollouts=[rollout_of("2", State.ROLLED_BACK)]))
    set_again = respond(change, view("2", rollouts=[rollout_of("2")]))

    assert (by_hand.response, by_hand.reported) == (Response.NOTHING, True)
    assert (by_us.response, by_us.reported) == (Response.NOTHING, False)
    assert (set_again.response, set_again.reported) == (Response.NOTHING, False)


def test_params_of_the_version_go_into_the_form():
    seen = VersionSeen(request="canary", params=json.dumps({"steps": [5, 100], "alpha": 0.02}))

    found = respond(request("canary"), view(version=seen))

    assert found.conf == {
        "steps": [5, 100],
        "alpha": 0.02,
        "model": "m",
        "challenger": "2",
        "requested_by": "registry",
    }


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("{steps: 1}", "no JSON"),
        ("[1]", "must be a JSON object"),
        ('{"alpha": NaN}', "NaN is no number"),
        ('{"model": "other"}', "names model"),
        ('{"rollout_id": "r9", "stage": 3}', "names rollout_id, stage"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_bad_params_are_refused_and_reported(params, message):
    found = respond(request("canary"), view(version=VersionSeen(request="canary", params=params)))

    assert (found.response, found.dag_id, found.reported) == (Response.REFUSED, "", True)
    assert message in found.reason


def test_an_unknown_pattern_is_refused_and_the_known_ones_are_named():
    found = respond(request("cannary"), view(version=VersionSeen(request="cannary")))

    assert (found.response, found.reported) == (Response.REFUSED, True)
    assert "blue-green, shadow, canary, ab-test, gradual" in found.reason


def test_without_a_champion_a_wish_is_refused_and_a_stage_is_everybodys():
    wish = respond(alias(), view("2", champion=None, traffic=None))
    stage = respond(staged("Production"), view(version=VersionSeen("Production"), champion=None, traffic=None))

    assert (wish.response, wish.reported) == (Response.REFUSED, True)
    assert (stage.response, stage.reported) == (Response.NOTHING, False)


def test_history_starts_nothing():
    change = replace(alias(), detail={"from": "", "history": "it was there"})

    assert respond(change, view("2")).response is Response.NOTHING


def test_an_intention_survives_json():
    found = respond(alias(), view("2"))

    assert Intention.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_run_that_airflow_does_not_take_is_refused_and_reported():
    found = refused(respond(alias(), view("2")), "DAG canary is paused")

    assert (found.response, found.reported) == (Response.REFUSED, True)
    assert "DAG canary is paused" in found.reason
