"""What differs between versions and gateways, and what that means."""

from dataclasses import replace

import pytest

from model_rollouts.core.environment import Difference, Kind, Severity, VersionEnvironment, differences

SAME = VersionEnvironment(
    requirements=("scikit-learn==1.9.1", "numpy==2.4.6"),
    python="3.11.7",
    inputs=(("distance", "double"), ("carrier", "string"), ("hour", "long")),
    optional=frozenset({"hour"}),
    outputs=(("0", "long"),),
)
INSTALLED = {"gw-1": {"python": "3.11.7", "scikit-learn": "1.9.1", "numpy": "2.4.6"}}


def told(challenger: VersionEnvironment, gateways: dict[str, dict[str, str]] = INSTALLED) -> list[tuple[str, ...]]:
    return [(d.kind, d.name, d.severity) for d in differences(SAME, challenger, gateways)]


def test_alike_surroundings_have_no_difference() -> None:
    assert differences(SAME, SAME, INSTALLED) == ()
    other_spelling = replace(SAME, requirements=("numpy==2.4.6 # comment", "Scikit_Learn == 1.9.1 \\"))
    assert (
        differences(SAME, other_spelling, {"gw-1": {"python": "3.11.7", "Scikit_learn": "1.9.1", "Numpy": "2.4.6"}})
        == ()
    )


@pytest.mark.parametrize(
    ("line", "installed", "severity"),
    [
        ("lib==2.1.0", "2.1.0", None),
        ("lib==2.1.0", "2.1.0+cu121", None),
        ("lib==2.1.*", "2.1.9", None),
        ("lib>=2,<3", "2.9", None),
        ("lib", "0.1", None),
        ("lib>=2.0rc1", "2.0rc2", None),
        ("lib @ https://example.org/lib.whl", "2.1.0", None),
        ("code/lib-2.1.0-py3-none-any.whl", "2.1.0", None),
        ("lib==2.1.0; python_version < '3.10'", None, None),  # not meant for this Python
        ("lib==2.1.0", "2.2.0", Severity.DIFFERS),
        ("lib==2.1.0", "3.0.0", Severity.BREAKS),
        ("lib==0.25.0", "0.25.1", Severity.DIFFERS),
        ("lib==0.25.0", "0.26.0", Severity.BREAKS),
        ("lib~=2.1", "3.0", Severity.BREAKS),
        ("lib<3", "3.1", Severity.BREAKS),  # somebody set this bound
        ("lib>=2.1", "2.0", Severity.BREAKS),
        ("lib==2.1.0", None, Severity.BREAKS),
        ("lib==2.1.0; python_version >= '3.10'", None, Severity.BREAKS),
        ("lib", None, Severity.BREAKS),
        ("code/lib-2.1.0-py3-none-any.whl", "3.0.0", Severity.BREAKS),
        ("lib==2.1.0", "unknown", Severity.UNKNOWN),
        ("-r more.txt", None, Severity.UNKNOWN),
        ("lib==2.1.0 what", None, Severity.UNKNOWN),
    ],
)
def test_installed_packages_are_held_against_what_the_challenger_asks_for(
    line: str, installed: str | None, severity: Severity | None
) -> None:
    version = replace(SAME, requirements=(line,))
    packages = {"python": "3.11.7"} | ({"lib": installed} if installed else {})
    found = differences(version, version, {"gw-1": packages})
    assert [d.severity for d in found] == ([] if severity is None else [severity])


def test_index_options_are_no_packages() -> None:
    version = replace(SAME, requirements=("--extra-index-url https://example.org", "# note", "", "numpy==2.4.6"))
    assert differences(version, version, INSTALLED) == ()


def test_one_gateway_that_lacks_a_package_is_named() -> None:
    two = {**INSTALLED, "gw-2": {"python": "3.11.7", "numpy": "2.4.6"}}
    (found,) = differences(SAME, SAME, two)
    assert found == Difference(
        Kind.INSTALLED, "scikit-learn", "==1.9.1", "1.9.1 on gw-1, not installed on gw-2", Severity.BREAKS
    )
    assert str(found) == (
        "scikit-learn: the challenger asks for ==1.9.1, gateways have 1.9.1 on gw-1, not installed on gw-2"
    )


def test_gateways_that_differ_among_one_another_are_told() -> None:
    loose = replace(SAME, requirements=("numpy>=2",))
    two = {**INSTALLED, "gw-2": {"python": "3.11.7", "numpy": "2.3.0"}}
    (found,) = differences(loose, loose, two)
    assert (found.after, found.severity) == ("2.4.6 on gw-1, 2.3.0 on gw-2", Severity.DIFFERS)


def test_a_requirement_that_changed_between_the_versions_differs() -> None:
    changed = replace(SAME, requirements=("scikit-learn==1.9.1", "numpy==2.4.6", "lightgbm==4.6.0"))
    have = {"gw-1": {**INSTALLED["gw-1"], "lightgbm": "4.6.0"}}
    assert differences(SAME, changed, have) == (
        Difference(Kind.REQUIREMENT, "lightgbm", "", "==4.6.0", Severity.DIFFERS),
    )


@pytest.mark.parametrize(
    ("python", "expected"),
    [
        ("3.10.2", [(Kind.PYTHON, "python", Severity.DIFFERS), (Kind.INSTALLED, "python", Severity.DIFFERS)]),
        ("2.7.18", [(Kind.INSTALLED, "python", Severity.BREAKS), (Kind.PYTHON, "python", Severity.DIFFERS)]),
        ("", [(Kind.PYTHON, "python", Severity.UNKNOWN)]),
    ],
)
def test_python_is_compared_with_the_champion_s_and_the_gateways(python: str, expected: list[tuple[str, ...]]) -> None:
    assert told(replace(SAME, python=python)) == expected


@pytest.mark.parametrize(
    ("inputs", "optional", "expected"),
    [
        ((("distance", "double"), ("carrier", "string")), (), [("hour", Severity.DIFFERS)]),
        ((*(SAME.inputs or ()), ("origin", "string")), ("hour",), [("origin", Severity.BREAKS)]),
        ((*(SAME.inputs or ()), ("origin", "string")), ("hour", "origin"), [("origin", Severity.DIFFERS)]),
        (SAME.inputs, (), [("hour", Severity.BREAKS)]),  # may no longer be left out
        (SAME.inputs, ("hour", "carrier"), [("carrier", Severity.DIFFERS)]),
        ((("distance", "float"), *(SAME.inputs or ())[1:]), ("hour",), [("distance", Severity.BREAKS)]),
        (tuple(reversed(SAME.inputs or ())), ("hour",), []),
        (None, (), [("signature", Severity.UNKNOWN)]),
    ],
)
def test_what_callers_send_must_be_enough(
    inputs: tuple[tuple[str, str], ...] | None, optional: tuple[str, ...], expected: list[tuple[str, Severity]]
) -> None:
    challenger = replace(SAME, inputs=inputs, optional=frozenset(optional))
    assert told(challenger) == [(Kind.INPUT, *each) for each in expected]


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ((("0", "string"),), [("0", Severity.BREAKS)]),
        ((), [("0", Severity.BREAKS)]),
        ((("0", "long"), ("1", "double")), [("1", Severity.DIFFERS)]),
        (None, [("signature", Severity.UNKNOWN)]),
    ],
)
def test_what_callers_read_must_still_be_there(
    outputs: tuple[tuple[str, str], ...] | None, expected: list[tuple[str, Severity]]
) -> None:
    assert told(replace(SAME, outputs=outputs)) == [(Kind.OUTPUT, *each) for each in expected]


@pytest.mark.parametrize(
    ("gateways", "name"),
    [({}, "gateways"), ({"gw-1": {}}, "gw-1"), ({"gw-1": {"scikit-learn": "1.9.1", "numpy": "2.4.6"}}, "python")],
)
def test_gateways_that_do_not_tell_are_no_match(gateways: dict[str, dict[str, str]], name: str) -> None:
    assert told(SAME, gateways) == [(Kind.INSTALLED, name, Severity.UNKNOWN)]


def test_requirements_that_are_not_on_record_are_no_match() -> None:
    assert told(replace(SAME, requirements=None)) == [
        (Kind.REQUIREMENT, "requirements.txt of the challenger", Severity.UNKNOWN)
    ]


def test_the_worst_comes_first() -> None:
    challenger = replace(SAME, python="3.10.2", requirements=("numpy==3.0",), outputs=None)
    assert [d.severity for d in differences(SAME, challenger, INSTALLED)] == sorted(
        (d.severity for d in differences(SAME, challenger, INSTALLED)), key=list(Severity).index
    )
    assert differences(SAME, challenger, INSTALLED)[0].name == "numpy"
