"""Airflow operators: thin shells over the service."""
