#!/usr/local/bin/python -IS
"""Whether a part is healthy, for Docker: `healthy URL` answers with 2xx, or `healthy URL PART` of Airflow's health.

Exit code 0: it is. Only the standard library, without site-packages: it runs every few seconds.
"""

import json
import sys
import urllib.error
import urllib.request

_SECONDS = 4


def main(arguments: list[str]) -> int:
    """Ask once."""
    url, part = arguments[0], (arguments[1] if arguments[1:] else None)
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310 - of the compose file
            content = answer.read()
    except (urllib.error.URLError, OSError) as error:
        return _say(f"{url}: {error}", 1)
    if part is None:
        return 0
    try:
        status = json.loads(content)[part]["status"]
    except (ValueError, KeyError, TypeError) as error:
        return _say(f"{url} says nothing of {part}: {error!r}", 1)
    return _say(f"{part} is {status}", 0 if status == "healthy" else 1)


def _say(what: str, code: int) -> int:
    sys.stdout.write(f"{what}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
