"""What a model's registry entry says that can start a rollout, and what changed between two readings of it."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

NO_STAGE = "None"
REQUEST_TAG = "rollout.request"  # on a version: the pattern that it asks for
PARAMS_TAG = "rollout.params"  # on a version: values for that pattern's form, as a JSON object
DEFAULT_PATTERN_TAG = "rollout.pattern.default"  # on a model: the pattern where a version names none


class ChangeKind(StrEnum):
    """What somebody did in the registry."""

    ALIAS_SET = "alias_set"  # the alias challenger points to the version now
    ALIAS_REMOVED = "alias_removed"  # the version was the challenger, and the model has none now
    REQUESTED = "requested"  # the tag rollout.request of the version got a value, or another one
    STAGED = "staged"  # the version was moved to another stage


@dataclass(frozen=True, slots=True)
class VersionSeen:
    """A version as the registry had it.

    Attributes:
        stage: Its registry stage.
        request: Value of its tag `rollout.request`, or "".
        params: Value of its tag `rollout.params`, or "".
        rollout_id: The rollout that its tags name, or "". Written by us, so it tells nothing new.
        rollout_state: That rollout's state when the tags were last written.
    """

    stage: str = NO_STAGE
    request: str = ""
    params: str = ""
    rollout_id: str = ""
    rollout_state: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model as the registry had it.

    Attributes:
        model: Registered model name.
        created_at: When it was registered, UTC.
        champion: Version with the alias champion, or None.
        challenger: Version with the alias challenger, or None.
        default_pattern: Value of its tag `rollout.pattern.default`, or "".
        versions: The versions that have a stage or one of the tags, by number; the others say nothing.
    """

    model: str
    created_at: datetime
    champion: str | None = None
    challenger: str | None = None
    default_pattern: str = ""
    versions: Mapping[str, VersionSeen] = field(default_factory=dict)

    def version(self, number: str) -> VersionSeen:
        """What a version says; nothing where it is not listed."""
        return self.versions.get(number, VersionSeen())

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**asdict(self), "created_at": self.created_at.isoformat()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Snapshot":
        """The other way round."""
        versions = {number: VersionSeen(**seen) for number, seen in data["versions"].items()}
        return cls(**{**data, "created_at": datetime.fromisoformat(data["created_at"]), "versions": versions})


@dataclass(frozen=True, slots=True)
class RegistryChange:
    """One thing that somebody did to one version.

    Attributes:
        model: Registered model name.
        kind: What.
        version: To which version.
        detail: ALIAS_SET: {"from": version that had it, or ""}. REQUESTED: {"pattern"}. STAGED: {"from", "to"}.
            With "history": why it is no news.
    """

    model: str
    kind: ChangeKind
    version: str
    detail: Mapping[str, str] = field(default_factory=dict)


def diff(before: Snapshot, after: Snapshot) -> tuple[RegistryChange, ...]:
    """What was done between two readings; what was done and undone between them is not seen.

    Stages come first: a challenger that is taken out must be rolled back whatever else was done. A version that was
    deleted, a tag that was taken away and a stage that became None ask for nothing.
    """
    model, staged, requested = after.model, [], []
    for number in sorted(after.versions, key=lambda text: (len(text), text)):
        old, new = before.version(number), after.versions[number]
        if new.stage not in (old.stage, NO_STAGE):
            detail = {"from": old.stage, "to": new.stage}
            staged.append(RegistryChange(model, ChangeKind.STAGED, number, detail))
        if new.request and new.request != old.request:
            requested.append(RegistryChange(model, ChangeKind.REQUESTED, number, {"pattern": new.request}))
    alias = []
    if after.challenger is not None and after.challenger != before.challenger:
        detail = {"from": before.challenger or ""}
        alias.append(RegistryChange(model, ChangeKind.ALIAS_SET, after.challenger, detail))
    if after.challenger is None and before.challenger is not None:
        alias.append(RegistryChange(model, ChangeKind.ALIAS_REMOVED, before.challenger))
    return (*staged, *requested, *alias)


def first_look(
    after: Snapshot, adopted: bool, known: Collection[str], began: datetime | None
) -> tuple[RegistryChange, ...]:
    """What a model says that was never looked at before: news, or history.

    Nobody knows when the aliases, tags and stages of such a model were set, unless it was registered after the watch
    began. A tag `rollout.request` is a wish to us, so it counts; the alias counts for a model that we serve; stages,
    and aliases of other models, may be years old. A version that a rollout was of, by the store or by its own tags
    (which outlive a store that was lost), is never news.

    Args:
        after: The first reading.
        adopted: Whether the store has traffic of the model.
        known: Versions that the store has rollouts of.
        began: When the first model was looked at; None: this is it.
    """
    fresh = began is not None and after.created_at >= began
    found = []
    for change in diff(Snapshot(after.model, after.created_at), after):
        why = ""
        if change.version in known or after.version(change.version).rollout_id:
            why = "a rollout of the version is on record"
        elif change.kind is ChangeKind.ALIAS_SET and not (fresh or adopted):
            why = "the model has no traffic here"
        if change.kind is ChangeKind.STAGED and (why or not fresh):
            continue  # every version of a registry with stages has one
        history = {"history": f"it was there when the model was first looked at, and {why}"} if why else {}
        found.append(RegistryChange(change.model, change.kind, change.version, {**change.detail, **history}))
    return tuple(found)
