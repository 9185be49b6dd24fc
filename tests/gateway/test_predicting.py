"""Which models are called with arrays, and that their answers are the same as through MLflow."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model_rollouts.gateway.answers import Answer, split
from model_rollouts.gateway.loading import reader_of
from model_rollouts.gateway.payload import Table
from model_rollouts.gateway.predicting import Predictor, predictor
from model_rollouts.gateway.reading import SignatureReader
from model_rollouts.gateway.scorer import MicroBatcher

N = 6
RNG = np.random.default_rng(5)
X = pd.DataFrame(RNG.normal(size=(300, N)), columns=[f"x{i}" for i in range(N)])
Y = (X.to_numpy() @ np.arange(N) > 0).astype(int)


def saved(folder: Path, model: Any, frame: pd.DataFrame = X, **more: Any) -> Any:
    """A model after a trip through MLflow's format."""
    import mlflow
    from mlflow.models import infer_signature

    options = {"signature": infer_signature(frame, model.predict(frame)), "input_example": frame.head(3)} | more
    mlflow.sklearn.save_model(model, folder, serialization_format="cloudpickle", pip_requirements=[], **options)
    return mlflow.pyfunc.load_model(str(folder))


def called(pyfunc: Any) -> tuple[Predictor, SignatureReader, bool]:
    """How it is called, and whether that is with arrays."""
    reader = reader_of(pyfunc.metadata)
    assert isinstance(reader, SignatureReader)
    found = predictor(pyfunc, reader)
    return found, reader, found.predict.__name__ == "as_array"


def table(reader: SignatureReader, frame: pd.DataFrame) -> Table:
    return Table(reader.signature.columns, frame.to_numpy().tolist())


def estimators() -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    return {
        "logistic": make_pipeline(StandardScaler(), LogisticRegression()),
        "linear": LinearRegression(),
        "forest": RandomForestClassifier(20, random_state=0),
        "boosting": HistGradientBoostingClassifier(max_iter=20, random_state=0),
        "imputed": make_pipeline(SimpleImputer(), SVC()),
    }


@pytest.mark.parametrize("name", ["logistic", "linear", "forest", "boosting", "imputed"])
def test_array_models_answer_as_through_mlflow_alone_and_in_batches(tmp_path: Path, name: str) -> None:
    pyfunc = saved(tmp_path / "model", estimators()[name].fit(X, Y))
    found, reader, on_arrays = called(pyfunc)
    assert on_arrays
    expected = split(pyfunc.predict(X), len(X))

    async def run() -> list[Any]:
        scorer = MicroBatcher(found.predict, "m", 64, 10_000, inline_rows=found.inline_rows)
        asked = [scorer.score(table(reader, X.iloc[i : i + 1]), {}, 30) for i in range(len(X))]
        return [result for results in await asyncio.gather(*asked) for result in results]

    batched = asyncio.run(run())
    alone = [split(found.predict(table(reader, X.iloc[i : i + 1]), {}), 1)[0] for i in range(0, len(X), 7)]
    same_answers(batched, expected)
    same_answers(alone, expected[::7])


def same_answers(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Answer)
        assert isinstance(other, Answer)
        if other.score is None:
            assert one == other
        else:
            assert one.score == pytest.approx(other.score, rel=1e-9)


def test_probabilities_are_asked_for_where_mlflow_would(tmp_path: Path) -> None:
    fitted = estimators()["logistic"].fit(X, Y)
    pyfunc = saved(tmp_path / "model", fitted, pyfunc_predict_fn="predict_proba")
    found, reader, on_arrays = called(pyfunc)
    assert on_arrays
    np.testing.assert_allclose(found.predict(table(reader, X), {}), pyfunc.predict(X), rtol=1e-9)


def test_missing_values_are_the_models_business_both_ways(tmp_path: Path) -> None:
    with_gaps = X.mask(RNG.random(X.shape) < 0.2)
    pyfunc = saved(tmp_path / "model", estimators()["imputed"].fit(with_gaps, Y), frame=with_gaps)
    found, reader, on_arrays = called(pyfunc)
    assert on_arrays
    assert found.predict(table(reader, with_gaps), {}).tolist() == pyfunc.predict(with_gaps).tolist()


def by_name() -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(ColumnTransformer([("s", StandardScaler(), ["x3", "x1"])]), LogisticRegression())


def own_code() -> Any:
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Own(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
        def fit(self, x: Any, y: Any) -> Any:
            self.classes_ = np.unique(y)
            return self

        def predict(self, x: Any) -> Any:
            return (np.asarray(x)[:, 0] > 0).astype(int)

    return Own()


def nested() -> Any:
    from sklearn.ensemble import VotingClassifier
    from sklearn.linear_model import LogisticRegression

    return VotingClassifier([("a", LogisticRegression()), ("b", by_name())])


@pytest.mark.parametrize("make", [by_name, own_code, nested])
def test_a_model_that_may_look_at_names_is_called_through_mlflow(tmp_path: Path, make: Any) -> None:
    assert not called(saved(tmp_path / "model", make().fit(X, Y)))[2]


def test_columns_in_another_order_than_the_models_go_through_mlflow(tmp_path: Path) -> None:
    from mlflow.models import infer_signature

    fitted = estimators()["logistic"].fit(X, Y)
    turned = X[list(reversed(X.columns))]
    pyfunc = saved(tmp_path / "model", fitted, signature=infer_signature(turned, Y), input_example=None)
    assert not called(pyfunc)[2]


def test_other_columns_than_floats_go_through_mlflow(tmp_path: Path) -> None:
    whole = X.round().astype("int64")
    fitted = estimators()["forest"].fit(whole, Y)
    assert not called(saved(tmp_path / "model", fitted, frame=whole))[2]


def test_a_model_that_answers_differently_is_called_through_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.linear_model import LogisticRegression

    pyfunc = saved(tmp_path / "model", LogisticRegression().fit(X, Y))
    predict = type(pyfunc.get_raw_model()).predict
    monkeypatch.setattr(
        LogisticRegression, "predict", lambda self, x: predict(self, x) + (0 if isinstance(x, pd.DataFrame) else 1)
    )
    assert not called(pyfunc)[2]


def test_only_what_is_quick_is_called_on_the_event_loop(tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier

    quick = called(saved(tmp_path / "quick", estimators()["linear"].fit(X, Y)))[0]
    slow = called(saved(tmp_path / "slow", RandomForestClassifier(300, random_state=0).fit(X, Y)))[0]
    assert quick.inline_rows > 0
    assert slow.inline_rows == 0
