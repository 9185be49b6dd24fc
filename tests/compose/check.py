"""docker-compose.yaml on a real engine: from nothing to a promoted and a rolled-back canary, and back to nothing.

`make test-compose`. Uses the engine that is there; on a Debian 12 machine without one it makes one of its own, with
base images made of Debian's packages (engine.py). The first thing that is not so ends it.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from engine import Engine, EngineError
from stack import CheckError, Stack, call

MODEL = "flights"
_BUILD_SECONDS, _UP_SECONDS, _DEMO_SECONDS = 1_800.0, 1_200.0, 2_700.0
_MEBI = 2**20
# Those that are there when all of it runs, for each executor.
ALWAYS = {
    *("postgres", "mlflow", "gateway-1", "gateway-2"),
    *("airflow-api", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"),
}
WITH_CELERY = {"redis", "airflow-worker"}


class Check:
    """The check, with its clock."""

    def __init__(self, executor: str) -> None:
        self.executor = executor
        self.celery = executor == "CeleryExecutor"
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def say(self, what: str) -> None:
        """A line with the time."""
        print(f"  {time.monotonic() - self._began:6.1f} s  {what}", flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step, and say when it is done."""
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)
        self.say(f"{name}: {self.seconds[name]:.0f} s")

    def all(self, stack: Stack) -> None:
        """Everything, in order.

        Raises:
            CheckError: Something is not as it must be.
        """
        self.refuses_without_secrets(stack)
        stack.make_secrets()
        with self.step("images"):
            stack.compose("--profile", "demo", "build", seconds=_BUILD_SECONDS)
        with self.step("up, all healthy"):
            stack.compose(
                "up", "--no-build", "--wait", "--wait-timeout", str(int(_UP_SECONDS)), seconds=_UP_SECONDS + 60
            )
        self.is_hardened(stack)
        self.asks_for_logins(stack)
        before = stack.memory()
        self.say(f"memory at rest: {_told(before)}")
        with self.step("the demo: training, traffic, two canaries"), stack.watching_memory():
            stack.compose("run", "--rm", "-T", "demo", show=True, seconds=_DEMO_SECONDS)
        self.has_judged(stack)
        self.ran_the_tasks(stack)
        self.say(f"memory at the demo's end: {_told(stack.memory())}; at most {stack.peak_memory / _MEBI:,.0f} MiB")

    def refuses_without_secrets(self, stack: Stack) -> None:
        """Without secrets nothing starts, and the message says what to do."""
        empty = stack.folder / "empty.env"
        empty.touch()
        for arguments in (("config", "-q"), ("up", "--no-build", "-d")):
            done = stack.run(*arguments, env_file=empty)
            require(
                done.returncode != 0 and "run make secrets first" in done.stderr,
                f"without secrets docker compose {arguments[0]} ended with {done.returncode}: {done.stderr[-1000:]}",
            )
        require(not stack.left(), f"without secrets there is {stack.left()}")
        self.say("without secrets nothing starts")

    def is_hardened(self, stack: Stack) -> None:
        """No container has more than it needs, nor listens beyond this machine."""
        found = stack.inspected()
        wanted = ALWAYS | WITH_CELERY if self.celery else ALWAYS
        require(set(found) == wanted, f"there runs {sorted(found)}, must be {sorted(wanted)}")
        for name, container in found.items():
            config, host = container["Config"], container["HostConfig"]
            require(config["User"] not in {"", "0", "root"}, f"{name} runs as {config['User']!r}")
            require(host["ReadonlyRootfs"], f"{name} can write to its root")
            require(host["CapDrop"] == ["ALL"] and not host["CapAdd"], f"{name} has capabilities: {host['CapAdd']}")
            require("no-new-privileges:true" in host["SecurityOpt"], f"{name} can get privileges")
            require(host["Memory"] > 0 and host["NanoCpus"] > 0, f"{name} has no bound of memory or processor")
            bound = [each["HostIp"] for ports in (host["PortBindings"] or {}).values() for each in ports]
            require(set(bound) <= {"127.0.0.1"}, f"{name} listens on {bound}")
            user = stack.compose("exec", "-T", name, "id", "-u").strip()
            require(user != "0", f"{name} has user id {user}")
            stack.compose("exec", "-T", name, "sh", "-c", "! touch /written 2>/dev/null")
        self.say(f"{len(found)} containers without root, without capabilities, with bounds")

    def asks_for_logins(self, stack: Stack) -> None:
        """Nothing answers somebody without a login, and no part enters another's database."""
        for port, path in (
            ("AIRFLOW_PORT", "/api/v2/dags"),
            ("MLFLOW_PORT", "/api/2.0/mlflow/registered-models/search"),
            ("GATEWAY_1_PORT", f"/models/{MODEL}/status"),
            ("GATEWAY_2_PORT", f"/models/{MODEL}/status"),
        ):
            status, _ = call(stack.url(port) + path)
            require(status == 401, f"{path} answers {status} without a login, must be 401")
        for token, path, body in (
            ("GATEWAY_TOKEN", f"/models/{MODEL}/status", None),
            ("GATEWAY_ADMIN_TOKEN", f"/models/{MODEL}/invocations", b"{}"),
            ("TESTER_TOKEN", f"/models/{MODEL}/invocations", b"{}"),
        ):
            headers = {"Authorization": f"Bearer {stack.values[token]}", "Content-Type": "application/json"}
            status, _ = call(stack.url("GATEWAY_1_PORT") + path, headers, body)
            require(status == 403, f"{path} answers {token} with {status}, must be 403")
        require(stack.mlflow("registered-models/search")[0] == 200, "MLflow does not take its login")
        if self.celery:
            said = stack.compose("exec", "-T", "redis", "redis-cli", "ping", ok=(0, 1))
            require("NOAUTH" in said, f"Redis says {said!r} without a password")
        values = stack.values
        for role, database, enters in (
            ("airflow", "airflow", True),
            ("airflow", "rollouts", False),
            ("rollouts", "airflow", False),
            ("mlflow", "rollouts", False),
            ("rollouts", "postgres", False),
        ):
            password = values[f"{role.upper()}_DB_PASSWORD"]
            url = f"postgresql://{role}:{password}@127.0.0.1/{database}"
            done = stack.run("exec", "-T", "postgres", "psql", url, "-qAtc", "SELECT 1", env_file=stack.file)
            told = (done.stdout + done.stderr).strip()
            require((done.returncode == 0) == enters, f"role {role} at database {database}: {told}")
        self.say("nobody gets in without a login, no part into another's database")

    def has_judged(self, stack: Stack) -> None:
        """The better version is champion in store, registry and both gateways; the broken one was rolled back."""
        status, found = stack.mlflow("model-versions/search?filter=name%3D%27" + MODEL + "%27")
        require(status == 200, f"MLflow answers {status}: {found}")
        versions = {
            tag["value"]: version["version"]
            for version in found["model_versions"]
            for tag in version.get("tags", [])
            if tag["key"] == "variant"
        }
        states = dict(stack.sql("SELECT challenger, state FROM rollouts"))
        wanted = {versions["better"]: "promoted", versions["inaccurate"]: "rolled_back"}
        require(states == wanted, f"the store has rollouts {states}, must be {wanted}")
        champion, challenger, share = stack.sql("SELECT champion, challenger, share FROM traffic")[0]
        require(champion == versions["better"], f"champion {champion}, must be {versions['better']}")
        require((challenger, float(share)) == ("", 0.0), f"challenger {challenger!r} at {share} %, must be none")
        opened = stack.sql(
            "SELECT r.challenger, e.stage FROM events e JOIN rollouts r ON r.id = e.rollout_id "
            "WHERE e.kind = 'stage_opened' ORDER BY e.id"
        )
        stages = [stage for challenger, stage in opened if challenger == versions["better"]]
        require(stages == ["0", "1", "2", "3", "4"], f"the promoted version's stages: {stages}")
        status, alias = stack.mlflow(f"registered-models/alias?name={MODEL}&alias=champion")
        require(status == 200 and alias["model_version"]["version"] == champion, f"MLflow's champion: {alias}")
        status, alias = stack.mlflow(f"registered-models/alias?name={MODEL}&alias=challenger")
        require(status == 400, f"MLflow still has a challenger: {alias}")
        for number in (1, 2):
            said = stack.gateway(number, f"/models/{MODEL}/status")
            ready = said["versions"].get(champion) == "ready"
            require(said["champion"] == champion and ready and said["challenger"] is None, f"gateway {number}: {said}")
            require(
                _answered(stack.gateway(number, "/metrics")) > 100, f"gateway {number} has answered too few requests"
            )
        self.say(
            f"version {champion} was promoted in 5 stages, version {versions['inaccurate']} rolled back: so say store, "
            "MLflow and both gateways"
        )

    def ran_the_tasks(self, stack: Stack) -> None:
        """The canaries' tasks ran where the executor says, and none of them failed."""
        runs = stack.airflow("dags/canary/dagRuns?limit=100")["dag_runs"]
        require(bool(runs) and all(run["state"] == "success" for run in runs), f"runs: {_states(runs)}")
        containers = stack.inspected()
        where = "airflow-worker" if self.celery else "airflow-scheduler"
        host = containers[where]["Config"]["Hostname"]
        tasks = stack.airflow("dags/canary/dagRuns/~/taskInstances?limit=1000")["task_instances"]
        ran = [task for task in tasks if task["state"] == "success" and task["hostname"]]
        require(len(ran) > 20, f"{len(ran)} tasks ran, must be more")
        hosts = {task["hostname"] for task in ran}
        require(hosts == {host}, f"tasks ran at {hosts}, must be {host} ({where})")
        executor = stack.compose("exec", "-T", "airflow-scheduler", "printenv", "AIRFLOW__CORE__EXECUTOR").strip()
        require(executor == self.executor, f"the executor is {executor}")
        self.say(f"{len(runs)} runs, {len(ran)} tasks, all of them in {where}, by {executor}")


def _answered(metrics: str) -> float:
    """Requests that a gateway has answered, by its metrics."""
    lines = [line for line in metrics.splitlines() if line.startswith("model_rollouts_gateway_requests_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def _told(memory: dict[str, int]) -> str:
    each = ", ".join(f"{name} {used / _MEBI:,.0f}" for name, used in sorted(memory.items(), key=lambda item: -item[1]))
    return f"{sum(memory.values()) / _MEBI:,.0f} MiB ({each})"


def _states(runs: list[dict[str, Any]]) -> dict[str, str]:
    return {run["dag_run_id"]: run["state"] for run in runs}


def require(holds: bool, otherwise: str) -> None:
    """Go on where it holds.

    Raises:
        CheckError: It does not.
    """
    if not holds:
        raise CheckError(otherwise)


def main() -> int:
    """Command line; the exit code is 0 when all of it holds and nothing is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executor", choices=("CeleryExecutor", "LocalExecutor"), default="CeleryExecutor")
    parser.add_argument("--rate", default="300", help="requests per second of the demo")
    parser.add_argument("--folder", type=Path, help="short path for an engine of its own; made again when left out")
    parser.add_argument("--keep", action="store_true", help="leave engine and containers; needs --folder")
    parser.add_argument("--report", type=Path, help="write seconds and memory here, as JSON")
    given = parser.parse_args()
    if given.keep and given.folder is None:
        parser.error("--keep needs --folder: the next call has to find it")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    check = Check(given.executor)
    scratch = Path(tempfile.mkdtemp(prefix="compose-"))
    engine = Engine(given.folder or Path(tempfile.mkdtemp(prefix="rc-")), check.say)
    profiles = "celery" if check.celery else ""
    choices = {
        "AIRFLOW_EXECUTOR": given.executor,
        "COMPOSE_PROFILES": profiles,
        "DEMO_RATE": given.rate,
        "ROLLOUTS_IMAGE": "model-rollouts:test",
        "ROLLOUTS_DEMO_IMAGE": "model-rollouts-demo:test",
    }
    failed: list[str] = []
    try:
        with check.step("engine"):
            engine.start()
        stack = Stack(engine.folder if given.keep else scratch, "rollouts-test", engine.env, choices)
        try:
            check.all(stack)
        except (CheckError, KeyboardInterrupt) as error:
            failed.append(str(error) or "interrupted")
            failed += _told_by_containers(stack)
        if not given.keep:
            with check.step("down"):
                stack.compose("--profile", "*", "down", "-v", "--remove-orphans", "--timeout", "30")
            failed += [f"left behind: {what}" for what in stack.left()]
        if given.report:
            content = {"seconds": check.seconds, "peak_mebibytes": round(stack.peak_memory / _MEBI)}
            given.report.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except (CheckError, EngineError, KeyboardInterrupt) as error:
        failed.append(str(error) or "interrupted")
    finally:
        if not given.keep:
            with check.step("engine ended"):
                failed += [f"left behind: {what}" for what in engine.end()]
        shutil.rmtree(scratch, ignore_errors=True)
    for each in failed:
        print(each, file=sys.stderr)
    if not failed:
        check.say("all of it holds" + ("" if given.keep else ", and nothing is left"))
    return 1 if failed else 0


def _told_by_containers(stack: Stack) -> list[str]:
    """The state of the containers, and the end of what those said that are not healthy."""
    if not stack.file.exists():
        return []
    try:
        told = [stack.compose("--profile", "*", "ps", "-a", "--format", "table {{.Service}}\t{{.Status}}")]
        for name, container in stack.inspected().items():
            if container["State"].get("Health", {}).get("Status") != "healthy":
                told.append(f"--- {name}\n{stack.compose('logs', '--no-log-prefix', '--tail', '40', name)}")
    except CheckError as error:
        return [str(error)]
    return told


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
