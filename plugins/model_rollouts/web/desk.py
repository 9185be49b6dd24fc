"""What the page's requests need of the parts. Everything that blocks is here, and nothing of HTTP."""

import contextlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from model_rollouts.core.by_hand import Deed
from model_rollouts.core.errors import NotFoundError, RolloutError
from model_rollouts.core.plan import Pattern
from model_rollouts.core.rollout import Event, EventKind, Rollout
from model_rollouts.web.access import Access
from model_rollouts.web.evidence import Evidence, Judging
from model_rollouts.web.reports import Reports
from model_rollouts.web.told import rollout_told, row_told

if TYPE_CHECKING:
    from model_rollouts.airflow_ports import Question, StageDags
    from model_rollouts.by_hand import ByHand, Done
    from model_rollouts.core.evidence import Look
    from model_rollouts.wiring import Wiring

APPROVE = "approve"

_PAGE_ROWS = 50
_WAIT_SECONDS = 0.05  # for new looks to be added up, before what there is is shown

_PROMPT_SECONDS = 4.0  # what follows from a step is waited for so long
_LONGEST_SECONDS = 60.0  # for the step itself: where it looks at the evidence first, it reads the log
_MOST_DOING = 64  # steps at once; an MLflow that hangs holds each for up to a minute, and the next must not wait
_NEWEST = 5
_LONG_WORDS = re.compile(r"\((.{80}).*\); ", re.DOTALL)

logger = logging.getLogger(__name__)


class Desk:
    """What one request needs of the parts.

    Args:
        parts: The process's adapters.
        evidence: Views of the looks.
        reports: What MLflow has.
        dags: Makes the way to Airflow's DAGs for a user.
    """

    def __init__(
        self,
        parts: "Wiring",
        evidence: Evidence | None = None,
        reports: Reports | None = None,
        dags: "Callable[[Any], StageDags] | None" = None,
    ) -> None:
        from model_rollouts.adapters.mlflow_reports import MlflowReports
        from model_rollouts.adapters.sql_page import SqlPage

        self.parts = parts
        self.page = SqlPage(parts.settings.store_url)
        self.evidence = evidence or Evidence(self.page)
        self.reports = reports or Reports(MlflowReports(parts.settings.mlflow_tracking_uri))
        self._dags = dags or _users_dags
        self._doers = ThreadPoolExecutor(max_workers=_MOST_DOING, thread_name_prefix="rollouts-page")

    def rollouts(self, access: Access, asked: Mapping[str, Any]) -> dict[str, Any]:
        """One page of the list."""
        from model_rollouts.adapters.sql_page import Asked

        readable = [pattern.value for pattern in access.readable()]
        number = int(asked["page"])
        found = self.page.rollouts(
            Asked(
                patterns=None if len(readable) == len(Pattern) else tuple(readable),
                states=asked["states"],
                pattern=asked["pattern"],
                model=asked["model"],
                text=asked["text"],
                limit=_PAGE_ROWS,
                offset=(number - 1) * _PAGE_ROWS,
            )
        )
        return {
            "rollouts": [row_told(row) for row in found.rows],
            "total": found.total,
            "by_state": found.by_state,
            "models": found.models,
            "patterns": readable,
            "page": number,
            "pages": max(1, -(-found.total // _PAGE_ROWS)),
            "user": access.name,
        }

    def of_run(self, access: Access, dag_id: str, run_id: str) -> dict[str, Any]:
        """The rollouts that a DAG run has to do with, and whether the DAG is one of a pattern."""
        pattern = next((pattern.value for pattern in Pattern if pattern.dag_id == dag_id), None)
        found = [each for each in self.page.ids_of_run(dag_id, run_id)[:20] if run_id and self._seen(access, each)]
        return {"pattern": pattern, "rollouts": found}

    def rollout(self, access: Access, rollout_id: str) -> dict[str, Any]:
        """One rollout, whole."""
        store = self.parts.store
        rollout = self._readable(access, rollout_id)
        traffic = store.traffic(rollout.model)
        if traffic is None:
            raise NotFoundError(f"traffic of {rollout.model} is missing though {rollout_id} exists; check the store")
        events = store.events(rollout_id=rollout_id)
        view = self.evidence.view(rollout_id, rollout.plan, lambda: self._judging(rollout_id), _WAIT_SECONDS)
        may = access.may_act(_patterns(rollout))
        by_hand = self._by_hand(access)
        told = rollout_told(
            rollout, traffic, events, view, by_hand.offers(rollout_id) if may else [], self._question(access, events)
        )
        return told | {"may_act": may, "user": access.name, "mlflow": self._mlflow()}

    def reports_of(self, access: Access, rollout_id: str) -> dict[str, Any]:
        """The reports of a rollout's stages."""
        return self.reports.stages(self._readable(access, rollout_id), self._mlflow())

    def report(self, access: Access, rollout_id: str, run_id: str, path: str) -> bytes:
        """One report's file."""
        return self.reports.read(self._readable(access, rollout_id), run_id, path)

    def act(self, access: Access, rollout_id: str, deed: str, reason: str, seen: int) -> dict[str, Any]:
        """Do something to a rollout; gives what came of it."""
        rollout = self._readable(access, rollout_id)
        if not access.may_act(_patterns(rollout)):
            needed = ", ".join(sorted({pattern.dag_id for pattern in _patterns(rollout)}))
            raise PermissionError(f"{access.name} may look at {rollout_id} and not change it: that takes the right to "
                                  f"trigger the DAG {needed}")  # fmt: skip
        doing = self._doers.submit(self._do, access, rollout_id, deed, reason, seen)
        for wait in (_PROMPT_SECONDS, _LONGEST_SECONDS):
            with contextlib.suppress(TimeoutError):
                return doing.result(timeout=wait)
            now = self.parts.store.rollout(rollout_id)
            events = self.parts.store.events(rollout_id=rollout_id)[-_NEWEST:]
            mine = any((e.actor, e.reason) == (_actor(access), reason.strip()) for e in events)
            if mine and now.revision != rollout.revision:  # done; what follows may take as long as it likes
                warnings = ["it is done; MLflow or Airflow is slow to follow, and is still being told"]
                if deed == Deed.ROLL_BACK:  # its run is started here, and is there already when the rest gets to it
                    warnings += self._undo_data(access, now, _actor(access), reason)
                return _outcome(now, (), warnings)
        raise RolloutError(f"{deed.replace('_', ' ')} of {rollout_id} takes long; look again whether it was done")

    def _do(self, access: Access, rollout_id: str, deed: str, reason: str, seen: int) -> dict[str, Any]:
        by_hand, actor = self._by_hand(access), _actor(access)
        done: Done
        if deed == APPROVE:
            done = by_hand.approve(rollout_id, actor, reason, seen)
        else:
            done = by_hand.do(Deed(deed), rollout_id, actor, reason, seen)
        warnings = [_short(warning) for warning in done.warnings]
        if deed == Deed.ROLL_BACK:
            warnings += self._undo_data(access, done.rollout, actor, reason)
        return _outcome(done.rollout, done.follows, warnings)

    def since(self, rollout_id: str, seen: int) -> list[dict[str, Any]]:
        """The steps that a rollout has taken since somebody looked at it."""
        events = [e for e in self.parts.store.events(rollout_id=rollout_id) if e.kind in _STEPS]
        return [
            {"kind": e.kind.value, "at": e.at.isoformat(), "actor": e.actor, "reason": e.reason[:500]}
            for e in events[max(seen, 0) :]
        ]

    # --- inside

    def _readable(self, access: Access, rollout_id: str) -> Rollout:
        """The rollout, where the user may see it; one that they may not see is not there for them."""
        rollout = self.parts.store.rollout(rollout_id)
        if rollout.plan.pattern not in access.readable():
            raise NotFoundError(f"there is no rollout {rollout_id!r} that you may see")
        return rollout

    def _seen(self, access: Access, rollout_id: str) -> bool:
        try:
            self._readable(access, rollout_id)
        except NotFoundError:
            return False
        return True

    def _by_hand(self, access: Access) -> "ByHand":
        from model_rollouts.by_hand import ByHand

        return ByHand(
            self.parts.service, lambda: self._dags(access.user), lambda rollout: self._may_answer(access, rollout)
        )

    def _may_answer(self, access: Access, rollout: Rollout) -> bool:
        """Whether the user may give the approval that the rollout's stage asks for; not, where Airflow does not say."""
        if not access.may_answer(rollout.plan.pattern_of(max(rollout.stage, 0)).dag_id):
            return False
        run = self.parts.service.run_of(rollout.id)
        try:
            questions = self._dags(access.user).questions(run["dag_id"], run["run_id"]) if run else ()
        except Exception as error:  # whatever Airflow's database says, the rollout is shown
            logger.info("questions of %s can't be read: %s", run["run_id"], type(error).__name__)
            return False
        return all(access.is_one_of(question.assigned) for question in questions)

    def _question(self, access: Access, events: Sequence[Event]) -> "Question | None":
        """What the rollout's newest run waits for a person with; nothing where Airflow does not say."""
        run = next((e.evidence["run"] for e in reversed(events) if e.evidence.get("run")), None)
        if run is None or any(e.kind in (EventKind.ROLLED_BACK, EventKind.CUT_OVER) for e in events[-3:]):
            return None
        try:
            return next(iter(self._dags(access.user).questions(run["dag_id"], run["run_id"])), None)
        except Exception as error:  # whatever Airflow's database says, the rollout is shown
            logger.info("questions of %s can't be read: %s", run["run_id"], type(error).__name__)
            return None

    def _judging(self, rollout_id: str) -> Judging:
        """What the verdict as of now needs; of a rollout that has ended, as of its end."""
        from model_rollouts.looks import seen_looks

        service = self.parts.service
        rollout = service.store.rollout(rollout_id)
        if rollout.stage < 0 or rollout.judged_from is None:
            return Judging(None, 0.0, lambda _: ())
        elapsed = ((rollout.ended_at or datetime.now(UTC)) - rollout.judged_from).total_seconds()
        spans, resumed = service.spans(rollout), service.resumed(rollout)

        def resumptions(looks: "Sequence[Look]") -> list[int]:
            return [seen_looks(rollout.plan, spans, looks, [at]) for at in resumed]

        return Judging(rollout.stage, elapsed, resumptions)

    def _undo_data(self, access: Access, rollout: Rollout, actor: str, reason: str) -> list[str]:
        """Data that the plan undoes is undone by a run of the DAG rollback: it is slow, and may fail."""
        from model_rollouts.core.rollout import data_left

        if not data_left(rollout, self.parts.store.events(rollout_id=rollout.id)):
            return []
        remedy = f"run `rollouts rollback {rollout.model}` or the DAG rollback"
        if not access.may_trigger("rollback"):
            return [f"data is not undone yet, as you may not trigger the DAG rollback; {remedy}"]
        try:
            dags, run_id = self._dags(access.user), f"{rollout.id}--data"
            dag = dags.dag("rollback")
            if dag is None or dag.get("is_paused"):
                return [f"data is not undone yet: the DAG rollback is {'paused' if dag else 'not there'}; {remedy}"]
            dags.trigger("rollback", run_id, {"model": rollout.model, "reason": reason, "requested_by": actor})
        except Exception as error:  # the traffic is back, whatever Airflow says
            return [f"data is not undone yet ({type(error).__name__}); {remedy}"]
        return []

    def _mlflow(self) -> str:
        """MLflow's address for a browser, without what may be secret in it; "" where it is none."""
        from urllib.parse import urlsplit, urlunsplit

        settings = self.parts.settings
        parts = urlsplit(settings.mlflow_ui_url or settings.mlflow_tracking_uri)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return ""
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


_STEPS = frozenset({
    EventKind.STARTED, EventKind.STAGE_OPENED, EventKind.CLEARED, EventKind.HELD, EventKind.RESUMED,
    EventKind.CUT_OVER, EventKind.ROLLED_BACK,
})  # fmt: skip


def _actor(access: Access) -> str:
    return f"{access.name} (page)"


def _outcome(rollout: Rollout, follows: Sequence[str], warnings: Sequence[str]) -> dict[str, Any]:
    return {
        "id": rollout.id,
        "state": rollout.state.value,
        "revision": rollout.revision,
        "follows": list(follows),
        "warnings": list(warnings),
    }


def _short(warning: str) -> str:
    """A warning without a library's long words."""
    return _LONG_WORDS.sub(r"(\1 ...); ", warning)


def _users_dags(user: Any) -> "StageDags":
    from model_rollouts.web.dag_runs import UsersDags

    return UsersDags(user)


def _patterns(rollout: Rollout) -> set[Pattern]:
    """The patterns whose DAGs a person sets in motion when they act on the rollout."""
    plan, stage = rollout.plan, max(rollout.stage, 0)
    return {plan.pattern, plan.pattern_of(stage), plan.pattern_of(min(stage + 1, len(plan.stages) - 1))}
