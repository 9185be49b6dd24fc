"""What a serving process runs on: two environments that differ are the usual surprise of a switch."""

import platform
import re
from functools import cache
from importlib.metadata import distributions


@cache
def packages() -> dict[str, str]:
    """Installed packages by normalised name (PEP 503), and `python` itself. Takes a moment the first time."""
    found: dict[str, str] = {}
    for distribution in distributions():
        about = distribution.metadata
        if "Name" in about and "Version" in about:  # what a broken installation left behind may have neither
            # The first on the path is what gets imported.
            found.setdefault(normalised(about["Name"]), about["Version"])
    return dict(sorted(found.items())) | {"python": platform.python_version()}


def normalised(name: str) -> str:
    """One spelling for one package: `Great_Expectations` is `great-expectations`."""
    return re.sub(r"[-_.]+", "-", name).lower()
