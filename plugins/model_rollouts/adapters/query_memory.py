"""How much memory one query of this process may take. What does not fit waits in files, as far as DuckDB can."""

DEFAULT_MB = 1_500
SETTING = "MODEL_ROLLOUTS_QUERY_MEMORY_MB"

_limit = {"mb": DEFAULT_MB}


def limit_memory(megabytes: int) -> None:
    """Set it, for all queries of the process that begin from now on."""
    if megabytes < 1:
        raise ValueError(f"query memory is {megabytes} MB, must be at least 1")
    _limit["mb"] = megabytes


def memory_limit() -> str:
    """As DuckDB takes it."""
    return f"{_limit['mb']}MB"


def explained(error: Exception) -> str:
    """An error of DuckDB, with what to do where memory was too little."""
    import duckdb

    if not isinstance(error, duckdb.OutOfMemoryException):
        return str(error)
    return f"it does not fit into {_limit['mb']:,} MB; give it more by {SETTING}, or ask for less time ({error})"
