#!/bin/bash
# As the image that it stands in for: makes the cluster in an empty volume, runs the scripts of initdb.d, then serves. Only
# for a container that has a user of its own.
set -euo pipefail
[ "${1:-}" = postgres ] || exec "$@"
POSTGRES_USER=${POSTGRES_USER:-postgres}
export POSTGRES_USER
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  : "${POSTGRES_PASSWORD:?must be set for a new cluster}"
  chmod 700 "$PGDATA"
  initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --encoding=UTF8 --auth-local=trust \
    --auth-host=scram-sha-256 >/dev/null
  printf 'host all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
  pg_ctl -w -o "-c listen_addresses=''" start >/dev/null
  for script in /docker-entrypoint-initdb.d/*; do
    case $script in
    *.sh) if [ -x "$script" ]; then "$script"; else . "$script"; fi ;;
    *.sql) psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres -f "$script" ;;
    esac
  done
  pg_ctl -w -m fast stop >/dev/null
fi
exec "$@" -c "listen_addresses=*"
