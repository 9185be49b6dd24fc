"""Finds what a crash or a hand has left between store, registry, gateways and DAG runs.

What is provably unfinished is finished. Everything else is reported and left to a person.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from model_rollouts.changing import change_traffic
from model_rollouts.core import upkeep
from model_rollouts.core.decision import Action, Verdict
from model_rollouts.core.errors import IllegalTransitionError, NotFoundError, NotReadyError, StaleRevisionError
from model_rollouts.core.names import stage_run_id
from model_rollouts.core.plan import Advance
from model_rollouts.core.rollout import Cause, Change, EventKind, Rollout, State, data_begun, data_left
from model_rollouts.core.traffic import Traffic
from model_rollouts.ports import Gateways, ModelVersion
from model_rollouts.service import RolloutService

#: A step that is this young may still be followed by its next one.
SETTLING = timedelta(seconds=60)
_DRILL = timedelta(minutes=10)
#: So long after the last label is due a promoted rollout is still looked at: one look has to come after it.
_LAST_LOOKS = timedelta(hours=1)
_REPEATS = 20  # newest events among which a report is not repeated
_MOST_RUNS = 6  # runs of one stage, the first included

RunState = Callable[[str, str], str | None]
"""(dag id, run id) -> "alive", "ended", or None where there is no such run."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was not as it should be.

    Attributes:
        model: Registered model name.
        what: One sentence.
        repaired: Whether it is as it should be now; otherwise somebody has to look.
        rollout_id: The rollout that it is about, or None.
        resume: The stage that needs a run, or None.
        run_id: Id for that run.
    """

    model: str
    what: str
    repaired: bool
    rollout_id: str | None = None
    resume: int | None = None
    run_id: str | None = None


class Reconciler:
    """Looks at everything once.

    Args:
        service: The use cases.
        gateways: The serving processes.
        state: Tells whether a DAG run is alive.
        actor: Who is written down.
        settling: What is younger than this is left alone.
    """

    def __init__(
        self,
        service: RolloutService,
        gateways: Gateways,
        state: RunState,
        actor: str,
        settling: timedelta = SETTLING,
    ) -> None:
        self._service = service
        self._store = service.store
        self._gateways = gateways
        self._state = state
        self._actor = actor
        self._settling = settling

    def check(self) -> list[Finding]:
        """Every model in turn; a model that can't be looked at is a finding, and does not hide the others."""
        found: list[Finding] = []
        for traffic in self._store.all_traffic():
            for look in (self._traffic, self._run, self._registry, self._gateway):
                try:
                    found += look(traffic.model)
                except Exception as error:  # one part that is away must not hide the others
                    what = f"{traffic.model} could not be reconciled: {type(error).__name__}: {error}"[:1000]
                    found.append(Finding(traffic.model, what, repaired=False))
        for finding in found:
            self._record(finding)
        return found

    # --- traffic

    def _traffic(self, model: str) -> Iterator[Finding]:
        traffic, now = self._row(model), self._service.clock()
        rollout = self._store.active(model)
        if traffic.rollout_id is None and traffic.challenger is not None:
            began = [e.at for e in self._store.events(model=model) if e.kind is EventKind.DRILL_BEGAN]
            if not began or now - began[-1] > _DRILL:
                what = f"version {traffic.challenger} of {model} stood beside the champion without a rollout"
                self._apply(model, lambda t: upkeep.repair(t, self._cause(f"{what}; taken out")))
                yield Finding(model, f"{what}: taken out of the traffic", repaired=True)
        if rollout is not None and traffic.rollout_id != rollout.id:
            yield Finding(
                model,
                f"{rollout.id} is active and the traffic belongs to {traffic.rollout_id or 'no rollout'}; somebody has "
                "changed the store by hand: roll it back",
                repaired=False,
                rollout_id=rollout.id,
            )
        elif rollout is not None and rollout.state in (State.BAKING, State.HOLDING, State.CLEARED):
            share = rollout.plan.stage(rollout.stage).share
            if traffic.share != share or traffic.stage != rollout.stage:
                yield Finding(
                    model,
                    f"{rollout.id} is at stage {rollout.stage} with {share:g} %, the traffic at stage {traffic.stage} "
                    f"with {traffic.share:g} %; somebody has changed the store by hand: roll it back",
                    repaired=False,
                    rollout_id=rollout.id,
                )
        yield from self._previous(model, now)

    def _previous(self, model: str, now: datetime) -> Iterator[Finding]:
        traffic = self._row(model)
        if traffic.previous is None or traffic.rollout_id is not None:
            return
        promoted = [r for r in self._store.rollouts(model) if r.state is State.PROMOTED and r.ended_at]
        kept = next((r for r in promoted if r.challenger == traffic.champion and r.champion == traffic.previous), None)
        if kept is None or kept.ended_at is None:
            return
        if now - kept.ended_at >= timedelta(seconds=kept.plan.keep_previous_seconds):
            if self._ahead(model, kept.challenger):
                return  # it would be brought to an older revision than it is at: see `_registry`
            what = f"version {traffic.previous} of {model} was kept for {kept.plan.keep_previous_seconds:g} s"
            self._apply(model, lambda t: upkeep.release_previous(t, self._cause(f"{what}; released")))
            self._service.sync_registry(kept.id)
            yield Finding(model, f"{what}: it is released", repaired=True, rollout_id=kept.id)

    # --- runs

    def _run(self, model: str) -> Iterator[Finding]:
        rollout = self._store.active(model)
        if rollout is None:
            yield from self._after(model)
            yield from self._data(model)
            return
        now = self._service.clock()
        events = self._store.events(rollout_id=rollout.id)
        if now - events[-1].at < self._settling:
            return
        run = self._service.run_of(rollout.id)
        if run and self._state(run["dag_id"], run["run_id"]) == "alive":
            return
        match rollout.state:
            case State.CLEARED:
                yield from self._cleared(rollout)
            case State.HOLDING:
                yield from self._held(rollout)
            case _:
                yield from self._dead(rollout, now)

    def _cleared(self, rollout: Rollout) -> Iterator[Finding]:
        following = rollout.stage + 1
        if following >= len(rollout.plan.stages):
            what = f"{rollout.id} had passed its last stage and its run died before the cut-over"
            self._service.cut_over(rollout.id, self._actor, f"{rollout.reason}; finished by reconcile", {})
            yield Finding(rollout.model, f"{what}: cut over", repaired=True, rollout_id=rollout.id)
        elif rollout.plan.advance is Advance.AT_ONCE:
            yield from self._resumed(
                rollout, following, f"{rollout.id} passed stage {rollout.stage} and nothing followed"
            )

    def _held(self, rollout: Rollout) -> Iterator[Finding]:
        """Nobody watches a held stage whose run is gone: harm is looked for here."""
        decision = self._service.look(rollout.id)
        if decision.verdict is Verdict.FAIL:
            self._service.roll_back(rollout.id, self._actor, decision.reason, decision.to_dict())
            what = f"{rollout.id} was held without a run that watches, and harm is proven"
            yield Finding(rollout.model, f"{what}: rolled back", repaired=True, rollout_id=rollout.id)

    def _after(self, model: str) -> Iterator[Finding]:
        """Nobody watches a promoted rollout whose run is gone: labels that come later are looked at here."""
        rollout = next(iter(self._store.rollouts(model, limit=1)), None)
        if rollout is None or rollout.state is not State.PROMOTED or self._young(model):
            return
        if self._service.matured(rollout.id, _LAST_LOOKS):
            return
        run = self._service.run_of(rollout.id)
        if run and self._state(run["dag_id"], run["run_id"]) == "alive":
            return
        decision = self._service.look(rollout.id)
        if decision.verdict is not Verdict.FAIL:
            return
        what = f"{rollout.id} was promoted, and later labels prove harm: {decision.reason}"
        try:
            self._service.roll_back(rollout.id, self._actor, what, decision.to_dict())
        except IllegalTransitionError as error:
            yield Finding(model, f"{what}; {error}", repaired=False, rollout_id=rollout.id)
        else:
            yield Finding(model, f"{what}: rolled back", repaired=True, rollout_id=rollout.id)

    def _dead(self, rollout: Rollout, now: datetime) -> Iterator[Finding]:
        """The run of an open stage is gone: another takes it up, or past its deadline the plan has its way."""
        what = f"the run of stage {max(rollout.stage, 0)} of {rollout.id} is gone"
        if rollout.judged_from is None:
            yield from self._resumed(rollout, 0, what)
            return
        late = rollout.judged_from + timedelta(seconds=rollout.plan.stage(rollout.stage).deadline_seconds)
        if now < late:
            yield from self._resumed(rollout, rollout.stage, what)
            return
        decision = self._service.look(rollout.id)
        if decision.verdict is Verdict.FAIL or decision.action is Action.ROLL_BACK:
            reason = f"{what}, past its deadline: {decision.reason}"
            self._service.roll_back(rollout.id, self._actor, reason, decision.to_dict())
            yield Finding(rollout.model, f"{reason}: rolled back", repaired=True, rollout_id=rollout.id)
        else:
            # also where the evidence would have passed: the checks that belong to a pass were never made
            reason = f"{what}, past its deadline: {decision.reason}"
            self._service.hold(rollout.id, rollout.stage, self._actor, reason, decision.to_dict())
            yield Finding(rollout.model, f"{reason}: held, a person has to look", repaired=False, rollout_id=rollout.id)

    def _resumed(self, rollout: Rollout, stage: int, what: str) -> Iterator[Finding]:
        dag_id = rollout.plan.pattern_of(stage).dag_id
        first = stage_run_id(rollout.id, stage)
        ids = [stage_run_id(rollout.id, stage, number) for number in range(_MOST_RUNS)]
        newest = self._service.run_of(rollout.id)
        if newest.get("dag_id") == dag_id and newest["run_id"].startswith(f"{first}--resumed-"):
            ids.insert(0, newest["run_id"])  # a person has resumed it; Airflow may not have been there then
        for run_id in ids:
            state = self._state(dag_id, run_id)
            if state == "alive":
                return
            if state is None:
                text = f"{what}: run {run_id} takes it up"
                yield Finding(rollout.model, text, repaired=True, rollout_id=rollout.id, resume=stage, run_id=run_id)
                return
        stuck = f"{what}, and {_MOST_RUNS} runs have not brought it on"
        if rollout.state is State.PENDING:
            self._service.roll_back(rollout.id, self._actor, f"{stuck}; nothing was moved")
            yield Finding(rollout.model, f"{stuck}: given up, nothing was moved", repaired=True, rollout_id=rollout.id)
        else:
            yield Finding(rollout.model, f"{stuck}: stuck, a person has to look", repaired=False, rollout_id=rollout.id)

    def _data(self, model: str) -> Iterator[Finding]:
        newest = self._store.rollouts(model, limit=1)
        if not newest or newest[0].state is not State.ROLLED_BACK or not newest[0].plan.data_rollback:
            return
        events, now = self._store.events(rollout_id=newest[0].id), self._service.clock()
        left = data_left(newest[0], events)
        if any(data_begun(newest[0], events, position, now) for position in left):
            return  # somebody is at it
        missing = [newest[0].plan.data_rollback[position].name for position in left]
        if missing:
            yield Finding(
                model,
                f"{newest[0].id} was rolled back and its data was not: {', '.join(missing)}; run `rollouts rollback "
                f"{model}` or the DAG rollback",
                repaired=False,
                rollout_id=newest[0].id,
            )

    # --- registry and gateways

    def _registry(self, model: str) -> Iterator[Finding]:
        """Tags of an older revision: a sync that was not finished. Tags of this one: somebody has moved aliases.

        Tags of one that the store does not have: it was restored, and a person knows which of the two is right.
        """
        newest = self._store.rollouts(model, limit=1)
        traffic = self._row(model)
        if not newest or self._young(model):
            return
        wanted = _roles(traffic)
        found = {role: self._alias(model, role) for role in wanted}
        have = {role: None if version is None else version.version for role, version in found.items()}
        tags = self._service.registry.resolve(model, newest[0].challenger).tags
        synced = tags.get("rollout.revision") == str(traffic.revision)
        if have == wanted and synced:
            return
        if ahead := self._ahead(model, newest[0].challenger):
            yield Finding(
                model,
                f"the registry of {model} followed revision {ahead} ({_told(have)}), which the store, at revision "
                f"{traffic.revision} ({_told(wanted)}), does not have; was the store restored? Nothing is changed: "
                f"`rollouts sync {model}` sets aliases to what the store says, a rollout makes another version serve",
                repaired=False,
                rollout_id=newest[0].id,
            )
            return
        if not synced:
            self._service.sync_registry(newest[0].id)
            if have != wanted:
                yield Finding(
                    model,
                    f"the registry of {model} had not followed revision {traffic.revision} ({_told(have)}, must be "
                    f"{_told(wanted)}): brought up to date",
                    repaired=True,
                    rollout_id=newest[0].id,
                )
            return
        yield Finding(
            model,
            f"aliases of {model} were moved by hand: {_told(have)}, the traffic says {_told(wanted)}; `rollouts sync "
            f"{model}` puts them back, a rollout makes another version serve",
            repaired=False,
            rollout_id=newest[0].id,
        )

    def _gateway(self, model: str) -> Iterator[Finding]:
        traffic = self._row(model)
        if self._young(model):
            return
        try:
            routed = self._gateways.routed(model)
        except NotReadyError as error:
            yield Finding(model, f"a gateway of {model} does not answer: {error}", repaired=False)
            return
        for gateway, revision in routed.items():
            if revision is None or revision < traffic.revision:
                yield Finding(
                    model,
                    f"gateway {gateway} routes {model} by revision {revision}, the store is at {traffic.revision}; "
                    "look at its status: it may not reach the store, or not load the champion",
                    repaired=False,
                )

    # --- inside

    def _young(self, model: str) -> bool:
        events = self._store.events(model=model)
        return bool(events) and self._service.clock() - events[-1].at < self._settling

    def _alias(self, model: str, role: str) -> ModelVersion | None:
        try:
            return self._service.registry.resolve(model, role)
        except NotFoundError:
            return None

    def _ahead(self, model: str, challenger: str) -> int:
        """The revision that the registry has followed, where the store is at an older one; else 0.

        The newest rollout's version tells it, and those that have another's alias: of rollouts that the store lost.
        """
        versions = [self._service.registry.resolve(model, challenger)]
        for role, version in _roles(self._row(model)).items():
            found = self._alias(model, role)
            if found is not None and found.version != version:
                versions.append(found)
        followed = max(_revision(version.tags) for version in versions)
        # read after the tags: what moves this moment is in the store first
        return followed if followed > self._row(model).revision else 0

    def _row(self, model: str) -> Traffic:
        traffic = self._store.traffic(model)
        if traffic is None:
            raise NotFoundError(f"traffic of {model} is gone; rows are never deleted, so restore the store")
        return traffic

    def _cause(self, reason: str) -> Cause:
        return Cause(self._actor, self._service.clock(), reason)

    def _apply(self, model: str, change_of: Callable[[Traffic], Change | None]) -> None:
        change_traffic(self._store, model, change_of)

    def _record(self, finding: Finding) -> None:
        """Put it into the audit, once: the same report is not repeated while nothing else has happened."""
        kind = EventKind.REPAIRED if finding.repaired else EventKind.REPORTED
        events = self._store.events(model=finding.model)
        if any(e.reason == finding.what and e.kind is kind for e in events[-_REPEATS:]):
            return
        evidence = {"rollout_id": finding.rollout_id, "run_id": finding.run_id}
        cause = Cause(self._actor, self._service.clock(), finding.what, evidence)
        try:
            self._apply(finding.model, lambda t: upkeep.report(t, kind, cause))
        except StaleRevisionError:
            return  # the traffic moves this moment; what still holds is found again at the next tick


def _roles(traffic: Traffic) -> dict[str, str | None]:
    return {"champion": traffic.champion, "challenger": traffic.challenger, "previous": traffic.previous}


def _revision(tags: Mapping[str, str]) -> int:
    """The revision in a version's tags; 0 where there is none, or what somebody has made of it."""
    try:
        return int(tags.get("rollout.revision", "0"))
    except ValueError:
        return 0


def _told(roles: dict[str, str | None]) -> str:
    return ", ".join(f"{role} {version or 'none'}" for role, version in roles.items())
