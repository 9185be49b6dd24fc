"""Rollouts that a test moves by the product's own use cases, without Airflow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import requests
from tests.faults.stack import GATEWAYS, Stack

from model_rollouts.adapters.gateway_client import GatewayClient
from model_rollouts.core.errors import NotReadyError
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.patterns.common import CONTROL_PERCENT
from model_rollouts.core.plan import FULL_SHARE, Pattern, Plan, Stage
from model_rollouts.core.rollout import Rollout
from model_rollouts.core.traffic import Traffic
from model_rollouts.reconcile import Finding, Reconciler
from model_rollouts.wiring import Wiring

ACTOR = "test"


def canary(*shares: float, bake: float = 60.0, deadline: float = 3600.0, look: float = 1.0) -> Plan:
    """A canary that is judged on errors alone."""
    stages = [
        Stage(
            share=share,
            gates=(Gate(Metric.ERROR_RATE),),
            bake_seconds=bake,
            deadline_seconds=deadline,
            control_percent=CONTROL_PERCENT if share == FULL_SHARE else 0.0,
        )
        for share in shares
    ]
    return Plan(Pattern.CANARY, tuple(stages), look_seconds=look, grace_seconds=1.0, label_maturity_seconds=5.0)


@dataclass
class Team:
    """A model with its versions, and somebody who moves its traffic.

    Attributes:
        stack: Everything that runs.
        model: Registered model.
        parts: The product's parts in this process.
        rollouts: All rollouts, by id.
    """

    stack: Stack
    model: str
    parts: Wiring
    rollouts: dict[str, Rollout] = field(default_factory=dict)

    @classmethod
    def of(cls, stack: Stack, model: str, load_seconds: Sequence[float] = (0.0, 0.0), **settings: Any) -> "Team":
        """A new model, served by both gateways."""
        stack.register(model, load_seconds)
        team = cls(stack, model, stack.wiring(**settings))
        team.parts.service.adopt(model, ACTOR)
        team.wait_followed()
        return team

    @property
    def traffic(self) -> Traffic:
        """The row in force."""
        found = self.parts.store.traffic(self.model)
        assert found is not None
        return found

    def start(self, challenger: str, *shares: float, loaded: bool = True, **plan: Any) -> Rollout:
        """Take the lease, and have the challenger loaded."""
        rollout_id = f"{self.model}-{uuid4().hex[:6]}"
        made = canary(*shares, **plan)
        rollout = self.parts.service.start(rollout_id, self.model, challenger, made, ACTOR, "better features")
        self.rollouts[rollout_id] = rollout
        if loaded:
            self.wait_followed()
        return rollout

    def open(self, rollout: Rollout, stage: int = 0) -> Rollout:
        """Move the traffic to a stage's share."""
        return self.parts.service.open_stage(rollout.id, stage, ACTOR)

    def clear(self, rollout: Rollout, stage: int = 0) -> Rollout:
        """Let a stage pass."""
        return self.parts.service.clear(rollout.id, stage, ACTOR, "the test says so", {})

    def promote(self, rollout: Rollout) -> Rollout:
        """Every stage that has not been open, one after the other, to the end."""
        for stage in range(rollout.stage + 1, len(rollout.plan.stages)):
            self.open(rollout, stage)
            self.clear(rollout, stage)
        return self.parts.service.cut_over(rollout.id, ACTOR, "the test says so", {})

    def now(self, rollout: Rollout) -> Rollout:
        """The rollout as it is."""
        return self.parts.store.rollout(rollout.id)

    def status(self, gateway: str) -> dict[str, Any]:
        """What a gateway says of the model."""
        url = self.stack.gateway_urls[GATEWAYS.index(gateway)]
        found: dict[str, Any] = requests.get(f"{url}/models/{self.model}/status", timeout=10).json()
        return found

    def followed(self) -> bool:
        """Whether both gateways route by the row in force, with all its versions loaded."""
        client = GatewayClient(*self.stack.gateway_urls)
        try:
            routed, versions = client.routed(self.model), client.versions(self.model)
        except NotReadyError:
            return False
        return set(routed.values()) == {self.traffic.revision} and set(versions.values()) == {"ready"}

    def wait_followed(self, seconds: float = 60) -> None:
        """Wait until they do."""
        self.stack.until(f"gateways that follow {self.model}", self.followed, seconds)

    def wait_logged(self) -> None:
        """Wait until everything that was answered is in the log."""
        self.stack.wait_logged()

    def reconcile(self) -> list[Finding]:
        """One look of the reconcile task, for a DAG run that is gone; nothing is too young for it."""
        gone = lambda *_: "ended"  # noqa: E731
        reconciler = Reconciler(self.parts.service, self.parts.gateway, gone, "reconcile", timedelta(0))
        return [each for each in reconciler.check() if each.model == self.model]
