"""`make audit`: what is known of the locked packages' vulnerabilities, by pip-audit.

A package index that has no such data, or a copy of one that leaves it out, looks to pip-audit like packages without
any: it says "No known vulnerabilities found" and succeeds. So the same question is first asked of a package that is
known to have some; where none is told, nothing was audited, and this fails.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.txt", "deploy/requirements.txt")
#: For as long as the index is asked truthfully there are some of it: CVE-2018-18074.
KNOWN_BAD = "requests==2.19.0"
_PIP_AUDIT = "pip-audit==2.10.1"
_SECONDS = 900
_FOUND, _NOT_AUDITED = 1, 2


class NotAuditedError(Exception):
    """There is no telling whether there are vulnerabilities."""


def audited(lock: Path) -> list[dict[str, Any]]:
    """The packages of a lock file, each with what is known of it.

    Args:
        lock: Pinned requirements.

    Raises:
        NotAuditedError: Not all of them could be asked about.
    """
    uv = Path(sys.executable).with_name("uv")
    options = ["--requirement", str(lock), "--no-deps", "--disable-pip", "--strict", "--format", "json"]
    command = [str(uv), "tool", "run", "--from", _PIP_AUDIT, "pip-audit", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAuditedError(f"pip-audit did not run: {error}") from error
    try:
        found = json.loads(done.stdout)["dependencies"]
        packages = [(each["name"], each["version"], each["vulns"]) for each in found]
    except (ValueError, KeyError, TypeError) as error:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NotAuditedError(lines[-1]) from error
    if not packages:
        raise NotAuditedError(f"no package of {lock.name} was asked about")
    return [{"name": name, "version": version, "vulns": vulns} for name, version, vulns in packages]


def known_bad_is_known() -> None:
    """See that vulnerabilities would be told.

    Raises:
        NotAuditedError: They would not.
    """
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "known-bad.txt"
        lock.write_text(KNOWN_BAD + "\n")
        if not any(package["vulns"] for package in audited(lock)):
            raise NotAuditedError(
                f"nothing is told of {KNOWN_BAD}, which is known to be vulnerable: this index can't tell"
            )


def main() -> int:
    """The exit code: 0 none are known, 1 some are, 2 nobody could tell."""
    worst = 0
    try:
        known_bad_is_known()
        for name in LOCKS:
            if not (ROOT / name).exists():
                continue
            packages = audited(ROOT / name)
            bad = [package for package in packages if package["vulns"]]
            print(f"{name}: {len(packages)} packages, {len(bad)} of them with known vulnerabilities")
            for package in bad:
                ids = ", ".join(each["id"] for each in package["vulns"])
                mended = sorted({fix for each in package["vulns"] for fix in each.get("fix_versions", [])})
                print(f"  {package['name']} {package['version']}: {ids}; mended in {', '.join(mended) or 'none'}")
            worst = max(worst, _FOUND if bad else 0)
    except NotAuditedError as error:
        print(f"nothing was audited: {error}", file=sys.stderr)
        return _NOT_AUDITED
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
