"""What Airflow's API server serves for us. It does so without asking who calls, so every part guards itself."""
