"""Names that Airflow takes: it allows few characters in the id of a run."""

import hashlib
import re


def slug(text: str, longest: int = 60) -> str:
    """A text with a dash for everything but letters, digits and underscores; never empty."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[:longest] or "model"


def rollout_id_for(model: str, challenger: str, pattern: str, run_id: str) -> str:
    """A readable id that the same DAG run always gives again.

    It becomes part of Airflow's run ids, which allow few characters; the digest keeps what the readable part loses.
    """
    digest = hashlib.blake2b(f"{model}\0{challenger}\0{run_id}".encode(), digest_size=4).hexdigest()
    return f"{slug(model)}-{pattern}-{slug(challenger)}-{digest}"


def stage_run_id(rollout_id: str, stage: int, again: int = 0) -> str:
    """The DAG run of a stage, whoever triggers it; `again` counts those that take it up after one that died."""
    return f"{rollout_id}--stage-{stage + 1}" + (f"--again-{again}" if again else "")
