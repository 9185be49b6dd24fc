"""Who may call, and how tokens come and go while the gateway serves."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.gateway.conftest import captured_logs

from model_rollouts.gateway.callers import Callers, roles_for
from model_rollouts.gateway.openapi import openapi_document
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.token_file import TokenFile, read_file
from model_rollouts.gateway.tokens import ALL_ROLES, Role, Token, TokensError, line_of, new_token, parse_tokens

Start = Callable[..., Any]
SHOP, ERP, PROM, OPS, TEST = (
    f"a-token-of-{name}-that-nobody-can-guess" for name in ("shop", "erp", "prom", "ops", "test")
)
ROWS = {"dataframe_records": [{"x": 1.0}]}
INFER = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}]}


def line(name: str, token: str, *roles: Role) -> str:
    return line_of(Token.of(name, roles, token))


FILE = "\n".join(
    [
        "# who may call",
        line("shop", SHOP, Role.PREDICT),
        line("erp", ERP, Role.OUTCOMES, Role.PREDICT),
        "",
        line("prometheus", PROM, Role.METRICS),
        line("airflow", OPS, Role.ADMIN),
        line("tester", TEST, Role.TESTER),
    ]
)


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(FILE)
    return path


# --- the file


def test_what_is_written_is_read() -> None:
    made = new_token()
    assert made.startswith("mrt_")
    assert len(made) > 40
    assert new_token() != made
    token = Token.of("a@b/2026-11", [Role.ADMIN, Role.TESTER], made)
    assert parse_tokens(f"# x\n\n  {line_of(token)}  \n") == (token,)
    assert made not in line_of(token)
    assert token.digest.hex() not in repr(token)


GOOD = line("shop", SHOP, Role.PREDICT)
BROKEN = {
    "nothing": ("", "there is no token"),
    "notes alone": ("# a\n\n", "there is no token"),
    "a part too few": (f"{GOOD}\nshop:{SHOP}", "line 2: there are 2 parts"),
    "another role": (GOOD.replace("predict", "root"), "line 1: the role is 'root', must be one of predict"),
    "a token for a role": (GOOD.replace("predict", SHOP), r"line 1: the role is a text of \d+ characters"),
    "no role": (GOOD.replace("predict", ""), "line 1: the role is ''"),
    "a name with a blank": (GOOD.replace("shop", "the shop"), "line 1: the name has 8 characters"),
    "no name": (GOOD.replace("shop", ""), "line 1: the name has 0 characters"),
    "a token itself": (f"predict:shop:{SHOP}", "line 1: the last part must be sha256="),
    "half a hash": (GOOD[:-2], "line 1: the last part"),
    "another hash": (GOOD.replace("sha256", "md5"), "line 1: the last part"),
    "a hash in capitals": (GOOD[:-64] + GOOD[-64:].upper(), "line 1: the last part"),
    "a name twice": (f"{GOOD}\n{line('shop', ERP, Role.ADMIN)}", "line 2: the name 'shop' is there twice"),
    "a token twice": (f"{GOOD}\n{line('erp', SHOP, Role.ADMIN)}", "line 2: the token of line 1 is there again"),
    "too many": ("\n".join(line(f"t{n}", f"{n}", Role.ADMIN) for n in range(101)), "more than 100 tokens"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_none_is_refused_and_no_token_told(name: str, tmp_path: Path) -> None:
    text, said = BROKEN[name]
    with pytest.raises(TokensError, match=said) as caught:
        parse_tokens(text)
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        GatewaySettings(gateway_tokens_file=path)
    assert SHOP not in str(caught.value)


def test_a_file_that_is_missing_huge_binary_or_open_to_all_ends_the_start(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    with pytest.raises(ValueError, match="can't be read: No such file"):
        GatewaySettings(gateway_tokens_file=path)
    with pytest.raises(TokensError, match="can't be read"):
        Callers.of(GatewaySettings().model_copy(update={"gateway_tokens_file": path}))
    for content, said in ((b"\xff\xfe", "no text in UTF-8"), (b"#" * 300_000, "more than 262144 bytes")):
        path.write_bytes(content)
        with pytest.raises(TokensError, match=said):
            read_file(path)
    path.write_text(FILE)
    path.chmod(0o646)
    with pytest.raises(TokensError, match="can be written by everybody"):
        read_file(path)
    path.chmod(0o644)
    assert len(read_file(path)[0]) == 5
    with pytest.raises(TokensError, match=r"can't be read|no regular file"):
        read_file(tmp_path)


def test_with_a_file_of_tokens_the_gateway_may_listen_to_others(file: Path) -> None:
    assert GatewaySettings(host="0.0.0.0", gateway_tokens_file=file).gateway_token is None  # noqa: S104


# --- what a token may do


CALLS: dict[str, tuple[str, str, Any, set[str]]] = {
    "predictions": ("POST", "/models/m/invocations", ROWS, {SHOP, ERP}),
    "of the default model": ("POST", "/invocations", ROWS, {SHOP, ERP}),
    "by the open protocol": ("POST", "/v2/models/m/infer", INFER, {SHOP, ERP}),
    "of a version": ("POST", "/v2/models/m/versions/1/infer", INFER, {SHOP, ERP}),
    "outcomes": ("POST", "/models/m/outcomes", {"request_id": "a", "label": 1}, {ERP}),
    "a probe": ("POST", "/models/m/versions/1/invocations", ROWS, {OPS}),
    "metrics": ("GET", "/metrics", None, {PROM, OPS}),
    "the status": ("GET", "/status", None, {OPS}),
    "a model's status": ("GET", "/models/m/status", None, {OPS}),
    "packages": ("GET", "/environment", None, {OPS}),
    "metadata": ("GET", "/v2/models/m", None, {SHOP, ERP, OPS}),
    "readiness": ("GET", "/v2/models/m/versions/1/ready", None, {SHOP, ERP, OPS}),
    "the server": ("GET", "/v2", None, {SHOP, ERP, PROM, OPS, TEST}),
    "the document": ("GET", "/openapi.json", None, {SHOP, ERP, PROM, OPS, TEST}),
    "MLflow's version": ("GET", "/version", None, {SHOP, ERP, PROM, OPS, TEST}),
    "what is not there": ("GET", "/nothing", None, set()),
    "what is not there by POST": ("POST", "/nothing", None, set()),
}


def test_a_call_is_answered_for_the_roles_that_it_needs_and_for_no_other(gateway: Start, file: Path) -> None:
    async def run() -> None:
        async with gateway(gateway_tokens_file=file) as g:
            for name, (method, url, body, may) in CALLS.items():
                for token in (SHOP, ERP, PROM, OPS, TEST):
                    answer = await g.client.request(method, url, json=body, headers=bearer(token))
                    if may:
                        assert answer.status_code == (200 if token in may else 403), (name, token)
                    else:
                        assert answer.status_code == (404 if token == OPS else 403), (name, token)
                for stranger in (None, "", "another", SHOP[:-1], SHOP + "x", SHOP.upper()):
                    answer = await g.client.request(method, url, json=body, headers=bearer(stranger))
                    assert answer.status_code == 401, (name, stranger)
                    assert answer.headers["www-authenticate"] == "Bearer"
            assert {row["request_id"] for row in g.writer.of(table="outcomes")} <= {"a"}

    asyncio.run(run())


def test_a_refusal_names_the_role_that_is_needed_and_logs_name_the_token(gateway: Start, file: Path) -> None:
    async def run() -> None:
        with captured_logs() as logs:
            async with gateway(gateway_tokens_file=file) as g:
                for _ in range(3):
                    answer = await g.client.get("/status", headers=bearer(SHOP))
                    await g.client.get("/status")
                await g.client.post("/invocations", json=ROWS, headers=bearer(SHOP))
                metrics = (await g.client.get("/metrics", headers=bearer(PROM))).text
        said = answer.json()
        assert said["error_code"] == "PERMISSION_DENIED"
        assert said["message"] == "the token shop has the role predict, and this call needs admin"
        by_event: dict[str, list[Any]] = {}
        for entry in logs:
            by_event.setdefault(entry["event"], []).append(entry)
        (forbidden,) = by_event["caller_forbidden"]
        assert (forbidden["token"], forbidden["needs"]) == ("shop", "admin")
        assert len(by_event["caller_unknown"]) == 1, "others can cause it as often as they like"
        assert [entry["token"] for entry in by_event["token_used_first"]] == ["shop", "prometheus"]
        assert SHOP not in str(logs)
        for token, kind, count in (("shop", "forbidden", 3), ("shop", "allowed", 1), ("", "unauthenticated", 3)):
            labels = f'{{answer="{kind}",token="{token}"}}'
            text = f"model_rollouts_gateway_caller_requests_total{labels} {count}.0"
            assert text in metrics or text.replace(labels, f'{{token="{token}",answer="{kind}"}}') in metrics

    asyncio.run(run())


def test_the_open_protocol_is_refused_in_its_own_words(gateway: Start, file: Path) -> None:
    async def run() -> httpx.Response:
        async with gateway(gateway_tokens_file=file) as g:
            found: httpx.Response = await g.client.post("/v2/models/m/infer", json=INFER, headers=bearer(PROM))
            return found

    answer = asyncio.run(run())
    assert answer.status_code == 403
    assert answer.json() == {"error": "the token prometheus has the role metrics, and this call needs predict"}


PATHS = [
    "/models/m/versions/1/invocations",
    "/models/m/versions/1/invocations/",
    "/models%2Fm/versions/1/invocations",
    "/models/m%2Fversions/1/invocations",
    "/models/m/versions%2F1/invocations",
    "/models/m/versions/1%2Finvocations",
    "/%6dodels/m/versions/1/%69nvocations",
    "/models/m/versions/1/invocations?x=/invocations",
    "//models/m/versions/1/invocations",
    "/v2/../models/m/versions/1/invocations",
    "/models/m%2F..%2Fm/versions/1/invocations",
    "/models/m/versions/1/invocations%3F",
    "/models/m/outcomes%2F..%2Finvocations",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_way_of_writing_a_path_gets_a_probe_or_a_status_for_a_caller(path: str, gateway: Start, file: Path) -> None:
    async def run() -> None:
        async with gateway(gateway_tokens_file=file) as g:
            asked = {"content": b'{"dataframe_records": [{"x": 1.0}]}'}
            headers = {"content-type": "application/json"}
            for token in (SHOP, ERP, PROM):
                answer = await g.client.post(path, **asked, headers=headers | bearer(token))
                assert answer.status_code in (401, 403, 404), answer.text
                assert "results" not in answer.text
                read = await g.client.get(path.replace("versions/1/invocations", "status"), headers=bearer(token))
                assert read.status_code in (403, 404, 405), read.text

    asyncio.run(run())


def test_the_document_says_the_roles_that_hold() -> None:
    document = openapi_document("1")
    said = {
        f"{method.upper()} {path}": set(operation["x-roles"])
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if "x-roles" in operation
    }
    open_paths = {path for path, item in document["paths"].items() if item.get("get", {}).get("security") == []}
    assert open_paths == {"/ping", "/health", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
    assert said["POST /models/{model}/versions/{version}/invocations"] == {"admin"}
    assert said["POST /v2/models/{model}/versions/{version}/infer"] == {"predict"}
    assert said["POST /models/{model}/outcomes"] == {"outcomes"}
    assert said["GET /metrics"] == {"metrics", "admin"}
    assert roles_for("DELETE", "/models/m/outcomes", predicts=False) == {Role.ADMIN}


def test_the_one_token_of_the_settings_may_do_everything_but_choose_the_arm(gateway: Start, file: Path) -> None:
    async def run() -> None:
        async with gateway(gateway_token="secret", gateway_tokens_file=file) as g:
            for method, url, body, may in CALLS.values():
                answer = await g.client.request(method, url, json=body, headers=bearer("secret"))
                assert answer.status_code == (200 if may else 404)
            asked = bearer("secret") | {"X-Rollouts-Route": "champion", "X-Rollouts-Token": "secret"}
            assert (await g.client.post("/invocations", json=ROWS, headers=asked)).status_code == 401

    asyncio.run(run())


def test_a_testers_token_of_the_file_chooses_the_arm(gateway: Start, file: Path, rollout: Any) -> None:
    async def run() -> None:
        async with gateway(gateway_tokens_file=file) as g:
            g.set(rollout(1.0))
            await g.routes_by(2)
            for token, status in ((TEST, 200), (SHOP, 401), (OPS, 401)):
                asked = bearer(SHOP) | {"X-Rollouts-Route": "challenger", "X-Rollouts-Token": token}
                answer = await g.client.post("/models/m/invocations", json=ROWS, headers=asked)
                assert answer.status_code == status
            asked = bearer(TEST) | {"X-Rollouts-Route": "challenger", "X-Rollouts-Token": TEST}
            assert (await g.client.post("/models/m/invocations", json=ROWS, headers=asked)).status_code == 403

    asyncio.run(run())


# --- how they come and go


def replaced(path: Path, text: str) -> None:
    """As it should be done: at once."""
    part = path.with_suffix(".new")
    part.write_text(text)
    part.replace(path)


def gone(path: Path) -> None:
    path.unlink()


def test_tokens_come_and_go_while_it_serves(gateway: Start, file: Path) -> None:
    newer = "the-token-that-the-shop-gets-next-month"

    async def run() -> None:
        async with gateway(gateway_tokens_file=file) as g:

            async def status(token: str) -> int:
                return (await g.client.post("/invocations", json=ROWS, headers=bearer(token))).status_code

            callers = g.app._callers
            callers.start()
            both = f"{FILE}\n{line('shop-2', newer, Role.PREDICT)}"
            assert [await status(SHOP), await status(newer)] == [200, 401]
            replaced(file, both)
            await g.happens(lambda: "shop-2" in callers.status()["tokens"])
            assert [await status(SHOP), await status(newer)] == [200, 200]
            replaced(file, "\n".join(each for each in both.splitlines() if ":shop:" not in each))
            await g.happens(lambda: "shop" not in callers.status()["tokens"])
            assert [await status(SHOP), await status(newer)] == [401, 200]
            told = (await g.client.get("/status", headers=bearer(OPS))).json()["callers"]
            assert told["tokens"]["shop-2"] == ["predict"]
            assert told["error"] is None
            callers.stop()

    asyncio.run(run())


def test_a_broken_or_missing_file_leaves_the_old_ones_and_says_so(gateway: Start, file: Path) -> None:
    async def run() -> None:
        with captured_logs() as logs:
            async with gateway(gateway_tokens_file=file) as g:
                watched = g.app._callers._file
                assert watched is not None

                async def told() -> tuple[str | None, bool]:
                    said = (await g.client.get("/status", headers=bearer(OPS))).json()["callers"]["error"]
                    metrics = (await g.client.get("/metrics", headers=bearer(PROM))).text
                    return said, "model_rollouts_gateway_tokens_file_ok 1.0" in metrics

                assert await told() == (None, True)
                replaced(file, FILE.replace("outcomes", "outcome"))
                for _ in range(3):
                    watched.look()
                said, ok = await told()
                assert (said or "").startswith(f"{file}: line 3: the role is 'outcome'")
                assert not ok
                gone(file)
                watched.look()
                said, ok = await told()
                assert "No such file" in (said or "")
                assert not ok
                replaced(file, FILE)
                watched.look()
                assert await told() == (None, True)
        assert [entry["event"] for entry in logs if entry["event"].startswith("tokens_")] == [
            "tokens_not_read",
            "tokens_not_read",
            "tokens_read",
        ]

    asyncio.run(run())


def test_a_change_of_the_same_size_in_the_same_moment_is_seen(file: Path) -> None:
    watched = TokenFile(file)
    about = file.stat()
    replaced(file, FILE.replace("shop", "shpo"))
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    watched.look()
    assert {token.name for token in watched.tokens} == {"shpo", "erp", "prometheus", "airflow", "tester"}


def test_a_file_that_has_not_changed_is_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = TokenFile(file)
    reads: list[Path] = []
    monkeypatch.setattr("model_rollouts.gateway.token_file.read_file", reads.append)
    watched.look()
    assert reads == []


def test_every_token_is_compared_whoever_calls() -> None:
    """What a stranger's call costs does not say how near it was; nor does a caller's say who else there is."""
    compared: list[int] = []

    tokens = [Token.of(f"t{n}", ALL_ROLES, f"token {n}") for n in range(5)]
    callers = Callers(tokens)
    original = callers._all

    def counting() -> Any:
        for token in original():
            compared.append(1)
            yield token

    callers._all = counting  # type: ignore[method-assign,assignment]
    assert callers._find(b"token 0") == tokens[0]
    assert callers._find(b"token 4") == tokens[4]
    assert callers._find(b"other") is None
    assert len(compared) == 15


def test_a_call_costs_microseconds_more_with_a_hundred_tokens() -> None:
    tokens = [Token.of(f"t{n}", ALL_ROLES, f"token {n}") for n in range(100)]
    callers = Callers(tokens)
    began = time.perf_counter()
    for _ in range(200):
        callers.known(b"Bearer token 50")
    assert (time.perf_counter() - began) / 200 < 0.002
