#!/bin/bash
# A role and a database for each part, none of which may enter another's. Runs once, when the volume is new.
set -euo pipefail

role() { # name, password
  : "${2:?the password of $1 is empty: run make secrets first}"
  # psql reads it from its environment: a command line can be seen by others.
  ROLE_PASSWORD=$2 psql -q -v ON_ERROR_STOP=1 -v role="$1" -U "$POSTGRES_USER" -d postgres <<'SQL'
\getenv password ROLE_PASSWORD
CREATE ROLE :"role" LOGIN PASSWORD :'password';
SQL
}

database() { # name, owner
  psql -q -v ON_ERROR_STOP=1 -v database="$1" -v owner="$2" -U "$POSTGRES_USER" -d postgres <<'SQL'
CREATE DATABASE :"database" OWNER :"owner";
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
SQL
}

role airflow "${AIRFLOW_DB_PASSWORD:-}"
role mlflow "${MLFLOW_DB_PASSWORD:-}"
role rollouts "${ROLLOUTS_DB_PASSWORD:-}"
database airflow airflow
database mlflow mlflow
database mlflow_auth mlflow
database rollouts rollouts
psql -q -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres -c 'REVOKE ALL ON DATABASE postgres FROM PUBLIC'
