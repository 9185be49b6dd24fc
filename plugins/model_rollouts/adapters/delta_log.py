"""The prediction log on Delta Lake."""

from model_rollouts.adapters.delta_schema import LogContractError, feature_column, table_path
from model_rollouts.adapters.delta_writer import DeltaLogWriter

__all__ = ["DeltaLogWriter", "LogContractError", "feature_column", "table_path"]
