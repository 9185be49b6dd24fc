"""A person goes beyond a stage's verdict while its run is on its way."""

import threading
import time

from model_rollouts.core.by_hand import Deed
from model_rollouts.core.rollout import State


class _Person(threading.Thread):
    """Does something as soon as the stage is open."""

    def __init__(self, world, deed):
        super().__init__(daemon=True)
        self.world, self.deed, self.error = world, deed, None

    def run(self):
        until = time.monotonic() + 60
        store = self.world.wiring.store
        while time.monotonic() < until:
            found = store.rollouts(self.world.model, limit=1)
            if found and found[0].state is State.BAKING:
                try:
                    self.world.wiring.by_hand.do(self.deed, found[0].id, "anna", "the launch can't wait")
                except Exception as error:
                    self.error = error
                return
            time.sleep(0.05)


def test_the_run_goes_on_as_the_person_said(world):
    person = _Person(world, Deed.EXPAND)
    person.start()
    run = world.run(deadline_seconds=60)  # no traffic: it would only wait
    person.join()

    assert person.error is None
    assert world.states(run)["expand"] == "success", world.states(run)
    assert world.rollout.state == "cleared"
    events = world.wiring.store.events(rollout_id=world.rollout.id)
    by_hand = [event for event in events if event.evidence.get("by_hand")]
    assert {event.actor for event in by_hand} == {"anna"}
    assert events[-1] is by_hand[-1] or events[-1].reason == "the launch can't wait"
    assert sum(world.traffic.shares().values()) == 100
