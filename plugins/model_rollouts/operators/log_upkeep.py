"""Cares for the prediction log."""

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from model_rollouts.operators.base import wiring

if TYPE_CHECKING:
    from airflow.sdk import Context


class LogUpkeepOperator(BaseOperator):
    """Merges small files, drops old days and removes dead files of every table of the log, or of one model's.

    On retry: does what is left; what was done is not done again. When the store is missing: fails before anything is
    dropped, as nobody knows which days rollouts still need.
    """

    def execute(self, context: "Context") -> list[dict[str, Any]]:
        """Return what was done, one mapping a table.

        Raises:
            RuntimeError: A table could not be cared for; the others were.
        """
        from dataclasses import asdict

        params = context["params"]
        done = wiring().log_upkeep.run(params.get("model"), dry_run=bool(params.get("dry_run")))
        for each in done:
            self.log.info("%s", each)
        if failed := [f"{each.table} of {each.model}: {each.error}" for each in done if each.error]:
            raise RuntimeError(f"{len(failed)} of {len(done)} tables failed: {'; '.join(failed)}")
        return [
            asdict(each) | {"kept_since": None if each.kept_since is None else str(each.kept_since)} for each in done
        ]
