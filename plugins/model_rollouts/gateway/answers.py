"""From a model's output to one answer a row. Offline scoring, which is no part of the gateway, reads it alike."""

from model_rollouts.adapters.answers import Answer, Failure, OutputError, body, canonical, failure, split

__all__ = ["Answer", "Failure", "OutputError", "body", "canonical", "failure", "split"]
