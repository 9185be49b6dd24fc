import json
from datetime import UTC, datetime, timedelta

import pytest

from model_rollouts.core.registry_snapshot import ChangeKind, RegistryChange, Snapshot, VersionSeen, diff, first_look

AT = datetime(2026, 1, 1, tzinfo=UTC)


def snapshot(challenger=None, versions=None, **more):
    return Snapshot("m", AT, challenger=challenger, versions=versions or {}, **more)


def told(changes):
    return [(change.kind, change.version, dict(change.detail)) for change in changes]


def test_a_snapshot_survives_json():
    full = snapshot("2", {"2": VersionSeen("Staging", "canary", "{}", "r1", "baking")}, champion="1")

    assert Snapshot.from_dict(json.loads(json.dumps(full.to_dict()))) == full


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (snapshot(), snapshot("2"), [(ChangeKind.ALIAS_SET, "2", {"from": ""})]),
        (snapshot("2"), snapshot("3"), [(ChangeKind.ALIAS_SET, "3", {"from": "2"})]),
        (snapshot("2"), snapshot(), [(ChangeKind.ALIAS_REMOVED, "2", {})]),
        (snapshot("2"), snapshot("2"), []),
        (
            snapshot(),
            snapshot(versions={"2": VersionSeen(request="shadow")}),
            [(ChangeKind.REQUESTED, "2", {"pattern": "shadow"})],
        ),
        (
            snapshot(versions={"2": VersionSeen(request="shadow")}),
            snapshot(versions={"2": VersionSeen(request="canary")}),
            [(ChangeKind.REQUESTED, "2", {"pattern": "canary"})],
        ),
        (snapshot(versions={"2": VersionSeen(request="shadow")}), snapshot(), []),
        (
            snapshot(),
            snapshot(versions={"2": VersionSeen("Staging")}),
            [(ChangeKind.STAGED, "2", {"from": "None", "to": "Staging"})],
        ),
        (
            snapshot(versions={"2": VersionSeen("Production")}),
            snapshot(versions={"2": VersionSeen("Archived")}),
            [(ChangeKind.STAGED, "2", {"from": "Production", "to": "Archived"})],
        ),
        (snapshot(versions={"2": VersionSeen("Production")}), snapshot(), []),
    ],
)
def test_what_was_done_between_two_readings(before, after, expected):
    assert told(diff(before, after)) == expected


def test_what_we_write_ourselves_into_tags_is_no_change():
    before = snapshot(versions={"2": VersionSeen(rollout_id="r1", rollout_state="baking")})
    after = snapshot(versions={"2": VersionSeen(rollout_id="r1", rollout_state="promoted", params="{}")})

    assert diff(before, after) == ()


def test_stages_come_first_and_versions_by_number():
    after = snapshot("10", {"10": VersionSeen("Staging", "canary"), "9": VersionSeen("Archived")})

    kinds = [(change.kind, change.version) for change in diff(snapshot(), after)]

    assert kinds == [
        (ChangeKind.STAGED, "9"),
        (ChangeKind.STAGED, "10"),
        (ChangeKind.REQUESTED, "10"),
        (ChangeKind.ALIAS_SET, "10"),
    ]


BEFORE, AFTER = AT - timedelta(days=1), AT + timedelta(days=1)


def news(change: RegistryChange) -> bool:
    return "history" not in change.detail


@pytest.mark.parametrize(
    ("adopted", "began", "expected"),
    [
        (False, None, {ChangeKind.REQUESTED}),
        (False, AFTER, {ChangeKind.REQUESTED}),
        (True, None, {ChangeKind.REQUESTED, ChangeKind.ALIAS_SET}),
        (False, BEFORE, {ChangeKind.REQUESTED, ChangeKind.ALIAS_SET, ChangeKind.STAGED}),
    ],
)
def test_of_a_model_that_was_never_looked_at_only_what_must_be_new_is_news(adopted, began, expected):
    found = snapshot("2", {"2": VersionSeen("Staging", "canary")})

    changes = first_look(found, adopted=adopted, known=(), began=began)

    assert {change.kind for change in changes if news(change)} == expected


@pytest.mark.parametrize("began", [None, BEFORE])
@pytest.mark.parametrize(("known", "tagged"), [(("2",), ""), ((), "r1")])
def test_a_version_that_a_rollout_was_of_is_history_also_when_only_its_own_tags_say_so(began, known, tagged):
    found = snapshot("2", {"2": VersionSeen("Staging", "canary", rollout_id=tagged)})

    changes = first_look(found, adopted=True, known=known, began=began)

    assert changes
    assert not any(news(change) for change in changes)
