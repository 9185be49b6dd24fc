"""What a model says of itself decides what has to be allowed; what it leaves out is never taken for harmless."""

from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_rollouts.core.flavours import OF_MLFLOW, PYTHON, FlavourError, check, check_names, needed
from model_rollouts.settings import Settings


def flavors(loader: Any = "mlflow.sklearn", code: Any = None, **others: Any) -> dict[str, Any]:
    return {PYTHON: {"loader_module": loader, "code": code}, **others}


SKOPS = {"serialization_format": "skops"}
PICKLE = {"serialization_format": "cloudpickle"}


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (flavors(sklearn=SKOPS), {"sklearn:skops"}),
        (flavors(sklearn=PICKLE), {"sklearn:cloudpickle"}),
        (flavors(), {"sklearn"}),
        (flavors("mlflow.xgboost", xgboost={"model_format": "ubj"}, sklearn=SKOPS), {"xgboost"}),
        (flavors("mlflow.pytorch", pytorch={"serialization_format": "pt2"}), {"pytorch"}),  # nobody goes by it there
        (flavors("mlflow.pyfunc.model"), {PYTHON}),
        (flavors("mlflow.pyfunc"), {PYTHON}),
        (flavors("mlflow.projects"), {PYTHON}),
        (flavors("mlflow.langchain", langchain={}), {PYTHON}),
        (flavors("my_loader", sklearn=SKOPS), {PYTHON}),
        (flavors("mlflow.sklearn.evil"), {PYTHON}),
        (flavors("mlflow.sklearn\n"), {PYTHON}),
        (flavors("os"), {PYTHON}),
        (flavors(code="code", sklearn=SKOPS), {"sklearn:skops", PYTHON}),
        (flavors("mlflow.keras", keras={"model_code_path": "model.py"}), {"keras", PYTHON}),
    ],
)
def test_a_loader_of_its_own_or_code_beside_it_is_the_models_own_code(said: dict[str, Any], wanted: set[str]) -> None:
    assert needed(said, ()) == wanted


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("model.skops", "sklearn:skops"),
        ("sub/model.pkl", PYTHON),  # where no MLmodel file is beside it, a pickle is loaded
        ("sub", PYTHON),  # a folder may have an MLmodel file of its own
        ("../model.skops", PYTHON),
        ("/tmp/model.skops", PYTHON),  # noqa: S108  # nothing is there
        ("./model.skops", PYTHON),
        ("", PYTHON),
        (".", PYTHON),
        (None, PYTHON),
        (["model.skops"], PYTHON),
    ],
)
def test_a_format_counts_for_data_beside_the_file_that_says_it(data: Any, wanted: str) -> None:
    said = flavors(sklearn=SKOPS)
    said[PYTHON]["data"] = data
    assert needed(said, ["MLmodel", "model.skops"]) == {wanted}
    with pytest.raises(FlavourError) if wanted == PYTHON else nullcontext():
        check(said, ["MLmodel", "model.skops"], ["sklearn:skops"], "it")


@pytest.mark.parametrize("said", [{}, {"sklearn": SKOPS}, {PYTHON: {}}, {PYTHON: "mlflow.sklearn"}, flavors(7)])
def test_what_does_not_say_how_it_is_loaded_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(FlavourError, match="no flavor python_function with a loader_module"):
        check(said, (), (*OF_MLFLOW, PYTHON), "it")


def test_a_flavour_stands_for_its_formats_and_a_format_for_itself() -> None:
    check(flavors(sklearn=SKOPS), (), ["sklearn"], "it")
    check(flavors(sklearn=SKOPS), (), ["sklearn:skops"], "it")
    refused = [
        (flavors(sklearn=PICKLE), ["sklearn:skops"]),
        (flavors(), ["sklearn:skops"]),
        (flavors(sklearn=SKOPS), ["xgboost", PYTHON]),
        (flavors(code="code", sklearn=SKOPS), ["sklearn"]),
        (flavors("my_loader"), list(OF_MLFLOW)),
    ]
    for said, allowed in refused:
        with pytest.raises(FlavourError, match="MODEL_ROLLOUTS_FLAVOURS has"):
            check(said, (), allowed, "it")
    with pytest.raises(FlavourError) as caught:
        check(flavors(code="code", sklearn=PICKLE), (), ["sklearn:skops", "onnx"], "version 3 of m")
    assert str(caught.value) == (
        "version 3 of m is python_function and sklearn:cloudpickle, and MODEL_ROLLOUTS_FLAVOURS has onnx, "
        "sklearn:skops; log it in one of those, or add it"
    )


@given(loader=st.text(), names=st.lists(st.sampled_from(OF_MLFLOW), min_size=1))
def test_no_loader_but_mlflows_own_passes_where_own_code_is_not_allowed(loader: str, names: list[str]) -> None:
    said = flavors(loader)
    if loader in {f"mlflow.{name}" for name in names}:
        check(said, (), names, "it")
    else:
        with pytest.raises(FlavourError):
            check(said, (), names, "it")


@pytest.mark.parametrize("names", [[], [""], ["*"], ["sklearn:"], [":skops"], ["a:b:c"], ["SKLEARN"], ["scikit-learn"]])
def test_settings_that_name_nothing_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="flavours"):
        check_names(names)
    with pytest.raises(ValueError, match="flavours"):
        Settings(flavours=tuple(names))


def test_by_default_everything_that_mlflow_loads_is_allowed() -> None:
    assert set(Settings().flavours) == {*OF_MLFLOW, PYTHON}
