# ruff: noqa: S607 - programs are found on the path, as people call them
"""A Docker engine for the check: the one that is there, or one of its own where there is none and no registry.

One of its own is for Debian 12 and root, such as a build machine: Debian's docker.io with every path below one folder,
Compose and Buildx from Debian 13's packages (unpacked, not installed), and base images made of Debian's packages under
the names that the Dockerfile and the compose file have. When it ends nothing of it is left but the packages.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# In this order: the others are made of the first.
BASE_IMAGES = {"python": "python:3.11-slim-bookworm", "postgres": "postgres:15-bookworm", "redis": "redis:7-bookworm"}
_DEBIAN = "debian:bookworm-slim"
_PACKAGES = ("docker.io", "containerd", "runc", "tini", "mmdebstrap", "iptables", "iproute2")
_PLUGINS = ("docker-compose", "docker-buildx")
_OURS = ("dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker-proxy")
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_START_SECONDS, _END_SECONDS = 60.0, 60.0


class EngineError(Exception):
    """There is no engine that can be used; the message says why."""


class Engine:
    """Where containers run.

    Args:
        folder: For everything an engine of its own has; a short path, since there are sockets in it.
        say: Told what is done.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say
        self.own = False
        self.env = dict(os.environ)

    def start(self) -> None:
        """Find an engine, or make one.

        Raises:
            EngineError: Neither works.
        """
        if self._answers():
            self._say(f"the engine that is there is used: {self._version()}")
            return
        self.own = True
        self.env |= {"DOCKER_HOST": f"unix://{self.folder}/docker.sock", "DOCKER_CONFIG": str(self.folder / "config")}
        if self._answers():
            self._say(f"the engine in {self.folder} is used again: {self._version()}")
            return
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise EngineError("no Docker engine answers, and only root on Debian can make one; start Docker first")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._install()
        self._daemon()
        self._base_images()

    def end(self) -> list[str]:
        """End an engine of its own and take back everything that it changed on the machine.

        Returns:
            What is left of it nevertheless; nothing when all is gone. Nothing for an engine that was there before.
        """
        if not self.own or not self.folder.exists():
            return []
        for listing, removal in (
            (("ps", "-aq"), ("rm", "-fv")),
            (("volume", "ls", "-q"), ("volume", "rm", "-f")),
            (("network", "ls", "-q", "--filter", "type=custom"), ("network", "rm")),
        ):
            if names := self._ask(*listing).split():
                self._ask(*removal, *names)
        self._end_daemon()
        # Told to end, it leaves mounts, bridges and rules behind.
        for mount in sorted(self._mounts(), reverse=True):
            subprocess.run(["umount", mount], check=False)
        before = self._before()
        subprocess.run(["iptables-restore"], input=_emptied(_rules()) + before["rules"], text=True, check=False)
        for link in sorted(_links() - set(before["links"])):
            subprocess.run(["ip", "link", "del", link], check=False, stderr=subprocess.DEVNULL)
        _FORWARDING.write_text(str(before["forwarding"]), encoding="ascii")
        left = [f"mount {mount}" for mount in self._mounts()]
        left += [f"network interface {link}" for link in sorted(_links() - set(before["links"]))]
        left += [f"process {found}" for found in self._processes()]
        left += [f"rule {rule}" for rule in sorted(_plain(_rules()) - _plain(before["rules"]))]
        if not left:
            shutil.rmtree(self.folder)
        return left

    def _answers(self) -> bool:
        if shutil.which("docker", path=self.env.get("PATH")) is None:
            return False
        return subprocess.run(["docker", "version"], env=self.env, capture_output=True, check=False).returncode == 0

    def _version(self) -> str:
        engine = self._ask("version", "--format", "{{.Server.Version}}").strip()
        compose = self._ask("compose", "version", "--short").strip()
        if not compose:
            raise EngineError("Docker has no Compose: install its plugin docker-compose, 2.24 or newer")
        return f"Docker {engine}, Compose {compose}"

    def _ask(self, *arguments: str) -> str:
        done = subprocess.run(["docker", *arguments], env=self.env, capture_output=True, text=True, check=False)
        return done.stdout

    def _install(self) -> None:
        _run("apt-get", "update", "-qq")
        _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *_PACKAGES)
        scratch, plugins = self.folder / "debian13", self.folder / "config" / "cli-plugins"
        (scratch / "lists" / "partial").mkdir(parents=True)
        plugins.mkdir(parents=True, exist_ok=True)
        source = f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {_mirror()} trixie main\n"
        (scratch / "sources.list").write_text(source, encoding="utf-8")
        apart = [
            *("-o", f"Dir::Etc::sourcelist={scratch / 'sources.list'}", "-o", "Dir::Etc::sourceparts=/dev/null"),
            *("-o", f"Dir::State::lists={scratch / 'lists'}", "-o", "APT::Sandbox::User=root"),
            *("-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="),
        ]
        _run("apt-get", *apart, "update", "-qq")
        _run("apt-get", *apart, "download", "-qq", *_PLUGINS, cwd=scratch)
        for package in scratch.glob("*.deb"):
            _run("dpkg", "-x", str(package), str(scratch))
        for name in _PLUGINS:
            shutil.copy2(scratch / "usr" / "libexec" / "docker" / "cli-plugins" / name, plugins / name)
        shutil.rmtree(scratch)
        self._say("docker.io, Compose and Buildx are there")

    def _daemon(self) -> None:
        before = {"rules": _rules(), "links": sorted(_links()), "forwarding": _FORWARDING.read_text().strip()}
        (self.folder / "before.json").write_text(json.dumps(before), encoding="utf-8")
        where = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "pid"}
        command = ["dockerd", "-H", self.env["DOCKER_HOST"]]
        command += [part for flag, name in where.items() for part in (flag, str(self.folder / name))]
        with (self.folder / "dockerd.log").open("wb") as log:
            daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        until = time.monotonic() + _START_SECONDS
        while not self._answers():
            if daemon.poll() is not None or time.monotonic() > until:
                tail = (self.folder / "dockerd.log").read_text(errors="replace")[-2000:]
                raise EngineError(f"dockerd does not answer:\n{tail}")
            time.sleep(0.2)
        self._say(self._version())

    def _base_images(self) -> None:
        # Nothing of it has to survive a power cut: a build without a sync for each file, as in the real image.
        command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates"]
        system = subprocess.Popen(
            [*command, "--dpkgopt=force-unsafe-io", "bookworm", "-"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        _run("docker", "import", "-c", 'CMD ["bash"]', "-", _DEBIAN, env=self.env, stdin=system.stdout)
        if system.wait() != 0:
            raise EngineError(f"mmdebstrap ended with {system.returncode}")
        for folder, name in BASE_IMAGES.items():
            context = self.folder / "images" / folder
            shutil.copytree(HERE / "base_images" / folder, context)
            if folder == "python":
                shutil.copy2("/etc/ssl/certs/ca-certificates.crt", context)
            _run("docker", "build", "-q", "-t", name, str(context), env=self.env)
            self._say(f"{name} is made")

    def _before(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "before.json").read_text(encoding="utf-8"))
        return found

    def _end_daemon(self) -> None:
        try:
            pid = int((self.folder / "pid").read_text())
        except FileNotFoundError:
            return
        until = time.monotonic() + _END_SECONDS
        os.kill(pid, signal.SIGTERM)
        while self._processes():
            if time.monotonic() > until:
                for process in self._processes():
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.2)

    def _processes(self) -> list[int]:
        """Those that have the folder in their command line, this one and its parents apart."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue  # it has ended meanwhile
                name = Path(os.fsdecode(words[0])).name
                if name in _OURS and any(os.fsencode(str(self.folder)) in word for word in words):
                    found.append(int(entry.name))
        return found

    def _mounts(self) -> list[str]:
        lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
        return [line.split()[1] for line in lines if line.split()[1].startswith(f"{self.folder}/")]


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None, stdin: Any = None) -> None:
    """Run a command that must work.

    Raises:
        EngineError: It did not; the message has the end of what it said.
    """
    env = {**(env or os.environ), "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=cwd, env=env, stdin=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")


def _mirror() -> str:
    for line in Path("/etc/apt/sources.list.d/debian.sources").read_text(encoding="utf-8").splitlines():
        if line.startswith("URIs:"):
            return line.split()[1]
    raise EngineError("/etc/apt/sources.list.d/debian.sources names no mirror")


def _links() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def _rules() -> str:
    return subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout


def _emptied(rules: str) -> str:
    """The tables of some rules with nothing in them: one that was not there before is not there in what was saved."""
    tables: dict[str, list[str]] = {}
    for line in rules.splitlines():
        if line.startswith("*"):
            chains = tables.setdefault(line, [])
        elif line.startswith(":") and line.split()[1] != "-":
            chains.append(f"{line.split()[0]} ACCEPT [0:0]")
    return "".join("\n".join([table, *chains, "COMMIT", ""]) for table, chains in tables.items())


def _plain(rules: str) -> set[str]:
    """What rules do: without counters and comments, and without chains that let everything through."""
    lines = (line.split(" [")[0] for line in rules.splitlines())
    return {line for line in lines if (line.startswith(("-", ":")) and not line.endswith(" ACCEPT")) or "-j" in line}
