"""Asks every serving process over HTTP, all at once. What one of them does not say is never taken for good."""

import base64
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import requests
from urllib3.exceptions import HTTPError

from model_rollouts.core.errors import NotReadyError
from model_rollouts.ports import ProbeAnswer

_CONNECT_SECONDS, _READ_SECONDS = 3.0, 5.0
_ANSWER_SECONDS = 10.0  # for a whole answer, however it trickles in
_PROBE_SECONDS = 60.0  # for all rows of a probe
_MOST_BYTES = 16 * 1024 * 1024
_OK = 200
_UNFIT = (400, 413)  # the version does not take the row, or nobody takes one as large
_SET = "MODEL_ROLLOUTS_GATEWAY_URL"
_CA_SET = "MODEL_ROLLOUTS_GATEWAY_CA_FILE"
_READY, _ABSENT = "ready", "not there"

T = TypeVar("T")


class GatewayClient:
    """All gateway processes. Implements `ports.Gateways`.

    Args:
        urls: The address of each process, such as http://127.0.0.1:8600; the address of a load balancer before them
            would let only one of them speak for all.
        token: The bearer token that they ask for, if any.
        ca_file: Authorities that their certificates must be of, PEM; None: those that `requests` knows.

    Raises:
        ValueError: There is no address.
    """

    def __init__(self, *urls: str, token: str | None = None, ca_file: Path | None = None) -> None:
        if not urls:
            raise ValueError(f"no address of a gateway is given; set {_SET}")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        verify = True if ca_file is None else str(ca_file)
        self._processes = tuple(_Process(url.rstrip("/"), headers, verify) for url in urls)

    def statuses(self, model: str) -> dict[str, dict[str, Any]]:
        """Process -> its status of a model, as docs/contracts.md has it.

        Raises:
            NotReadyError: A process does not answer, or does not serve the model; the message names it.
        """

        def status(process: "_Process") -> tuple[str, dict[str, Any]]:
            said = process.status(model)
            return said["gateway_id"], said

        return self._from_all(status)

    def versions(self, model: str) -> Mapping[str, str]:
        """See `Gateways`; a version that a process does not know is "not there" as long as no process failed on it."""
        said = {process: status["versions"] for process, status in self.statuses(model).items()}
        versions = dict.fromkeys(version for states in said.values() for version in states)
        return {
            version: _worst({p: states.get(version, _ABSENT) for p, states in said.items()}) for version in versions
        }

    def routed(self, model: str) -> Mapping[str, int | None]:
        """See `Gateways`."""
        return {process: status["routed_revision"] for process, status in self.statuses(model).items()}

    def backlog(self, model: str) -> Mapping[str, float]:
        """See `Gateways`."""

        def seconds(process: "_Process") -> tuple[str, float]:
            status = process.status(model)
            waiting: Any = status.get("backlog_seconds")
            if not _is_number(waiting) or waiting < 0:
                raise process.no_gateway()
            return status["gateway_id"], float(waiting)

        return self._from_all(seconds)

    def probe(self, model: str, version: str, inputs: Sequence[Mapping[str, Any]]) -> list[list[ProbeAnswer]]:
        """See `Gateways`; each row is a request of its own, as it would be for a caller."""
        path = f"/models/{quote(model, safe='')}/versions/{quote(version, safe='')}/invocations"
        bodies = [_encode(row) for row in inputs]

        def ask(process: "_Process") -> tuple[str, list[ProbeAnswer]]:
            status = process.status(model)
            name, state = status["gateway_id"], status["versions"].get(version, _ABSENT)
            if state != _READY:  # said here, too, where there are no rows to ask about
                raise NotReadyError(f"the gateway at {process.url} can't ask version {version} of {model}: {state}")
            until, answers = time.monotonic() + _PROBE_SECONDS, []
            with requests.Session() as session:
                for body in bodies:
                    if time.monotonic() < until:
                        answers.append(process.probe(session, path, body, f"version {version} of {model}", name))
                    else:
                        answers.append(_not_asked(name))
            return name, answers

        return list(self._from_all(ask).values())

    def environments(self) -> Mapping[str, Mapping[str, str]]:
        """See `Gateways`."""

        def packages(process: "_Process") -> tuple[str, dict[str, str]]:
            said = process.get("/environment", "list of packages")
            found = said.get("packages")
            if not _has_name(said) or not isinstance(found, dict) or "python" not in found or not _texts(found):
                raise process.no_gateway()
            return said["gateway_id"], found

        return self._from_all(packages)

    def _from_all(self, ask: Callable[["_Process"], tuple[str, T]]) -> dict[str, T]:
        """What every process says, by its name; each has time limits of its own.

        Raises:
            NotReadyError: Some do not say it; the message is of all that do not.
        """
        with ThreadPoolExecutor(len(self._processes)) as pool:
            futures = [pool.submit(ask, process) for process in self._processes]
        problems = [str(e) for e in (future.exception() for future in futures) if isinstance(e, NotReadyError)]
        if problems:
            raise NotReadyError("; ".join(problems))
        answers: dict[str, T] = {}
        reached: dict[str, str] = {}
        for process, future in zip(self._processes, futures, strict=True):
            name, answer = future.result()
            if name in answers:
                raise NotReadyError(
                    f"{reached[name]} and {process.url} reach the same gateway, {name}; give each process an own "
                    f"MODEL_ROLLOUTS_GATEWAY_ID, and its own address in {_SET}"
                )
            answers[name], reached[name] = answer, process.url
        return answers


@dataclass(frozen=True, slots=True)
class _Process:
    """One gateway process."""

    url: str
    headers: Mapping[str, str]
    verify: bool | str

    def status(self, model: str) -> dict[str, Any]:
        """Its status of a model.

        Raises:
            NotReadyError: It has none.
        """
        said = self.get(f"/models/{quote(model, safe='')}/status", f"status of {model}")
        versions, routed = said.get("versions"), said.get("routed_revision", "")
        known = isinstance(versions, dict) and _texts(versions) and (routed is None or type(routed) is int)
        if not known or not _has_name(said):
            raise self.no_gateway()
        return said

    def get(self, path: str, what: str) -> dict[str, Any]:
        """What it says, a JSON object.

        Raises:
            NotReadyError: It does not.
        """
        with requests.Session() as session:
            status, content = self._call(session, "GET", path)
        if status != _OK or not isinstance(content, dict):
            raise self._refused(f"has no {what}", status, content)
        return content

    def probe(self, session: requests.Session, path: str, body: bytes, what: str, name: str) -> ProbeAnswer:
        """Its answer to one row."""
        status, content = self._call(session, "POST", path, body)
        if status in _UNFIT and isinstance(content, dict):
            return ProbeAnswer(name, "error", error=str(content.get("message")))
        results = content.get("results") if status == _OK and isinstance(content, dict) else None
        if not isinstance(results, list) or len(results) != 1 or not isinstance(results[0], dict):
            raise self._refused(f"can't ask {what}", status, content)
        return _answer(name, results[0])

    def no_gateway(self) -> NotReadyError:
        return NotReadyError(f"what answers at {self.url} is no gateway of this version; set {_SET}")

    def _call(self, session: requests.Session, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        headers = {**self.headers, "Content-Type": "application/json"} if body is not None else self.headers
        until = time.monotonic() + _ANSWER_SECONDS
        limits = (_CONNECT_SECONDS, _READ_SECONDS)
        try:
            with session.request(
                method,
                self.url + path,
                data=body,
                headers=headers,
                timeout=limits,
                stream=True,
                allow_redirects=False,  # a token is for the process that it was meant for
                verify=self.verify,
            ) as answer:
                parts, size = [], 0
                # As it arrives: `iter_content` would wait until a part of its size is full.
                while part := answer.raw.read1(65_536, decode_content=True):
                    parts.append(part)
                    size += len(part)
                    if size > _MOST_BYTES or time.monotonic() > until:
                        raise NotReadyError(
                            f"the gateway at {self.url} sent {size} bytes in {_ANSWER_SECONDS:g} s and had not ended, "
                            f"must be at most {_MOST_BYTES}; look at what listens there"
                        )
                return answer.status_code, _decode(b"".join(parts))
        except requests.exceptions.SSLError as error:
            raise NotReadyError(
                f"the gateway at {self.url} can't be trusted: {_reason(error)}; its certificate must be for that name "
                f"and of an authority in {_CA_SET}"
            ) from error
        except (requests.RequestException, HTTPError) as error:
            raise NotReadyError(
                f"no gateway answers at {self.url} ({type(error).__name__}); start it (rollouts gateway) or set {_SET}"
            ) from error
        except OSError as error:
            raise NotReadyError(f"the gateway at {self.url} can't be asked: {error}; set {_CA_SET}") from error

    def _refused(self, what: str, status: int, content: Any) -> NotReadyError:
        said = content.get("message") if isinstance(content, dict) else None
        return NotReadyError(
            f"the gateway at {self.url} {what}: HTTP {status}, {str(said or content)[:300]!r}; look at its /status"
        )


def _worst(states: Mapping[str, str]) -> str:
    """One state for a version: a failure before an absence, that before everything that is under way."""
    several = len(states) > 1

    def badness(state: str) -> int:
        return 3 if state.startswith("failed") else {_READY: 0, "loading": 1}.get(state, 2)

    process, state = max(states.items(), key=lambda item: badness(item[1]))
    return f"{state} ({process})" if several and state.startswith("failed") else state


def _has_name(said: Mapping[str, Any]) -> bool:
    name = said.get("gateway_id")
    return isinstance(name, str) and bool(name)


def _texts(values: Mapping[str, Any]) -> bool:
    return all(isinstance(value, str) for value in values.values())


def _answer(name: str, result: Mapping[str, Any]) -> ProbeAnswer:
    """Read one result; one that is not as the contract has it is an error."""
    status, prediction, score = result.get("status"), result.get("prediction"), result.get("score")
    error = str(result.get("error") or "")
    if status == "ok" and isinstance(prediction, str) and (score is None or _is_number(score)):
        return ProbeAnswer(name, "ok", prediction, None if score is None else float(score))
    if status in ("error", "timeout"):
        return ProbeAnswer(name, status, error=error or "no reason is given")
    return ProbeAnswer(name, "error", error=f"it answered {str(dict(result))[:200]}, which is no result")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _not_asked(name: str) -> ProbeAnswer:
    return ProbeAnswer(name, "timeout", error=f"not asked: the rows before it took {_PROBE_SECONDS:g} s")


def _reason(error: BaseException) -> str:
    """What OpenSSL said, which requests has wrapped."""
    found = re.search(r"certificate verify failed: [^(\]]*", str(error))
    return found[0].strip() if found else type(error).__name__


def _encode(row: Mapping[str, Any]) -> bytes:
    return json.dumps({"dataframe_records": [dict(row)]}, default=_plain).encode()


def _plain(value: Any) -> Any:
    """What JSON has no word for, as the scoring protocol takes it."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return value.tolist()
    raise TypeError(f"an input is a {type(value).__name__}, must be a number, text, date, bytes or null")


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body[:300].decode(errors="replace")
