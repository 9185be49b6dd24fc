"""Airflow triggers: small, typed, nothing blocking on the event loop."""
