"""docker-compose.yaml without an engine: what must hold of every service. `make test-compose` runs it on a real one."""

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
FILE = REPO / "docker-compose.yaml"
# Words in the names of variables whose values nobody may know or guess.
_SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|FERNET|_KEY")
_REQUIRED = re.compile(r"\$\{(\w+):\?is not set, run make secrets first\}")
_ANY = re.compile(r"\$\{(\w+)")
_IMAGE = re.compile(r"\$\{\w+:-[\w./-]+:(?P<tag>[\w.-]+)\}")


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return loaded


def problems(content: dict[str, Any]) -> list[str]:
    """What is wrong, a sentence each."""
    return [f"{name}: {what}" for name, service in content["services"].items() for what in _of(service, content)]


def _of(service: dict[str, Any], content: dict[str, Any]) -> list[str]:
    found = [
        what
        for what, holds in {
            "can write to its root": service.get("read_only") is True,
            "has capabilities": service.get("cap_drop") == ["ALL"] and "cap_add" not in service,
            "can get privileges": service.get("security_opt") == ["no-new-privileges:true"]
            and "privileged" not in service,
            "has no bound of memory": bool(service.get("mem_limit")),
            "has no bound of processor": 0 < service.get("cpus", 0) <= 2,
            "has no bound of processes": service.get("pids_limit", 0) > 0,
            "has no bound of its log": "max-size" in service.get("logging", {}).get("options", {}),
            "has no init process": service.get("init") is True,
            "runs as the image says": _has_user(service),
            "has neither a health check nor an end": "healthcheck" in service or service.get("restart") == "no",
        }.items()
        if not holds
    ]
    found += [f"port {port} is not on 127.0.0.1" for port in service.get("ports", []) if port[:10] != "127.0.0.1:"]
    found += [f"mounts {each}" for each in service.get("volumes", []) if "docker.sock" in each or _is_writable(each)]
    image = _IMAGE.fullmatch(service.get("image", ""))
    if image is None or image["tag"] == "latest":
        found.append(f"image {service.get('image')} is not pinned by a variable")
    for other, how in service.get("depends_on", {}).items():
        waits = "healthcheck" if how["condition"] == "service_healthy" else "command"
        if how["condition"] == "service_started" or waits not in content["services"][other]:
            found.append(f"waits for {other}, which can't be waited for")
    return found


def _has_user(service: dict[str, Any]) -> bool:
    ours = "model-rollouts" in service.get("image", "")  # deploy/Dockerfile names one
    return ("user" not in service) if ours else service.get("user") not in (None, "root", "0", 0)


def _is_writable(volume: str) -> bool:
    """Whether it is a folder of the machine that can be written."""
    return volume.startswith((".", "/", "~")) and not volume.endswith(":ro")


def test_it_is_a_compose_file() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_service_is_confined_watched_and_pinned() -> None:
    assert problems(document()) == []


@pytest.mark.parametrize(
    ("service", "change", "problem"),
    [
        ("gateway-1", lambda s: s.pop("read_only"), "can write to its root"),
        ("postgres", lambda s: s.update(cap_add=["SYS_ADMIN"]), "has capabilities"),
        ("redis", lambda s: s.pop("security_opt"), "can get privileges"),
        ("airflow-worker", lambda s: s.pop("mem_limit"), "has no bound of memory"),
        ("mlflow", lambda s: s.update(cpus=4), "has no bound of processor"),
        ("postgres", lambda s: s.pop("user"), "runs as the image says"),
        ("gateway-2", lambda s: s.update(user="0"), "runs as the image says"),
        ("airflow-triggerer", lambda s: s.pop("healthcheck"), "has neither a health check nor an end"),
        ("mlflow", lambda s: s.update(ports=["5000:5000"]), "is not on 127.0.0.1"),
        ("mlflow", lambda s: s.update(ports=["0.0.0.0:5000:5000"]), "is not on 127.0.0.1"),
        ("redis", lambda s: s.update(image="redis"), "is not pinned"),
        ("redis", lambda s: s.update(image="${REDIS_IMAGE:-redis:latest}"), "is not pinned"),
        ("demo", lambda s: s.update(volumes=["./demo:/demo"]), "mounts ./demo:/demo"),
        ("demo", lambda s: s["depends_on"].update(mlflow={"condition": "service_started"}), "can't be waited for"),
    ],
)
def test_what_is_wrong_is_found(service: str, change: Callable[[dict[str, Any]], object], problem: str) -> None:
    content = copy.deepcopy(document())
    change(content["services"][service])
    assert any(each.startswith(f"{service}: ") and problem in each for each in problems(content))


def secret_values(text: str) -> list[str]:
    """Secrets that have a default, or are there in plain text; and those that may be missing."""
    found = [
        f"{name} may be missing"
        for name in set(_ANY.findall(text))
        if _SECRET.search(name) and len(_REQUIRED.findall(text)) and not _is_required(name, text)
    ]
    for service, content in yaml.safe_load(text)["services"].items():
        for name, value in content.get("environment", {}).items():
            if (_SECRET.search(name) or "://" in str(value)) and _holds_plain_secret(str(value)):
                found.append(f"{service}: {name} is {value}")
    return found


def _is_required(name: str, text: str) -> bool:
    uses = re.findall(r"\$\{" + name + r"\b[^}]*\}", text)
    return all(_REQUIRED.fullmatch(use) for use in uses)


def _holds_plain_secret(value: str) -> bool:
    """Whether a secret's value, or a URL's login, is anything but a required variable."""
    login = re.search(r"://[^/@]*:([^/@]*)@", _REQUIRED.sub("<>", value))
    if login is not None:
        return login[1] != "<>"
    return "://" not in value and not value.startswith("/") and _REQUIRED.fullmatch(value) is None


def test_no_secret_has_a_default() -> None:
    assert secret_values(FILE.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("${REDIS_PASSWORD:?is not set, run make secrets first}", "${REDIS_PASSWORD:-redis}"),
        ("${REDIS_PASSWORD:?is not set, run make secrets first}", "$${REDIS_PASSWORD}"),
        ("POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:?is not set, run make secrets first}", "POSTGRES_PASSWORD: postgres"),
        ("airflow:${AIRFLOW_DB_PASSWORD:?is not set, run make secrets first}@", "airflow:airflow@"),
        ("${GATEWAY_TOKEN:?is not set, run make secrets first}", "${GATEWAY_TOKEN}"),
    ],
)
def test_a_default_secret_is_found(old: str, new: str) -> None:
    text = FILE.read_text(encoding="utf-8")
    assert old in text
    assert secret_values(text.replace(old, new)) != []


def test_the_secrets_that_are_made_are_those_that_are_needed(tmp_path: Path) -> None:
    made = tmp_path / "env"
    subprocess.run([REPO / "deploy" / "make-secrets", made], check=True, capture_output=True)
    names = {line.split("=")[0] for line in made.read_text().splitlines() if "=" in line and line[0] != "#"}
    text = FILE.read_text(encoding="utf-8")
    required = set(_REQUIRED.findall(text))
    assert required <= names
    assert names - set(_ANY.findall(text)) == {"COMPOSE_PROFILES"}, "made, and never used"


def test_gateways_differ_in_name_spool_and_port_alone() -> None:
    services = document()["services"]
    one, two = services["gateway-1"], services["gateway-2"]
    assert {key for key in one if one[key] != two.get(key)} == {"environment", "volumes", "ports"}
    assert {k for k, v in one["environment"].items() if v != two["environment"][k]} == {"MODEL_ROLLOUTS_GATEWAY_ID"}
    assert set(one["volumes"]) & set(two["volumes"]) == {"log:/data/log", "tokens:/data/tokens:ro"}


def test_gateways_give_challengers_up_before_the_kernel_ends_them() -> None:
    for name in ("gateway-1", "gateway-2"):
        service = document()["services"][name]
        own = re.fullmatch(r"\$\{GATEWAY_MEMORY_MB:-(\d+)\}", service["environment"]["MODEL_ROLLOUTS_MAX_MEMORY_MB"])
        assert own is not None
        most = int(service["mem_limit"].removesuffix("g")) * 1024
        assert 0 < int(own[1]) <= most - 400, "what the process holds beside its own memory, such as files in /tmp"


def test_what_counts_and_what_asks_shares_the_log() -> None:
    services = document()["services"]
    needs = [name for name in services if name.startswith(("gateway", "airflow")) or name in ("demo", "rollouts")]
    assert len(needs) == 9
    assert [name for name in needs if "log:/data/log" not in services[name]["volumes"]] == []
