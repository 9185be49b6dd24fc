"""Which MLflow flavours may be loaded: by what a model says of itself, before anything of it is run."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from model_rollouts.core.errors import RolloutError

PYTHON = "python_function"  # the model's own code
#: What MLflow loads by code of its own, as far as the name of its loader says.
OF_MLFLOW = (
    "catboost",
    "h2o",
    "keras",
    "lightgbm",
    "onnx",
    "paddle",
    "pmdarima",
    "prophet",
    "pytorch",
    "sklearn",
    "spacy",
    "spark",
    "statsmodels",
    "tensorflow",
    "xgboost",
)

_LOADER = re.compile(r"mlflow\.([a-z0-9_]+)")
_WRITTEN = re.compile(r"[a-z0-9_]+(:[a-z0-9_]+)?")
_CODE_KEYS = ("code", "model_code_path")
_FORMAT = "serialization_format"
_BY_FORMAT = ("lightgbm", "sklearn")  # whose loaders go by it; pytorch's goes by what is there
_DATA = "data"
_SHOWN = 80


class FlavourError(RolloutError):
    """A version is of a flavour that may not be loaded."""


def check_names(names: Iterable[str]) -> None:
    """Refuse what names no flavour.

    Args:
        names: `flavour`, or `flavour:format`.

    Raises:
        ValueError: One of them is none, or there is none.
    """
    found = tuple(names)
    if not found:
        raise ValueError("flavours is empty, must name at least one; nothing could be loaded")
    for name in found:
        if not _WRITTEN.fullmatch(name):
            raise ValueError(f"flavours has {name[:_SHOWN]!r}, must be names such as sklearn, or sklearn:skops")


def needed(flavors: Mapping[str, Any], files: Collection[str]) -> frozenset[str]:
    """What has to be allowed before a model is loaded: its flavour, with its format where it has one.

    A model that brings code of its own, or names a loader that is none of MLflow's plain ones, is `python_function`,
    whatever else it says it is. So is one that says a format and keeps its data anywhere but beside its MLmodel file:
    a loader takes the format from the MLmodel file beside the data, and where there is none, a pickle for granted.

    Args:
        flavors: As its MLmodel file has them.
        files: Names of the plain files beside that file.

    Raises:
        FlavourError: It can't be loaded as a Python function.
    """
    pyfunc = flavors.get(PYTHON)
    if not isinstance(pyfunc, Mapping) or not isinstance(pyfunc.get("loader_module"), str):
        raise FlavourError("its MLmodel file has no flavor python_function with a loader_module; log the model again")
    found = set()
    loader = _LOADER.fullmatch(pyfunc["loader_module"])
    name = loader[1] if loader is not None and loader[1] in OF_MLFLOW else PYTHON
    about = flavors.get(name)
    kind = about.get(_FORMAT) if name in _BY_FORMAT and isinstance(about, Mapping) else None
    if isinstance(kind, str) and _DATA in pyfunc and pyfunc[_DATA] not in files:
        found.add(PYTHON)
    else:
        found.add(f"{name}:{kind}" if isinstance(kind, str) else name)
    if any(isinstance(each, Mapping) and each.get(key) for each in flavors.values() for key in _CODE_KEYS):
        found.add(PYTHON)
    return frozenset(found)


def check(flavors: Mapping[str, Any], files: Collection[str], allowed: Iterable[str], what: str) -> None:
    """Refuse a model of a flavour that is not allowed.

    Args:
        flavors: As its MLmodel file has them.
        files: Names of the plain files beside that file.
        allowed: `flavour` for all of its formats, or `flavour:format`.
        what: The model, for the message.

    Raises:
        FlavourError: It is refused; says what would have to be allowed.
    """
    names = frozenset(allowed)
    wanted = needed(flavors, files)
    missing = sorted(each for each in wanted if each not in names and each.partition(":")[0] not in names)
    if missing:
        raise FlavourError(
            f"{what} is {' and '.join(each[:_SHOWN] for each in missing)}, and MODEL_ROLLOUTS_FLAVOURS has "
            f"{', '.join(sorted(names))}; log it in one of those, or add it"
        )
