"""Builds the service and its parts from the settings. The only place where adapters are chosen."""

from functools import cache, cached_property
from typing import TYPE_CHECKING

from model_rollouts.adapters.query_memory import limit_memory
from model_rollouts.ports import DataUndo, Gateways, GoldenRequests, MonitoringLog, Registry, StageRuns
from model_rollouts.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from model_rollouts.adapters.airflow_client import AirflowClient
    from model_rollouts.adapters.delta_drift import DeltaDriftLog
    from model_rollouts.adapters.delta_log import DeltaPredictionLog
    from model_rollouts.adapters.delta_report_log import DeltaReportLog
    from model_rollouts.adapters.environment import MlflowEnvironments
    from model_rollouts.adapters.log_places import LogRoot, QueryEngine
    from model_rollouts.adapters.log_upkeep import LogUpkeep
    from model_rollouts.adapters.mlflow_monitoring import MlflowMonitoringRuns
    from model_rollouts.adapters.mlflow_profiles import MlflowProfiles
    from model_rollouts.adapters.postgres_log import PostgresLog
    from model_rollouts.adapters.sql_store import SqlStore
    from model_rollouts.by_hand import ByHand
    from model_rollouts.data_rollbacks import DataRollbacks
    from model_rollouts.drills import Drills
    from model_rollouts.preflight import Preflight
    from model_rollouts.registry_watch import RegistryWatch
    from model_rollouts.service import RolloutService


class Wiring:
    """Adapters for one set of settings, each made when first asked for."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        limit_memory(self.settings.query_memory_mb)

    @cached_property
    def store(self) -> "SqlStore":
        """The rollout store, which also keeps the closed looks."""
        from model_rollouts.adapters.sql_store import SqlStore

        return SqlStore(self.settings.store_url)

    @cached_property
    def registry(self) -> Registry:
        """The MLflow registry."""
        from model_rollouts.adapters.mlflow_registry import MlflowRegistry

        return MlflowRegistry(self.settings.mlflow_tracking_uri, sync_stages=self.settings.sync_stages)

    @cached_property
    def log_store(self) -> "Path | PostgresLog":
        """Where the prediction log is: the database of `log_url`, or else the Delta tables in `log_dir`."""
        if not self.settings.log_url:
            return self.settings.log_dir
        from model_rollouts.adapters.postgres_log import PostgresLog

        return PostgresLog(self.settings.log_url)

    @cached_property
    def log_root(self) -> "LogRoot":
        """The prediction log, with the engine that it is asked by."""
        if self.settings.engine == "duckdb":
            return self.log_store
        from model_rollouts.adapters.log_places import EngineLog

        engine: QueryEngine
        if self.settings.engine == "postgresql":
            from model_rollouts.adapters.postgres_engine import PostgresEngine

            engine = PostgresEngine()
        else:
            from model_rollouts.adapters.spark_engine import SparkEngine

            engine = SparkEngine(self.settings.spark_master)
        return EngineLog(self.log_store, engine)

    @cached_property
    def log(self) -> "DeltaPredictionLog":
        """The prediction log, asked by the engine of the settings."""
        from model_rollouts.adapters.delta_log import DeltaPredictionLog
        from model_rollouts.adapters.unit_carry import UnitCarry

        where = self.settings.log_url or str(self.settings.log_dir.absolute())
        return DeltaPredictionLog(self.log_root, UnitCarry(self.settings.scratch_dir, where))

    @cached_property
    def log_upkeep(self) -> "LogUpkeep":
        """Merges, shortens and cleans the prediction log."""
        from model_rollouts.adapters.log_upkeep import LogUpkeep

        days, hours = self.settings.log_retention_days, self.settings.log_vacuum_hours
        return LogUpkeep(self.log_store, self.store, days, hours)

    @cached_property
    def gateway(self) -> Gateways:
        """Every serving process's own word on what it has loaded, routes by and runs on."""
        from model_rollouts.adapters.gateway_client import GatewayClient

        token = self.settings.gateway_token
        return GatewayClient(
            *self.settings.gateway_urls,
            token=token.get_secret_value() if token else None,
            ca_file=self.settings.gateway_ca_file,
        )

    @cached_property
    def stage_runs(self) -> StageRuns:
        """MLflow runs, one a stage."""
        from model_rollouts.adapters.mlflow_runs import MlflowStageRuns

        return MlflowStageRuns(self.settings.mlflow_tracking_uri)

    @cached_property
    def service(self) -> "RolloutService":
        """The use cases."""
        from model_rollouts.service import RolloutService  # with the statistics, which take a moment to import

        backlog = self.gateway.backlog  # asked for with the first look, not now
        return RolloutService(self.store, self.registry, evidence=self.store, log=self.log, backlog=backlog)

    @cached_property
    def by_hand(self) -> "ByHand":
        """What people do."""
        from model_rollouts.by_hand import ByHand

        return ByHand(self.service, self.airflow)

    @cached_property
    def golden(self) -> GoldenRequests:
        """Requests with known answers, from the log or a file."""
        from model_rollouts.adapters.golden import LoggedRequests

        return LoggedRequests(self.log_root, self.registry)

    @cached_property
    def data_undo(self) -> DataUndo:
        """Undoes data with a model."""
        from model_rollouts.adapters.data_undo import DataUndoer

        return DataUndoer(self.airflow, self.settings.undo_allowed)

    def airflow(self) -> "AirflowClient":
        """Airflow's REST API.

        Raises:
            AirflowError: Its address or credentials are not set.
        """
        from model_rollouts.adapters.airflow_client import AirflowClient

        token, password = self.settings.airflow_token, self.settings.airflow_password
        return AirflowClient(
            self.settings.airflow_url,
            token.get_secret_value() if token else None,
            self.settings.airflow_user,
            password.get_secret_value() if password else None,
        )

    @cached_property
    def environment(self) -> "MlflowEnvironments":
        """What versions have on record about their surroundings."""
        from model_rollouts.adapters.environment import MlflowEnvironments

        return MlflowEnvironments(self.settings.mlflow_tracking_uri)

    @cached_property
    def drills(self) -> "Drills":
        """Rollback drills."""
        from model_rollouts.drills import Drills

        return Drills(self.store, self.gateway)

    @cached_property
    def data_rollbacks(self) -> "DataRollbacks":
        """What is undone with a model."""
        from model_rollouts.data_rollbacks import DataRollbacks

        return DataRollbacks(self.service, self.data_undo)

    @cached_property
    def preflight(self) -> "Preflight":
        """What is looked at before traffic moves."""
        from model_rollouts.preflight import Preflight

        return Preflight(self.service, self.gateway, self.golden, self.monitoring_log)

    @cached_property
    def monitoring_log(self) -> MonitoringLog:
        """What the log tells of a version that serves."""
        from model_rollouts.adapters.delta_monitoring import DeltaMonitoringLog

        return DeltaMonitoringLog(self.log_root)

    @cached_property
    def monitoring_runs(self) -> "MlflowMonitoringRuns":
        """The trend of what serves, in MLflow."""
        from model_rollouts.adapters.mlflow_monitoring import MlflowMonitoringRuns

        return MlflowMonitoringRuns(self.settings.mlflow_tracking_uri)

    @cached_property
    def registry_watch(self) -> "RegistryWatch":
        """What changes in the registry start."""
        from model_rollouts.adapters.registry_snapshot import RestRegistry
        from model_rollouts.adapters.sql_registry_changes import SqlRegistryChanges
        from model_rollouts.registry_watch import RegistryWatch

        return RegistryWatch(
            RestRegistry(self.settings.mlflow_tracking_uri),
            SqlRegistryChanges(self.settings.store_url),
            self.store,
            models=[name.strip() for name in self.settings.watched_models.split(",") if name.strip()],
            default_pattern=self.settings.default_pattern,
        )

    @cached_property
    def drift_log(self) -> "DeltaDriftLog":
        """Columns of the log in counts."""
        from model_rollouts.adapters.delta_drift import DeltaDriftLog

        return DeltaDriftLog(self.log_root)

    @cached_property
    def profiles(self) -> "MlflowProfiles":
        """What versions' training data looked like."""
        from model_rollouts.adapters.mlflow_profiles import MlflowProfiles

        return MlflowProfiles(self.settings.mlflow_tracking_uri)

    @cached_property
    def report_log(self) -> "DeltaReportLog":
        """What the reports on pairs and units ask of the log."""
        from model_rollouts.adapters.delta_report_log import DeltaReportLog

        return DeltaReportLog(self.log_root)


@cache
def shared() -> Wiring:
    """One wiring a process, from the environment."""
    return Wiring()
