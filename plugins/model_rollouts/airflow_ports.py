"""What people's deeds need from Airflow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Question:
    """What a DAG run waits for a person with.

    Attributes:
        dag_id: The run's DAG.
        run_id: The run.
        task_id: The task that asks.
        subject: The question.
        body: More of it.
        options: The answers that it takes.
        assigned: Ids of the users who alone may answer; empty: whoever may answer what the DAG asks.
    """

    dag_id: str
    run_id: str
    task_id: str
    subject: str
    body: str
    options: tuple[str, ...]
    assigned: frozenset[str] = frozenset()


class StageDags(Protocol):
    """Airflow, as far as a person's deed needs it."""

    def dag(self, dag_id: str) -> Mapping[str, Any] | None:
        """What is known of a DAG, such as "is_paused"; None where there is none that can be run.

        Raises:
            RolloutError: Airflow can't be asked.
        """

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, Any], note: str = "") -> bool:
        """Make a run; False when it is there already.

        Raises:
            RolloutError: There is no such DAG, it refuses the values, or Airflow can't be asked.
        """

    def questions(self, dag_id: str, run_id: str) -> Sequence[Question]:
        """What a run waits for a person with.

        Raises:
            RolloutError: Airflow can't be asked.
        """

    def answer(self, question: Question, option: str) -> None:
        """Answer a question.

        Raises:
            RolloutError: It was answered meanwhile, or Airflow can't be asked.
        """
