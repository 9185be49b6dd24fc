"""One file a pattern: parameters to plan."""
