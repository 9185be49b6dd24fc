"""The serving process: routes, mirrors and logs. Never imports airflow."""
