"""A Delta table goes back to an earlier version. Nothing is deleted: what is undone stays readable by its version."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from model_rollouts.core.errors import DataRollbackError, NotReadyError

if TYPE_CHECKING:
    from deltalake import DeltaTable

_TRIES = 5
_MARK = "model_rollouts.data_rollback"  # in the commit: who made it, so that it is not made twice
_LISTED = 100  # commits that a result names


def current_version(target: str) -> int:
    """The table's version now.

    Raises:
        NotReadyError: There is no table that can be read.
    """
    try:
        return int(_table(target).version())
    except Exception as error:
        raise NotReadyError(f"{target} can't be read as a Delta table, so it could not be restored: {error}") from error


def check_version(target: str, version: int) -> None:
    """See that a table can still be read as it was at a version.

    Raises:
        NotReadyError: It can't: the version is yet to come, or its log is gone.
    """
    have = current_version(target)
    if version > have:
        raise NotReadyError(f"version of a data rollback is {version}, {target} has only {have}; give an earlier one")
    try:
        _table(target, version).file_uris()
    except Exception as error:
        raise NotReadyError(
            f"version {version} of {target} can't be read any more: {error}; give a later one"
        ) from error


def restore(target: str, version: int, mark: str) -> dict[str, Any]:
    """Make a table what it was at a version, as a new version of it.

    Args:
        target: Path or URI.
        version: What to go back to.
        mark: Whose doing this is. Once a commit has the mark nothing is done again, whatever was written since.

    Returns:
        "from_version", "to_version", "new_version" (None: nothing was to be done), "undone" (version, time in
        milliseconds since 1970 and operation of the commits that no longer count, newest first, at most 100),
        "files_removed", "files_restored", "detail".

    Raises:
        DataRollbackError: The table has no such version, or is written to all the time.
        Exception: Whatever Delta raises, such as for files that are gone.
    """
    from deltalake import CommitProperties
    from deltalake.exceptions import CommitFailedError

    for _ in range(_TRIES):
        table = _table(target)
        before = int(table.version())
        if before < version:
            raise DataRollbackError(
                f"{target} is at version {before}, and version {version} was to be restored: it was made anew since; "
                "see by hand what it must hold"
            )
        undone = _commits_after(table, version)
        if done := next((commit for commit in undone if commit.get(_MARK) == mark), None):
            since = before - int(done["version"])
            return _told(
                *(before, version, None, [], {}),
                f"was restored to version {version} before, as version {done['version']}"
                + (f"; {since} commits since then are left as they are" if since else ""),
            )
        if before == version:
            return _told(before, version, None, [], {}, f"is at version {version}: there is nothing to undo")
        try:
            metrics = table.restore(version, commit_properties=CommitProperties(custom_metadata={_MARK: mark}))
        except CommitFailedError:
            continue  # somebody wrote meanwhile; what that was must be in the result, so look again
        new = int(table.version())
        detail = (
            f"restored from version {before} to version {version}, as version {new}: {_listed(undone)} undone, still "
            f"readable as version {before} until the table is vacuumed"
        )
        return _told(before, version, new, undone, metrics, detail)
    raise DataRollbackError(f"{target} was written to during each of {_TRIES} tries; stop its writers and try again")


# --- inside


def _table(target: str, version: int | None = None) -> "DeltaTable":
    from deltalake import DeltaTable

    return DeltaTable(target, version=version)


def _commits_after(table: "DeltaTable", version: int) -> list[dict[str, Any]]:
    """Newest first."""
    commits = table.history(limit=int(table.version()) - version) if table.version() > version else []
    return [commit for commit in commits if int(commit["version"]) > version]


def _listed(commits: list[dict[str, Any]]) -> str:
    kinds = Counter(str(commit.get("operation", "?")) for commit in commits)
    what = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
    return f"{len(commits)} commit{'' if len(commits) == 1 else 's'} ({what})"


def _told(
    before: int, version: int, new: int | None, undone: list[dict[str, Any]], metrics: Mapping[str, Any], detail: str
) -> dict[str, Any]:
    return {
        "from_version": before,
        "to_version": version,
        "new_version": new,
        "undone": [
            {
                "version": int(commit["version"]),
                "timestamp": commit.get("timestamp"),
                "operation": str(commit.get("operation", "?")),
            }
            for commit in undone[:_LISTED]
        ],
        "files_removed": int(metrics.get("numRemovedFile", 0)),
        "files_restored": int(metrics.get("numRestoredFile", 0)),
        "detail": detail,
    }
