"""What the log may know of callers: which inputs are kept, and whether units go by their names.

Routing never sees any of this: a unit is dealt by its own name, and only the log gets the hash.
"""

import hashlib
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from model_rollouts.gateway.settings import GatewaySettings

_HASH_BYTES = 16
_MOST_KEY_BYTES = 64  # of BLAKE2b
_PERSON = b"rollouts unit id"  # other hashes with the same key are other hashes


class Privacy:
    """Decides once for each model and set of inputs; after that it costs a look-up a row.

    Args:
        log_features: Whether inputs are kept at all.
        excepted: Inputs that are not: names or patterns ("*email*") of columns, or of "model/column". Case does not
            matter.
        unit_key: Key of the units' hash; None: units are logged as they are.
        unit_columns: Input column that names the unit, by model; it is not kept where units are hashed.
    """

    def __init__(
        self,
        *,
        log_features: bool = True,
        excepted: Collection[str] = (),
        unit_key: bytes | None = None,
        unit_columns: Mapping[str, str] | None = None,
    ) -> None:
        self._log_features = log_features
        self._excepted = frozenset(pattern.casefold() for pattern in excepted)
        self._named = frozenset(
            f"{model}/{column}".casefold() for model, column in (unit_columns or {}).items() if unit_key is not None
        )
        self._key = unit_key
        if unit_key is not None and len(unit_key) > _MOST_KEY_BYTES:
            self._key = hashlib.blake2b(unit_key).digest()
        self._everything = log_features and not self._excepted and not self._named
        self._kept = lru_cache(maxsize=1024)(self._decide)

    @classmethod
    def of(cls, settings: "GatewaySettings") -> Self:
        """As the settings have it."""
        key = settings.unit_hash_key
        return cls(
            log_features=settings.log_features,
            excepted=settings.log_features_except,
            unit_key=key.get_secret_value().encode() if settings.hash_units and key is not None else None,
            unit_columns=settings.unit_columns,
        )

    def unit(self, unit: str | None) -> str | None:
        """The unit as the log has it: as it is, or 32 hexadecimal digits that only the key's owner can link to it."""
        if self._key is None or unit is None:
            return unit
        # A unit may be any text that JSON can say, so also half of a surrogate pair.
        text = unit.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=_HASH_BYTES, key=self._key, person=_PERSON).hexdigest()

    def kept(self, model: str, names: tuple[str, ...]) -> frozenset[str] | None:
        """Which of a model's inputs are kept; None: all of them."""
        return None if self._everything else self._kept(model, names)

    def features(self, model: str, features: Mapping[str, Any]) -> Mapping[str, Any]:
        """The inputs of one row as the log has them."""
        kept = None if self._everything else self._kept(model, tuple(features))
        return features if kept is None else {name: value for name, value in features.items() if name in kept}

    def _decide(self, model: str, names: tuple[str, ...]) -> frozenset[str] | None:
        kept = frozenset(name for name in names if self._log_features and not self._is_excepted(model, name))
        return None if len(kept) == len(frozenset(names)) else kept

    def _is_excepted(self, model: str, name: str) -> bool:
        """By pattern or as it is spelled: a name with brackets is a pattern that does not match itself."""
        spelled = (name.casefold(), f"{model}/{name}".casefold())
        return any(
            text in self._excepted or text in self._named or any(fnmatchcase(text, p) for p in self._excepted)
            for text in spelled
        )


EVERYTHING = Privacy()
