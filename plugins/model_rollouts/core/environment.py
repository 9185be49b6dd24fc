"""What differs between the surroundings of two versions, and between a version's and the gateways'.

Blue and green are only as alike as their packages, their Python and their schemas. What breaks is told from what
merely differs, and what can't be compared from what is the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from model_rollouts.core.requirements import PYTHON, applies, far_off, is_version, met, read, series, shown

Columns = tuple[tuple[str, str], ...]


class Severity(StrEnum):
    """What a difference means."""

    BREAKS = "breaks"
    UNKNOWN = "unknown"  # something is missing or unreadable: nothing says that there is no difference
    DIFFERS = "differs"


class Kind(StrEnum):
    """Where a difference was found."""

    REQUIREMENT = "requirement"  # recorded by the two versions
    PYTHON = "python"
    INPUT = "input"
    OUTPUT = "output"
    INSTALLED = "installed"  # recorded by the challenger, against what a gateway has


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference.

    Attributes:
        kind: Where.
        name: Package or column.
        before: What the champion has; for `installed`, what the challenger asks for. Empty: nothing.
        after: What the challenger has; for `installed`, what gateways have. Empty: nothing.
        severity: What it means.
    """

    kind: Kind
    name: str
    before: str
    after: str
    severity: Severity

    def __str__(self) -> str:
        """A sentence's worth."""
        if self.kind is Kind.INSTALLED:
            return f"{self.name}: the challenger asks for {self.before or 'any version'}, gateways have {self.after}"
        return f"{self.kind} {self.name}: {self.before or 'none'} became {self.after or 'none'}"


@dataclass(frozen=True, slots=True)
class VersionEnvironment:
    """What a version has on record about its surroundings.

    Attributes:
        requirements: Lines of its requirements.txt; None: it has none on record.
        python: Python's version, such as 3.11.7; "": not on record.
        inputs: Name and type of each input, in order; None: it has no signature.
        optional: Names of the inputs that may be left out.
        outputs: Name and type of each output, in order; None: the signature tells none.
    """

    requirements: tuple[str, ...] | None = None
    python: str = ""
    inputs: Columns | None = None
    optional: frozenset[str] = frozenset()
    outputs: Columns | None = None


def differences(
    champion: VersionEnvironment, challenger: VersionEnvironment, gateways: Mapping[str, Mapping[str, str]]
) -> tuple[Difference, ...]:
    """Everything that differs, the worst first.

    Args:
        champion: The version that serves.
        challenger: The version that wants to.
        gateways: Process -> installed packages and their versions, "python" among them.
    """
    found = [
        *_requirements(champion, challenger),
        *_pythons(champion, challenger),
        *_inputs(champion, challenger),
        *_outputs(champion, challenger),
        *_installed(challenger, gateways),
    ]
    order = list(Severity)
    return tuple(sorted(found, key=lambda d: (order.index(d.severity), list(Kind).index(d.kind), d.name)))


# --- between the versions


def _requirements(champion: VersionEnvironment, challenger: VersionEnvironment) -> Iterator[Difference]:
    for who, side in (("champion", champion), ("challenger", challenger)):
        if side.requirements is None:
            yield Difference(Kind.REQUIREMENT, f"requirements.txt of the {who}", "", "", Severity.UNKNOWN)
    before, after = _by_package(champion), _by_package(challenger)
    if champion.requirements is None or challenger.requirements is None:
        return
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            # whether it matters is for what is installed to say
            yield Difference(Kind.REQUIREMENT, name, before.get(name, ""), after.get(name, ""), Severity.DIFFERS)


def _by_package(version: VersionEnvironment) -> dict[str, str]:
    asked, _ = read(version.requirements or ())
    return {name: shown(requirements) or "any version" for name, requirements in asked.items()}


def _pythons(champion: VersionEnvironment, challenger: VersionEnvironment) -> Iterator[Difference]:
    if not champion.python or not challenger.python:
        yield Difference(Kind.PYTHON, PYTHON, champion.python, challenger.python, Severity.UNKNOWN)
    elif champion.python != challenger.python:
        yield Difference(Kind.PYTHON, PYTHON, champion.python, challenger.python, Severity.DIFFERS)


def _inputs(champion: VersionEnvironment, challenger: VersionEnvironment) -> Iterator[Difference]:
    """Whatever callers send today must be enough for the challenger."""
    if champion.inputs is None or challenger.inputs is None:
        sides = (_columns(champion.inputs), _columns(challenger.inputs))
        yield Difference(Kind.INPUT, "signature", *sides, Severity.UNKNOWN)
        return
    before, after = dict(champion.inputs), dict(challenger.inputs)
    for name, kind in after.items():
        needed = name not in challenger.optional
        if name not in before:
            yield Difference(
                Kind.INPUT, name, "", _described(kind, needed), Severity.BREAKS if needed else Severity.DIFFERS
            )
            continue
        was_needed = name not in champion.optional
        if before[name] != kind or was_needed != needed:
            breaks = before[name] != kind or needed
            yield Difference(
                *(Kind.INPUT, name, _described(before[name], was_needed), _described(kind, needed)),
                severity=Severity.BREAKS if breaks else Severity.DIFFERS,
            )
    for name in before.keys() - after.keys():
        yield Difference(
            Kind.INPUT, name, _described(before[name], name not in champion.optional), "", Severity.DIFFERS
        )


def _outputs(champion: VersionEnvironment, challenger: VersionEnvironment) -> Iterator[Difference]:
    """Whatever callers read today must still be there."""
    if champion.outputs is None or challenger.outputs is None:
        if champion.outputs != challenger.outputs:
            sides = (_columns(champion.outputs), _columns(challenger.outputs))
            yield Difference(Kind.OUTPUT, "signature", *sides, Severity.UNKNOWN)
        return
    before, after = dict(champion.outputs), dict(challenger.outputs)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            new = name not in before
            yield Difference(
                *(Kind.OUTPUT, name, before.get(name, ""), after.get(name, "")),
                severity=Severity.DIFFERS if new else Severity.BREAKS,
            )


def _described(kind: str, needed: bool) -> str:
    return kind if needed else f"{kind}, may be left out"


def _columns(columns: Columns | None) -> str:
    return "" if columns is None else ", ".join(f"{name} ({kind})" for name, kind in columns) or "no columns"


# --- between the challenger and the gateways


def _installed(challenger: VersionEnvironment, gateways: Mapping[str, Mapping[str, str]]) -> Iterator[Difference]:
    if not gateways:
        yield Difference(Kind.INSTALLED, "gateways", "", "none of them tells what it has", Severity.UNKNOWN)
        return
    for gateway in sorted(gateways):
        if not gateways[gateway]:
            yield Difference(
                Kind.INSTALLED, gateway, "", "does not tell what packages it has installed", Severity.UNKNOWN
            )
    told = {
        gateway: {str(canonicalize_name(name)): version for name, version in packages.items()}
        for gateway, packages in gateways.items()
        if packages
    }
    if challenger.python:
        yield from _told("python", challenger.python, {g: _python(challenger.python, have) for g, have in told.items()})
    if challenger.requirements is None:
        return  # said already
    asked, unreadable = read(challenger.requirements)
    for line in unreadable:
        yield Difference(Kind.INSTALLED, line, "", "which can't be read as a requirement", Severity.UNKNOWN)
    for name, requirements in asked.items():
        for requirement in requirements:
            found = {g: _package(name, requirement, have) for g, have in told.items() if applies(requirement, have)}
            yield from _told(name, shown([requirement]), found)


Found = tuple[Severity | None, str]  # None: as it should be


def _python(wanted: str, have: Mapping[str, str]) -> Found:
    version = have.get(PYTHON, "")
    if not is_version(version) or not is_version(wanted):
        return Severity.UNKNOWN, version or "not told"
    if version == wanted:
        return None, version
    return Severity.DIFFERS if series(version) == series(wanted) else Severity.BREAKS, version


def _package(name: str, requirement: Requirement, have: Mapping[str, str]) -> Found:
    version = have.get(name)
    if version is None:
        return Severity.BREAKS, "not installed"
    if not is_version(version):
        return Severity.UNKNOWN, f"{version!r}, which is no version"
    if met(requirement, version):
        return None, version
    return Severity.BREAKS if far_off(requirement, version) else Severity.DIFFERS, version


def _told(name: str, wanted: str, found: Mapping[str, Found]) -> Iterator[Difference]:
    """One difference for all gateways, as bad as the worst of them."""
    bad = [severity for severity, _ in found.values() if severity is not None]
    texts = {text for _, text in found.values()}
    if len(texts) == 1:
        have = texts.pop()
    else:
        have = ", ".join(f"{text} on {gateway}" for gateway, (_, text) in sorted(found.items()))
        bad.append(Severity.DIFFERS)  # the gateways among one another
    if bad and found:
        yield Difference(Kind.INSTALLED, name, wanted, have, min(bad, key=list(Severity).index))
