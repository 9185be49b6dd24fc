"""What a person may do to a rollout, in its state: offered with what it changes, or with why it can't be done."""

from dataclasses import dataclass
from enum import StrEnum

from model_rollouts.core import rollout as steps
from model_rollouts.core.errors import IllegalTransitionError
from model_rollouts.core.plan import Advance
from model_rollouts.core.rollout import Cause, Change, Rollout, State
from model_rollouts.core.traffic import Traffic


class Deed(StrEnum):
    """What a person may do."""

    HOLD = "hold"
    RESUME = "resume"
    EXPAND = "expand"  # leave the stage without its proof
    CUT_OVER = "cut_over"  # the same at the last stage
    ROLL_BACK = "roll_back"


_FROM = {
    Deed.HOLD: frozenset({State.BAKING, State.CLEARED}),
    Deed.RESUME: frozenset({State.HOLDING}),
    Deed.EXPAND: frozenset({State.BAKING, State.HOLDING, State.CLEARED}),
    Deed.CUT_OVER: frozenset({State.BAKING, State.HOLDING, State.CLEARED}),
    Deed.ROLL_BACK: frozenset({State.PENDING, State.BAKING, State.HOLDING, State.CLEARED, State.PROMOTED}),
}
_JUDGED = frozenset({State.BAKING, State.HOLDING})


@dataclass(frozen=True, slots=True)
class Offer:
    """One deed, as things are.

    Attributes:
        deed: Which.
        change: What it would change, one sentence.
        refusal: Why it can't be done now; empty: it can.
    """

    deed: Deed
    change: str
    refusal: str = ""


def asks(rollout: Rollout) -> bool:
    """Whether the plan asks for a person's approval before the stage is left, and it is not left yet."""
    return rollout.state in _JUDGED and rollout.plan.stage(rollout.stage).approval


def offers(rollout: Rollout, traffic: Traffic, barred: bool = False) -> list[Offer]:
    """Every deed, in order.

    Args:
        rollout: The rollout.
        traffic: Its model's traffic.
        barred: The stage waits for an approval that this person may not give.
    """
    return [offer(deed, rollout, traffic, barred) for deed in Deed]


def offer(deed: Deed, rollout: Rollout, traffic: Traffic, barred: bool = False) -> Offer:
    """One of them."""
    return Offer(deed, _change(deed, rollout, traffic), _refusal(deed, rollout, traffic, barred))


def step(deed: Deed, rollout: Rollout, traffic: Traffic, cause: Cause, barred: bool = False) -> Change:
    """The change that the deed begins with; a cut-over follows its clearance as a change of its own.

    Raises:
        IllegalTransitionError: It is not offered; the message says why.
    """
    if refusal := _refusal(deed, rollout, traffic, barred):
        raise IllegalTransitionError(refusal)
    change: Change | None
    match deed:
        case Deed.HOLD:
            change = steps.hold(rollout, traffic, rollout.stage, cause)
        case Deed.RESUME:
            change = steps.resume(rollout, traffic, rollout.stage, cause)
        case Deed.CUT_OVER if rollout.state is State.CLEARED:
            change = steps.cut_over(rollout, traffic, cause)
        case Deed.EXPAND if rollout.state is State.CLEARED:  # it has passed, and waits for the schedule
            change = steps.note(steps.EventKind.ANSWERED, rollout, traffic, cause)
        case Deed.EXPAND | Deed.CUT_OVER:
            change = steps.clear(rollout, traffic, rollout.stage, cause, by_hand=True)
        case Deed.ROLL_BACK:
            change = steps.roll_back(rollout, traffic, cause)
    if change is None:
        raise AssertionError(f"{deed} of {rollout.id} was offered and changes nothing: {rollout.state}")
    return change


def _refusal(deed: Deed, rollout: Rollout, traffic: Traffic, barred: bool) -> str:
    last = rollout.stage == len(rollout.plan.stages) - 1
    if rollout.state not in _FROM[deed]:
        wanted = " or ".join(sorted(_FROM[deed]))
        return f"{rollout.id} is {rollout.state}, must be {wanted} to {deed.replace('_', ' ')}: {rollout.reason}"
    if deed is Deed.EXPAND and last:
        return f"{rollout.id} is at its last stage, {rollout.stage + 1}; cut over instead"
    if deed is Deed.EXPAND and rollout.state is State.CLEARED and rollout.plan.advance is Advance.AT_ONCE:
        return f"stage {rollout.stage + 1} of {rollout.id} has passed already; the next one opens by itself"
    if deed is Deed.CUT_OVER and not last:
        count = len(rollout.plan.stages)
        return f"{rollout.id} is at stage {rollout.stage + 1} of {count}; a cut-over follows the last one: expand"
    if barred and deed in (Deed.EXPAND, Deed.CUT_OVER) and rollout.state in _JUDGED:
        dag_id = rollout.plan.pattern_of(rollout.stage).dag_id
        return (
            f"stage {rollout.stage + 1} of {rollout.id} is left with an approval only, and you may not give it; ask "
            f"somebody who may answer what runs of the DAG {dag_id} ask"
        )
    if deed is Deed.ROLL_BACK:
        try:
            steps.roll_back(rollout, traffic, Cause("", rollout.created_at, ""))
        except IllegalTransitionError as error:
            return str(error)
    return ""


def _change(deed: Deed, rollout: Rollout, traffic: Traffic) -> str:
    version, champion = rollout.challenger, rollout.champion
    match deed:
        case Deed.HOLD:
            return f"version {version} keeps {traffic.share:g} %; nothing expands until the stage is resumed"
        case Deed.RESUME:
            return (
                f"stage {rollout.stage + 1} is judged again; its bake time and deadline start anew, version {version} "
                f"keeps {traffic.share:g} %"
            )
        case Deed.EXPAND:
            following = min(rollout.stage + 1, len(rollout.plan.stages) - 1)
            share = rollout.plan.stage(following).share
            passed = "has passed" if rollout.state is State.CLEARED else "counts as passed on your word, without proof"
            ahead = rollout.plan.advance is Advance.ON_SCHEDULE
            told = f"{_approval(rollout)}{'; the calendar of the schedule is passed over' * ahead}"
            return (
                f"stage {rollout.stage + 1} {passed}; stage {following + 1} opens and version {version} goes from "
                f"{traffic.share:g} % to {share:g} %{told}"
            )
        case Deed.CUT_OVER:
            return (
                f"version {version} becomes the champion on your word and answers all requests; version {champion} "
                f"stays loaded for {rollout.plan.keep_previous_seconds:g} s{_approval(rollout)}"
            )
        case Deed.ROLL_BACK:
            return f"version {champion} answers all requests at once; version {version} gets none"


def _approval(rollout: Rollout) -> str:
    return "; your word stands for the approval that the plan asks for" if asks(rollout) else ""
