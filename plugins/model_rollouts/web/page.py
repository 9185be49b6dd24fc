"""The page "Rollouts": its files, and the JSON that it reads and writes. A thin shell over web/desk.py.

Everything is asked of Airflow's login and permissions first (web/access.py).
"""

import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_rollouts.core.by_hand import Deed
from model_rollouts.core.errors import StaleRevisionError
from model_rollouts.core.rollout import State
from model_rollouts.web.access import Access, why_foreign
from model_rollouts.web.answers import answer, told, told_of
from model_rollouts.web.desk import APPROVE, Desk
from model_rollouts.web.reports import AROUND, around, headers_of, needs_frame

if TYPE_CHECKING:
    from fastapi import FastAPI

FILES = Path(__file__).with_name("static")

_MOST_BYTES = 16_384  # a reason has at most some thousand characters
_STATES = tuple(state.value for state in State)
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def make_page(desk: Callable[[], Desk], user_of: Callable[..., Any]) -> "FastAPI":
    """The page's app.

    Args:
        desk: Gives the parts; raises where the settings are wrong.
        user_of: FastAPI dependency that gives Airflow's user, or refuses with 401.
    """
    from typing import Annotated

    from fastapi import Body, Depends, FastAPI, Query, Request, Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.staticfiles import StaticFiles

    app = FastAPI(title="Rollouts", docs_url=None, redoc_url=None, openapi_url=None)

    def access_of(user: Annotated[Any, Depends(user_of)]) -> Access:
        return Access(user)

    reader = Annotated[Access, Depends(access_of)]

    @app.get("/api/rollouts")
    def rollouts(
        request: Request,
        access: reader,
        state: Annotated[list[str] | None, Query(max_length=len(_STATES))] = None,
        pattern: Annotated[str, Query(max_length=40)] = "",
        model: Annotated[str, Query(max_length=256)] = "",
        q: Annotated[str, Query(max_length=256)] = "",
        page: Annotated[int, Query(ge=1, le=100_000)] = 1,
    ) -> Response:
        states = tuple(each for each in state or () if each in _STATES)
        asked = {"states": states, "pattern": pattern, "model": model, "text": q.strip(), "page": page}
        return answer(request, desk().rollouts(access, asked))

    @app.get("/api/of-run")
    def of_run(
        request: Request,
        access: reader,
        dag_id: Annotated[str, Query(max_length=250)],
        run_id: Annotated[str, Query(max_length=250)] = "",
    ) -> Response:
        return answer(request, desk().of_run(access, dag_id, run_id))

    @app.get("/api/rollouts/{rollout_id}")
    def rollout(request: Request, access: reader, rollout_id: str) -> Response:
        return answer(request, desk().rollout(access, rollout_id))

    @app.get("/api/rollouts/{rollout_id}/reports")
    def reports(request: Request, access: reader, rollout_id: str) -> Response:
        return answer(request, desk().reports_of(access, rollout_id))

    @app.get("/api/rollouts/{rollout_id}/reports/{run_id}/{path:path}")
    def report(request: Request, access: reader, rollout_id: str, run_id: str, path: str) -> Response:
        told_of_it = (request.headers.get("sec-fetch-dest"), request.headers.get("referer"))
        if needs_frame(path, request.url.path, *told_of_it):
            return Response(around(path), headers=AROUND, media_type="text/html")
        kind, headers = headers_of(path)
        content = desk().report(access, rollout_id, run_id, path)
        return Response(content, headers={**headers, "Content-Type": kind})

    @app.post("/api/rollouts/{rollout_id}/{deed}")
    def act(
        request: Request,
        access: reader,
        rollout_id: str,
        deed: str,
        reason: Annotated[str, Body(max_length=2000)],
        revision: Annotated[int, Body(ge=1)],
    ) -> Response:
        if deed != APPROVE and deed not in list(Deed):
            raise HTTPException(404, f"there is no action {deed[:40]!r}")
        try:
            done = desk().act(access, rollout_id, deed, reason, revision)
        except StaleRevisionError as error:
            return told(409, str(error), code="stale", since=desk().since(rollout_id, revision))
        return answer(request, done)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return told(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        said = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors()[:5])
        return told(422, said)

    app.mount("/", StaticFiles(directory=FILES, html=True), name="files")
    app.add_middleware(_Guarded)
    return app


class _Guarded:
    """Refuses what may come from another site, bounds bodies, and turns errors into answers: each in one place."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from starlette.requests import Request

        request, begun = Request(scope), False

        async def sending(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": _with_defaults(message["headers"])}
            await send(message)

        if scope["method"] not in ("GET", "HEAD"):
            why = why_foreign(request)
            if why:
                await told(403, f"refused: {why}", code="foreign")(scope, receive, sending)
                return
            if not _short(request.headers.get("content-length")):
                await told(413, f"the body must have a length of at most {_MOST_BYTES} bytes")(scope, receive, sending)
                return
        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # nothing of it may get out but what to do
            if begun:
                raise
            await told_of(error)(scope, receive, sending)


def _short(length: str | None) -> bool:
    return length is not None and length.isascii() and length.isdigit() and int(length) <= _MOST_BYTES


def _with_defaults(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    there = {name.lower() for name, _ in headers}
    more = {**_HEADERS, "Cache-Control": "no-cache, private"}
    return [
        *headers,
        *((n.lower().encode(), v.encode()) for n, v in more.items() if n.lower().encode() not in there),
    ]


@cache
def _shared_desk() -> Desk:
    from model_rollouts.wiring import shared

    threading.Thread(target=_import_ahead, name="rollouts-page-imports", daemon=True).start()
    return Desk(shared())


@cache
def page_app() -> Any:
    """The page of this process, for Airflow's users."""
    from airflow.api_fastapi.core_api.security import get_user

    return make_page(_shared_desk, get_user)


def _import_ahead() -> None:
    """What the first rollout that is looked at needs, half a second of imports, while the list is read."""
    import scipy.special  # noqa: F401 - as the evidence does

    import model_rollouts.by_hand
    import model_rollouts.core.course
    import model_rollouts.core.stage_power
    import model_rollouts.looks  # noqa: F401
