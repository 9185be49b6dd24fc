"""Encryption: the certificate that callers are shown, read again when it changes."""

import os
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

import structlog
from pydantic import SecretStr

from model_rollouts.core.errors import RolloutError

HANDSHAKE_SECONDS = 10.0

_LOOK_SECONDS = 1.0
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all good

_log = structlog.get_logger(__name__)

_Mark = tuple[tuple[int, int, int], ...]


class CertificateError(RolloutError, ValueError):
    """The certificate or its key can't be used."""


class Certificate:
    """A certificate with its key. One that can't be read any more leaves the one before in use.

    Args:
        cert: File with the certificate and those between it and its authority, PEM.
        key: File with its key, PEM; None: it is in the same file.
        password: Of the key.
        look_seconds: Time between two looks at the files.

    Raises:
        CertificateError: It can't be used.
    """

    def __init__(
        self, cert: Path, key: Path | None, password: SecretStr | None = None, look_seconds: float = _LOOK_SECONDS
    ) -> None:
        self._files = (cert, key)
        self._password = password
        self._look_seconds = look_seconds
        self._mark = _mark_of([file for file in self._files if file is not None])
        self.context = make_context(cert, key, password)
        self._problem: str | None = None
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._watch, name="certificate", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def look(self) -> None:
        """Use the files as they are now, if they have changed; connections that there are keep what they have."""
        mark = _mark_of([file for file in self._files if file is not None])
        if mark == self._mark and self._problem is None:
            return
        try:
            make_context(*self._files, self._password)  # a key that does not fit would spoil the context in use
            _load(self.context, *self._files, self._password)
        except CertificateError as error:  # also while one of the two is new and the other is not
            if str(error) != self._problem:
                _log.error("certificate_not_read", error=str(error))
            self._problem = str(error)
            return
        self._mark, self._problem = mark, None
        _log.info("certificate_read", file=str(self._files[0]))

    def _watch(self) -> None:
        while not self._stop.wait(self._look_seconds):
            try:
                self.look()
            except Exception:
                _log.exception("certificate_look_failed")


def make_context(cert: Path, key: Path | None, password: SecretStr | None = None) -> ssl.SSLContext:
    """What connections are encrypted by: TLS 1.2 or 1.3, with keys that are of no use once a connection has ended.

    Args:
        cert: See `Certificate`.
        key: See `Certificate`.
        password: See `Certificate`.

    Raises:
        CertificateError: The files can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _load(context, cert, key, password)
    return context


def _load(context: ssl.SSLContext, cert: Path, key: Path | None, password: SecretStr | None) -> None:
    text = password.get_secret_value() if password is not None else ""
    for file in (cert, key):
        if file is not None and not os.access(file, os.R_OK):
            raise CertificateError(f"{file} is not there, or can't be read by this user")
    try:
        context.load_cert_chain(cert, key, password=lambda: text)  # without one it would ask at the terminal
    except (OSError, ValueError) as error:  # ssl's errors among them
        said = getattr(error, "reason", None) or str(error)
        raise CertificateError(
            f"certificate {cert} with key {key or cert} can't be used: {said}; both must be PEM and fit, and an "
            "encrypted key needs MODEL_ROLLOUTS_TLS_KEY_PASSWORD"
        ) from error


def _mark_of(files: Sequence[Path]) -> _Mark:
    marks = []
    for file in files:
        try:
            about = file.stat()
        except OSError:
            marks.append((0, 0, 0))
        else:
            marks.append((about.st_mtime_ns, about.st_size, about.st_ino))
    return tuple(marks)
