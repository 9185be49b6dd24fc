"""How much is tried: a little and the same each time; with FUZZ=<times> that many times as much, never the same."""

import os
from typing import Any

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("FUZZ", "0"))
_UNHEALTHY = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
_SECONDS = 60.0  # on a machine that is busy with other tests


def tries(count: int) -> Any:
    """Settings for a test of so many examples, none of which may hang.

    Args:
        count: In `make test`.
    """
    return settings(
        max_examples=count * max(1, TIMES),
        derandomize=not TIMES,
        database=None,
        deadline=_SECONDS * 1000,
        suppress_health_check=_UNHEALTHY,
        print_blob=bool(TIMES),
    )


def check_said(error: Exception, longest: int = 20_000) -> None:
    """A refusal says something, and not all that was sent.

    Args:
        error: The refusal.
        longest: Characters.
    """
    text = str(error)
    if not text.strip() or len(text) > longest:
        raise AssertionError(f"the refusal has {len(text)} characters: {text[:200]!r}")
