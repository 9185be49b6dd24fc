"""HTTPS by the settings: who is let in, by what, and how a certificate is changed."""

import shutil
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests
import uvicorn
from pydantic import SecretStr
from tests.gateway.certificates import Authority
from tests.gateway.conftest import captured_logs, until

from model_rollouts.adapters.gateway_client import GatewayClient
from model_rollouts.core.errors import NotReadyError
from model_rollouts.gateway.connections import Connections
from model_rollouts.gateway.main import _always
from model_rollouts.gateway.one_write import OneWriteProtocol, answer
from model_rollouts.gateway.serving import GatewayServer, Leave, bind
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.tls import Certificate, CertificateError

PACKAGES = {"gateway_id": "g1", "packages": {"python": "3.11"}}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """A gateway's packages, on the short way."""
    body = orjson.dumps(PACKAGES | {"scheme": scope["scheme"]})
    await answer(scope, send, 200, [(b"content-length", b"%d" % len(body))], body)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextmanager
def served(certificate: Certificate, shared: bool = False) -> Iterator[int]:
    """The application as the gateway's process serves it."""
    sockets = bind("127.0.0.1", 0)
    extra = bind("127.0.0.1", 0, shared=True) if shared else []
    http: Any = partial(OneWriteProtocol, all_of_them=Connections(50))
    config = uvicorn.Config(
        app, loop="uvloop", http=http, lifespan="off", log_level="warning", timeout_graceful_shutdown=2,
        ssl_context_factory=_always(certificate.context),
    )  # fmt: skip
    running = GatewayServer(config, Leave(), 0.0, 2.0, extra)
    thread = threading.Thread(target=lambda: running.run(sockets=sockets))
    thread.start()
    try:
        until(lambda: running.started and len(running.servers) == 1 + shared)
        yield (extra or sockets)[0].getsockname()[1]
    finally:
        running.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("shared", [False, True], ids=["own port", "shared port"])
def test_callers_that_know_the_authority_are_answered_and_nobody_in_clear(authority: Authority, shared: bool) -> None:
    with served(Certificate(*authority.certificate("gateway")), shared) as port:
        url = f"https://127.0.0.1:{port}"
        found = requests.get(f"{url}/environment", verify=str(authority.file), timeout=5).json()
        assert found == PACKAGES | {"scheme": "https"}
        assert GatewayClient(url, ca_file=authority.file).environments() == {"g1": {"python": "3.11"}}
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.1:{port}/environment", timeout=5)


def test_the_client_trusts_no_other_authority_and_no_expired_certificate(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    with served(Certificate(*authority.certificate("gateway"))) as port:
        url = f"https://127.0.0.1:{port}"
        for ca_file in (other.file, None):
            with pytest.raises(NotReadyError, match=r"can't be trusted: certificate verify failed: .*CA_FILE"):
                GatewayClient(url, ca_file=ca_file).environments()
        with pytest.raises(NotReadyError, match=r"can't be asked: .*missing.*MODEL_ROLLOUTS_GATEWAY_CA_FILE"):
            GatewayClient(url, ca_file=tmp_path / "missing.pem").environments()
    with (
        served(Certificate(*authority.certificate("late", expired=True))) as port,
        pytest.raises(NotReadyError, match="can't be trusted: certificate verify failed: certificate has expired"),
    ):
        GatewayClient(f"https://127.0.0.1:{port}", ca_file=authority.file).environments()


def test_nothing_older_than_tls_1_2_is_spoken(authority: Authority) -> None:
    with served(Certificate(*authority.certificate("gateway"))) as port:
        for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
            assert spoken(port, authority, version) == name
        with pytest.raises((ssl.SSLError, ConnectionError)):
            spoken(port, authority, ssl.TLSVersion.TLSv1_1)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            spoken(port, authority, ssl.TLSVersion.TLSv1_2, "AES256-GCM-SHA384")  # no forward secrecy


def spoken(port: int, authority: Authority, version: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0") -> str | None:
    context = ssl.create_default_context(cafile=str(authority.file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers(ciphers)
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
    ):
        return wrapped.version()


def test_a_handshake_that_does_not_come_is_given_up(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_rollouts.gateway.serving.HANDSHAKE_SECONDS", 0.3)
    with served(Certificate(*authority.certificate("gateway"))) as port:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), 10) as silent:
            with suppress(ConnectionError):
                assert silent.recv(1) == b""
            assert 0.2 < time.monotonic() - began < 5


def test_a_certificate_is_changed_while_it_serves(authority: Authority, tmp_path: Path) -> None:
    old, new = authority.certificate("old"), authority.certificate("new")
    cert, key = tmp_path / "in-use.pem", tmp_path / "in-use.key"
    shutil.copy(old[0], cert)
    shutil.copy(old[1], key)
    certificate = Certificate(cert, key, look_seconds=0.02)
    certificate.start()

    def shown(port: int) -> str:
        context = ssl.create_default_context(cafile=str(authority.file))
        with (
            socket.create_connection(("127.0.0.1", port), 5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
        ):
            found: Any = wrapped.getpeercert()
            return str(found["subject"][0][0][1])

    with captured_logs() as logs, served(certificate) as port:
        assert shown(port) == "old"
        shutil.copy(new[0], cert)
        until(lambda: any(entry["event"] == "certificate_not_read" for entry in logs))
        assert shown(port) == "old", "the key does not fit yet"
        shutil.copy(new[1], key)
        until(lambda: any(entry["event"] == "certificate_read" for entry in logs))
        assert shown(port) == "new"
        cert.unlink()
        until(lambda: sum(entry["event"] == "certificate_not_read" for entry in logs) > 1)
        assert shown(port) == "new"
        certificate.stop()


def test_what_can_not_be_used_ends_the_start(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.certificate("gateway")
    _, other_key = authority.certificate("other")
    with_password = authority.certificate("hidden", password=b"open sesame")
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    for files, said in (
        ((cert, other_key), "KEY_VALUES_MISMATCH"),
        ((cert, None), "can't be used"),
        ((nonsense, key), "can't be used"),
        ((tmp_path / "missing", key), "missing is not there"),
        ((cert, tmp_path / "missing"), "missing is not there"),
        (with_password, "MODEL_ROLLOUTS_TLS_KEY_PASSWORD"),
    ):
        with pytest.raises(CertificateError, match=said):
            Certificate(*files)
        with pytest.raises(ValueError, match=said):
            GatewaySettings(tls_cert_file=files[0], tls_key_file=files[1])
    with pytest.raises(CertificateError, match="TLS_KEY_PASSWORD") as caught:
        Certificate(*with_password, SecretStr("wrong-password"))
    assert "wrong-password" not in str(caught.value)
    Certificate(*with_password, SecretStr("open sesame"))
    with pytest.raises(ValueError, match="set MODEL_ROLLOUTS_TLS_CERT_FILE"):
        GatewaySettings(tls_key_file=key)
    assert GatewaySettings(tls_cert_file=cert, tls_key_file=key).tls_cert_file == cert
