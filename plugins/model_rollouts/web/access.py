"""Who may see and do what on the page: Airflow's own login, and its permissions on the DAGs of the patterns.

Seeing a rollout takes what seeing its pattern's DAG takes, doing something to it what triggering that DAG takes. In a
chain of patterns each has its DAG, and doing takes them all.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from model_rollouts.core.plan import Pattern

if TYPE_CHECKING:
    from fastapi import Request

#: A browser sends it only for a page of ours: other sites would have to ask first, and are refused.
HEADER, VALUE = "x-model-rollouts", "page"
_HTTP_PORTS = {"http": 80, "https": 443}


class Access:
    """One user's permissions.

    Args:
        user: Airflow's user.
    """

    def __init__(self, user: Any) -> None:
        self.user = user

    @property
    def name(self) -> str:
        """What the user is called."""
        return str(self.user.get_name())

    def readable(self) -> tuple[Pattern, ...]:
        """Patterns whose rollouts the user may see."""
        return tuple(pattern for pattern in Pattern if self._may("GET", pattern.dag_id))

    def may_act(self, patterns: Iterable[Pattern]) -> bool:
        """Whether the user may do something to a rollout of these patterns."""
        return all(self._may("POST", pattern.dag_id, run=True) for pattern in patterns)

    def may_trigger(self, dag_id: str) -> bool:
        """Whether the user may trigger a DAG."""
        return self._may("POST", dag_id, run=True)

    def may_answer(self, dag_id: str) -> bool:
        """Whether the user may answer what a DAG's run asks a person."""
        from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity

        return self._authorized("PUT", dag_id, DagAccessEntity.HITL_DETAIL)

    def is_one_of(self, assigned: frozenset[str]) -> bool:
        """Whether the user is one of those who alone may answer a question; where nobody is named, everybody is."""
        from airflow.api_fastapi.app import get_auth_manager

        return not assigned or bool(
            get_auth_manager().is_authorized_hitl_task(assigned_users=set(assigned), user=self.user)
        )

    def _may(self, method: str, dag_id: str, *, run: bool = False) -> bool:
        from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity

        return self._authorized(method, dag_id, DagAccessEntity.RUN if run else None)

    def _authorized(self, method: str, dag_id: str, entity: Any) -> bool:
        from airflow.api_fastapi.app import get_auth_manager
        from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
        from airflow.models.dag import DagModel

        details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
        found = get_auth_manager().is_authorized_dag(
            method=method,  # type: ignore[arg-type]  # a str enum there, whose members are these words
            access_entity=entity,
            details=details,
            user=self.user,
        )
        return bool(found)


def why_foreign(request: "Request") -> str:
    """Why a request that changes something may not come from our page; "" where it does.

    A form of another site can send neither the header nor JSON, and a script of one only where the browser has asked
    us before. A browser says where a request comes from; where it says so, it must be from here.
    """
    if request.headers.get(HEADER) != VALUE:
        return f"the header {HEADER} must be {VALUE!r}"
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return f"the content type is {kind[:60]!r}, must be application/json"
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return "the request comes from another site"
    origin = request.headers.get("origin")
    if origin is not None and not _same_host(origin, request):
        return "the request comes from another origin"
    return ""


def _same_host(origin: str, request: "Request") -> bool:
    """Whether an origin is the host that the request was sent to, as the browser or a proxy names it.

    The scheme is left out: behind a proxy that ends TLS it is not known here.
    """
    try:
        parts = urlsplit(origin)
        own = (parts.hostname or "", parts.port or _HTTP_PORTS.get(parts.scheme))
    except ValueError:
        return False
    if parts.scheme not in _HTTP_PORTS or not own[0]:
        return False
    for name in ("host", "x-forwarded-host"):
        for text in request.headers.get(name, "").split(","):
            try:
                host = urlsplit(f"//{text.strip()}")
                if (host.hostname, host.port or own[1]) == own and (host.port or own[1] in _HTTP_PORTS.values()):
                    return True
            except ValueError:
                continue
    return False
