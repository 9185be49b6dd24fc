"""The gateway's way into the log."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from model_rollouts.gateway.shipments import LogWriter, Table

if TYPE_CHECKING:
    from model_rollouts.adapters.log_places import LogRoot

_log = structlog.get_logger(__name__)


class TolerantWriter:
    """Writes rows whose inputs the log can't hold without their inputs.

    An input that changes its type, or differs from another in case alone, can't become a column. The evidence of
    such rows is worth more than their inputs, and rows that are refused for ever would hold up all that follow.

    Args:
        root: The log: a folder of Delta tables, or a `LogStore`.
        app_id: Who writes; the gateway's id.
    """

    def __init__(self, root: "LogRoot", app_id: str) -> None:
        from model_rollouts.adapters.log_places import log_appender

        self._writer = log_appender(root, app_id)

    def append(self, model: str, table: Table, rows: Sequence[Mapping[str, Any]], version: int) -> bool:
        """See `LogWriter`."""
        from model_rollouts.adapters.delta_schema import LogContractError

        try:
            return self._writer.append(model, table, rows, version)
        except LogContractError as error:
            if table != "predictions" or not any(row.get("features") for row in rows):
                raise
            _log.error("inputs_not_logged", model=model, rows=len(rows), segment=version, error=str(error))
        bare = [{**row, "features": {}} for row in rows]
        return self._writer.append(model, table, bare, version)


def open_writer(root: "LogRoot", app_id: str) -> LogWriter:
    """A writer for an application id."""
    return TolerantWriter(root, app_id)
