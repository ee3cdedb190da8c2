#!/usr/bin/env bash
# Usage: try.sh COMMAND...
# Lets a build of litestream, started by COMMAND, replicate a database and
# restore it, and compares the two.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

if ! command -v sqlite3 >/dev/null; then
  echo "only the version was asked for, sqlite3 is not installed"
  exec "$@" version
fi
sqlite3 "$dir/a.db" 'PRAGMA journal_mode=wal; CREATE TABLE t (x); INSERT INTO t VALUES (1), (2), (3)' >/dev/null
"$@" replicate -once "$dir/a.db" "file://$dir/replica" >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
"$@" restore -integrity-check full -o "$dir/b.db" "file://$dir/replica" >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
want=$(sqlite3 "$dir/a.db" .dump)
got=$(sqlite3 "$dir/b.db" .dump)
[ "$want" = "$got" ] || { echo "the restored database differs: $got" >&2; exit 1; }
