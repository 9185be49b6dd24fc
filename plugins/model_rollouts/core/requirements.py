"""Recorded requirements, read as pip reads them, and what is installed held against them."""

from collections.abc import Iterable, Mapping

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import Specifier
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

PYTHON = "python"
_PINS = frozenset({"==", "===", "~="})
# Options that name no package of their own. Others (-r, -c, -e) do, in files that are not on record.
_WHERE_FROM = ("--index-url", "--extra-index-url", "--find-links", "--trusted-host", "--no-", "--pre", "-i", "-f")


def read(lines: Iterable[str]) -> tuple[dict[str, list[Requirement]], list[str]]:
    """Requirements by the package's normalised name, and the lines that can't be read as any."""
    found: dict[str, list[Requirement]] = {}
    unreadable = []
    for raw in lines:
        line = raw.partition(" #")[0].partition(" --hash")[0].strip().rstrip("\\").strip()
        if not line or line.startswith(("#", *_WHERE_FROM)):
            continue
        try:
            requirement = _of_wheel(line) if line.endswith(".whl") and "@" not in line else Requirement(line)
        except (InvalidRequirement, InvalidWheelFilename):
            unreadable.append(line)
        else:
            found.setdefault(str(canonicalize_name(requirement.name)), []).append(requirement)
    return found, unreadable


def shown(requirements: Iterable[Requirement]) -> str:
    """What is asked of one package, without its name: the same text for the same demand."""
    return "; ".join(sorted(_shown(requirement) for requirement in requirements))


def applies(requirement: Requirement, packages: Mapping[str, str]) -> bool:
    """Whether a process with these packages is meant: by its Python; other markers are taken as on this machine."""
    if requirement.marker is None:
        return True
    python = packages.get(PYTHON)
    told = {"python_full_version": python, "python_version": ".".join(python.split(".")[:2])} if python else {}
    return requirement.marker.evaluate(told)


def met(requirement: Requirement, version: str) -> bool:
    """Whether an installed version will do.

    Raises:
        InvalidVersion: It is no version.
    """
    return requirement.specifier.contains(Version(version), prereleases=True)


def far_off(requirement: Requirement, version: str) -> bool:
    """Whether an installed version that will not do is of another series, or beyond a bound that somebody set.

    Raises:
        InvalidVersion: It is no version.
    """
    have = Version(version)
    unmet = [each for each in requirement.specifier if not each.contains(have, prereleases=True)]
    return any(each.operator not in _PINS or _series(_pinned(each)) != _series(have) for each in unmet)


def series(version: str) -> tuple[int, ...]:
    """What must stay the same for a version to be of the same kind: the first number; after a 0 the second one, too.

    Raises:
        InvalidVersion: It is no version.
    """
    return _series(Version(version))


def is_version(text: str) -> bool:
    """Whether a text is a version."""
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _series(version: Version) -> tuple[int, ...]:
    numbers = (*version.release, 0)
    return (version.epoch, *(numbers[:2] if numbers[0] == 0 else numbers[:1]))


def _pinned(specifier: Specifier) -> Version:
    return Version(specifier.version.removesuffix(".*"))


def _of_wheel(line: str) -> Requirement:
    """A wheel that was logged with the model, such as code/my_lib-1.2-py3-none-any.whl."""
    name, version, _, _ = parse_wheel_filename(line.replace("\\", "/").rsplit("/", 1)[-1])
    return Requirement(f"{name}=={version}")


def _shown(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    where = f"@ {requirement.url}" if requirement.url else str(requirement.specifier)
    return f"{extras}{where}" + (f" where {requirement.marker}" if requirement.marker else "")
