"""Names that Airflow takes: it allows few characters in the id of a run."""

import re


def slug(text: str, longest: int = 60) -> str:
    """A text with a dash for everything but letters, digits and underscores; never empty."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[:longest] or "model"


def stage_run_id(rollout_id: str, stage: int, again: int = 0) -> str:
    """The DAG run of a stage, whoever triggers it; `again` counts those that take it up after one that died."""
    return f"{rollout_id}--stage-{stage + 1}" + (f"--again-{again}" if again else "")
