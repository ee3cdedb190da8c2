package compare_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// session is a list of steps in one folder. A step is a command line, with
// variables in front if it needs some, or begins with an @ (world.step).
type session struct {
	name  string // empty for one that is a single command line
	steps []string
}

// stepName returns the name of a step in reports and in the golden file.
func (s session) stepName(i int) string {
	if len(s.steps) == 1 {
		return s.name
	}
	return fmt.Sprintf("%s %d: %s", s.name, i+1, s.steps[i])
}

// sessions returns everything that is run.
func sessions() (all []session) {
	add := func(text string) {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" {
				all = append(all, session{name: line, steps: []string{line}})
			}
		}
	}
	all = append(all, session{name: "(no words)", steps: []string{""}})
	add(calls)
	for _, name := range commands {
		for _, args := range []string{"-h", "--help", "a -h", "-bogus"} {
			add(name + " " + args)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(badConfigurations)) {
		add("databases -config " + name + ".yml\nreplicate -once -config " + name + ".yml")
	}
	return append(all, daemonSessions...)
}

// commands are the words that upstream knows.
var commands = strings.Fields("databases info list ltx register replicate reset restore start status stop sync unregister version wal")

// calls are single command lines, each in a fresh folder.
const calls = `
help
help restore
-h
-help
--help
-x
-version
--version
bogus
bogus -h
mcp
validate
snapshots
generations
''

version
version -verbose=false
version x

databases
databases x
databases -config litestream.yml x
databases -config
databases -config litestream.yml
databases -config litestream.yml -json
databases --config=litestream.yml --json=false
databases -json=maybe -config litestream.yml
databases -config missing.yml
databases -config folder.db
databases -config empty.yml
databases -config empty.yml -json
databases -config unknown.yml
databases -config env.yml
NAME=app databases -config env.yml
NAME=app databases -no-expand-env -config env.yml
LITESTREAM_CONFIG=litestream.yml databases
LITESTREAM_CONFIG=litestream.yml databases -config empty.yml
databases -config dir.yml
databases -config dir.yml -json
databases -config logtype.yml
databases -config stderr.yml
databases -config s3.yml -json
databases -config other.yml

status
status -config litestream.yml
status -config litestream.yml -json
status -config litestream.yml $D/app.db
status -config litestream.yml -json $D/app.db
status -config litestream.yml app.db
status -config litestream.yml nothing.db
status -config litestream.yml -json nothing.db
status -config litestream.yml a b
status -config empty.yml
status -config empty.yml -json
status -config missing.yml
status -config dir.yml

ltx
ltx a b
ltx app.db
ltx -config litestream.yml app.db
ltx -config litestream.yml $D/app.db
ltx -config litestream.yml -json app.db
ltx -config litestream.yml nothing.db
ltx -config litestream.yml -level 9 app.db
ltx -config litestream.yml -level all app.db
ltx -config litestream.yml -level all -json app.db
ltx -config litestream.yml zero.db
ltx -config litestream.yml zero.db -json
ltx -config litestream.yml file://$D/backup
ltx file://$D/backup
ltx -json file://$D/backup
ltx -level 9 -json file://$D/backup
ltx -level 1 file://$D/backup
ltx -level 1 -json file://$D/backup
ltx -level all file://$D/gap
ltx -level -1 file://$D/backup
ltx -level 10 file://$D/backup
ltx -level x file://$D/backup
ltx -level '' file://$D/backup
ltx file://$D/empty
ltx file://$D/nothing
ltx -json file://$D/nothing
ltx file://
ltx s3://
ltx s3:///x
ltx s3://b/p?concurrency=x
ltx s3://b/p?partSize=-1
ltx bogus://x
ltx ://x
ltx sftp://h/p
ltx gs://
wal file://$D/backup
wal

reset
reset a b
reset nothing.db
reset -dry-run nothing.db
reset app.db
reset -dry-run app.db
reset $D/app.db
reset -config litestream.yml app.db
reset -config missing.yml app.db
reset text.db
reset live.db
reset -dry-run live.db
reset folder.db
reset app.db -dry-run
reset sqlite://$D/app.db

restore
restore a b
restore app.db
restore -config litestream.yml
restore -config litestream.yml app.db
restore -config litestream.yml -o out app.db
restore -config litestream.yml -o out -json app.db
restore -config litestream.yml -o out nothing.db
restore -config litestream.yml missing.yml
restore -config missing.yml -o out app.db
restore -config litestream.yml -o out zero.db
restore -config litestream.yml zero.db
restore -config litestream.yml hole.db
restore -config litestream.yml -o out file://$D/backup
restore -config stderr.yml -o out app.db
restore -config dir.yml -o out watched/w.db
restore file://$D/backup
restore -o out file://$D/backup
restore -o out -json file://$D/backup
restore -o sub/folder/out file://$D/backup
restore -o out -txid 0000000000000001 file://$D/backup
restore -o out -txid 0000000000000002 file://$D/backup
restore -o out -txid 0000000000000003 -json file://$D/backup
restore -o out -txid 0000000000000004 file://$D/backup
restore -o out -txid 0000000000000000 file://$D/backup
restore -o out -txid 1 file://$D/backup
restore -o out -txid 000000000000000g file://$D/backup
restore -o out -txid '' file://$D/backup
restore -o out -timestamp 2020-01-02T03:04:02Z file://$D/backup
restore -o out -timestamp 2020-01-02T03:04:03Z file://$D/backup
restore -o out -timestamp 2020-01-02T03:04:03.5Z file://$D/backup
restore -o out -timestamp 2020-01-02T05:04:03.5+02:00 -json file://$D/backup
restore -o out -timestamp 2019-01-01T00:00:00Z file://$D/backup
restore -o out -timestamp 2100-01-01T00:00:00Z file://$D/backup
restore -o out -timestamp 2020-01-02 file://$D/backup
restore -o out -timestamp yesterday file://$D/backup
restore -o out -timestamp '' file://$D/backup
restore -o out -timestamp 2019-01-01T00:00:00Z -config litestream.yml app.db
restore -o out -txid 0000000000000001 -timestamp 2020-01-02T03:04:03Z file://$D/backup
restore -o out -parallelism 4 file://$D/backup
restore -o out -parallelism 0 file://$D/backup
restore -o out -parallelism x file://$D/backup
restore -o out -integrity-check quick file://$D/backup
restore -o out -integrity-check full -json file://$D/backup
restore -o out -integrity-check some file://$D/backup
restore -o old file://$D/backup
restore -o old -force file://$D/backup
restore -o old -force -json file://$D/backup
restore -o old -if-db-not-exists file://$D/backup
restore -o old -if-db-not-exists -json file://$D/backup
restore -o old -if-db-not-exists -force file://$D/backup
restore -o old -if-db-not-exists file://$D/nothing
restore -o out -if-db-not-exists file://$D/backup
restore -o zero.db file://$D/backup
restore -o side file://$D/backup
restore -o side -force file://$D/backup
restore -o folder.db file://$D/backup
restore -o folder.db -force file://$D/backup
restore -o plain/out file://$D/backup
restore -o out file://$D/nothing
restore -o out file://$D/empty
restore -o out -if-replica-exists file://$D/empty
restore -o out -if-replica-exists -json file://$D/empty
restore -o out -if-replica-exists file://$D/backup
restore -o out -if-replica-exists -txid 0000000000000009 file://$D/backup
restore -o out -if-replica-exists -timestamp 2020-01-02T03:04:03Z file://$D/empty
restore -o out -if-replica-exists -if-db-not-exists file://$D/empty
restore -o out file://$D/gap
restore -o out -if-replica-exists file://$D/gap
restore -o out -txid 0000000000000001 file://$D/gap
restore -o out file://$D/damaged
restore -o out -dry-run file://$D/backup
restore -o out -dry-run -json file://$D/backup
restore -o out -dry-run -txid 0000000000000001 file://$D/backup
restore -o out -dry-run -txid 0000000000000009 file://$D/backup
restore -o out -dry-run -json -timestamp 2020-01-02T03:04:02.5Z file://$D/backup
restore -o out -dry-run file://$D/empty
restore -o out -dry-run -if-replica-exists file://$D/empty
restore -o old -dry-run file://$D/backup
restore -o old -dry-run -if-db-not-exists file://$D/backup
restore -dry-run -config litestream.yml app.db
restore -dry-run -json -config litestream.yml app.db
restore -dry-run file://$D/backup
restore -o out -dry-run -f file://$D/backup
restore -o out -f -txid 0000000000000001 file://$D/backup
restore -o out -f -timestamp 2020-01-02T03:04:03Z file://$D/backup
restore -o old -f file://$D/backup
restore -o out -follow-interval x file://$D/backup
restore -o out -follow-interval 2s file://$D/backup
restore -o out bogus://x
restore -o out s3://
restore -o out file://
restore -o out file://$D/backup?x=y
restore -o out file://$D/backup -json
restore file://$D/backup -o out

replicate
replicate live.db
replicate live.db file://$D/r extra
replicate live.db file://$D/r -once
replicate live.db
replicate -config missing.yml
replicate -config live.yml live.db file://$D/r
replicate -once -config live.yml live.db
replicate -once live.db file://$D/r
replicate -once live.db r
replicate -once live.db bogus://x
replicate -once live.db s3://
replicate -once file://$D/r live.db
replicate -once missing.db file://$D/r
replicate -once text.db file://$D/r
replicate -once -config folder.yml
replicate -once -config live.yml
replicate -once -config text.yml
replicate -once -config empty.yml
replicate -once -config exec.yml
replicate -once -config logtype.yml
replicate -once -config dir.yml
replicate -once -config tree.yml
replicate -once -exec true live.db file://$D/r
replicate -once -log-level bogus live.db file://$D/r
replicate -once -log-level error live.db file://$D/r
LOG_LEVEL=error replicate -once live.db file://$D/r
replicate -force-snapshot live.db file://$D/r
replicate -enforce-retention live.db file://$D/r
replicate -once -force-snapshot live.db file://$D/r
replicate -once -force-snapshot -enforce-retention live.db file://$D/r
replicate -once=x live.db file://$D/r
replicate -restore-if-db-not-exists -once back.db file://$D/backup
replicate -once -restore-if-db-not-exists -config live.yml
replicate -exec 'sh -c "exit 0"' live.db file://$D/r
replicate -exec 'sh -c "exit 3"' live.db file://$D/r
replicate -exec 'echo from the child' live.db file://$D/r
replicate -exec 'sh -c "kill -9 $$"' live.db file://$D/r
replicate -exec ./nothing live.db file://$D/r
replicate -exec '' -once live.db file://$D/r
replicate -exec ' ' live.db file://$D/r
replicate -exec 'sh -c "' live.db file://$D/r
replicate -config exec.yml

replicate -once -config pretty.yml
replicate -once -config socket-permission.yml
info
info x
info -timeout 0
info -timeout -1
info -timeout x
info -socket nothing
info -socket plain
info -socket folder.db
info -json -socket nothing
list
list x
list -timeout 0
list -socket nothing
list -json -socket plain
sync
sync a b
sync -timeout 0 a
sync -wait -socket nothing live.db
sync live.db -wait
start
start a b
start -timeout 0 -socket nothing a
start -socket nothing a
stop
stop a b
stop -timeout -1 -socket nothing a
stop -socket nothing a
register
register a
register a b
register -replica '' a
register -replica file://$D/r
register -replica file://$D/r a b
register -replica file://$D/r -timeout 0 a
register -replica file://$D/r -socket nothing a
register -replica nonsense -socket nothing a
unregister
unregister a b
unregister -timeout 0 a
unregister -socket nothing a
unregister -dry-run -socket nothing a
unregister -dry-run -json -socket nothing a
unregister -dry-run -timeout 0 a
`

var daemonSessions = []session{
	{"no databases", []string{"@start replicate -config empty.yml", "@said level=ERROR", "@stop"}},
	{"two words", []string{"@start replicate live.db file://$D/r", "@wait r/ltx/9/0000000000000001-0000000000000001.ltx", "@stop"}},
	{"ask", daemonSteps(`
		info -socket s
		info -json -socket s
		info -socket s -timeout 1
		info -socket s x
		list -socket s
		list -json -socket s
		list -socket s x
		list -socket sqlite://s
		@http GET /info
		@http POST /info
		@http GET /list
		@http POST /list
		@http GET /nothing
		@http GET /
		@http GET /txid
		@http GET /txid?path=$D/live.db
		@http GET /txid?path=live.db
		@http GET /txid?path=$D/nothing.db
		@http POST /txid?path=$D/live.db
		@http GET /debug/sync-status?path=$D/nothing.db
		@http POST /debug/sync-status
		@http GET /debug/pprof/cmdline?x
		@http GET /metrics
	`)},
	{"no databases, ask", []string{
		"@start replicate -config none.yml", "@wait s",
		"info -socket s -json", "list -socket s", "list -socket s -json", "@http GET /debug/sync-status", "@stop",
	}},
	{"sync", daemonSteps(`
		sync -socket s live.db
		sync -socket s -json live.db
		sync -socket s -wait live.db
		@write live.db
		sync -socket s -wait live.db
		sync -socket s -wait -json $D/live.db
		sync -socket s -json sqlite://$D/live.db
		sync -socket s nothing.db
		sync -socket s -wait -json nothing.db
		sync -socket s missing.db
		sync -socket s -wait -timeout 1 missing.db
		@http POST /sync '{"path":"live.db"}'
		@http POST /sync '{"path":"live.db","wait":true}'
		@http POST /sync '{"path":"live.db","wait":true,"timeout":5}'
		@http POST /sync '{"path":""}'
		@http POST /sync '{}'
		@http POST /sync 'no json'
		@http POST /sync
		@http POST /sync '{"path":5}'
		@http POST /sync '{"path":"$D/nothing.db"}'
		@http GET /sync
		ltx file://$D/live.replica -level 5
	`)},
	{"stop and start", daemonSteps(`
		start -socket s live.db
		stop -socket s live.db
		stop -socket s -json live.db
		list -socket s
		list -socket s -json
		sync -socket s live.db
		sync -socket s -wait live.db
		@http GET /txid?path=$D/live.db
		stop -socket s nothing.db
		start -socket s nothing.db
		start -socket s -json live.db
		sync -socket s live.db
		start -socket s live.db
		start -socket s -timeout 0 live.db
		sync -socket s live.db
		stop -socket s -timeout 0 live.db
		start -socket s -timeout -1 live.db
		stop -socket s missing.db
		@http POST /stop '{"path":"$D/live.db"}'
		@http POST /stop '{"path":"$D/live.db","timeout":1}'
		@http POST /start '{"path":"$D/live.db"}'
		sync -socket s live.db
		@http POST /start '{"path":"$D/live.db"}'
		@http POST /start '{"path":""}'
		@http POST /stop '{}'
		@http POST /start 'no json'
		@http POST /stop '{"path":"$D/nothing.db"}'
		@http POST /start '{"path":"$D/nothing.db"}'
		@http GET /start
		@http DELETE /stop
	`)},
	{"register", daemonSteps(`
		register -socket s -replica file://$D/second.replica second.db
		@synced second.db
		register -socket s -replica file://$D/second.replica second.db
		register -socket s -json -replica file://$D/second.replica second.db
		register -socket s -replica file://$D/other.replica $D/live.db
		register -socket s -json -replica file://$D/late.replica late.db
		register -socket s -replica nonsense new.db
		register -socket s -replica bogus://x new.db
		register -socket s -replica s3:// new.db
		list -socket s
		unregister -socket s -dry-run second.db
		unregister -socket s -dry-run -json second.db
		unregister -socket s second.db
		unregister -socket s second.db
		unregister -socket s -json second.db
		unregister -socket s -json late.db
		unregister -socket s nothing.db
		unregister -socket s -json live.db
		list -socket s -json
		@http POST /register '{"path":"$D/second.db"}'
		@http POST /register '{"replica_url":"file:///x"}'
		@http POST /register '{}'
		@http POST /register 'no json'
		@http POST /register '{"path":"$D/second.db","replica_url":"file://$D/again.replica"}'
		@http POST /register '{"path":"$D/second.db","replica_url":"file://$D/again.replica"}'
		@wait again.replica/ltx/0/0000000000000001-0000000000000001.ltx
		@http POST /unregister '{"path":"$D/second.db"}'
		@http POST /unregister '{"path":"$D/second.db"}'
		@http POST /unregister '{"path":""}'
		@http POST /unregister 'no json'
		@http GET /register
		@http PUT /unregister
	`)},
	{"a folder", daemonSteps(`
		register -socket s -replica file://$D/folder.replica folder.db
	`)},
	{"no socket", []string{"@start replicate -config socket-permission.yml", "@said 'control server'", "info -socket plain", "@stop"}},
	{"follow", []string{
		"@start restore -f -o out file://$D/backup", "@wait out-txid", "@wait out", "@said level=INFO", "@stop",
		"@start restore -f -follow-interval 50ms -o out file://$D/backup", "@said level=INFO", "@stop",
		"restore -o out file://$D/backup",
		"@remove out-txid",
		"restore -f -o out file://$D/backup",
	}},
	{"watch", []string{
		"@start replicate -config watch.yml", "@wait s",
		"@synced watched/w.db", "@synced watched/sub/x.db",
		"list -socket s",
		"@create watched/new.db",
		"@synced watched/new.db",
		"@create watched/sub/newer.db",
		"@synced watched/sub/newer.db",
		"sync -socket s -wait watched/new.db",
		"stop -socket s watched/new.db",
		"start -socket s watched/new.db",
		"sync -socket s -wait watched/new.db", // or v0.5 opens it behind the removal, and makes it again
		"@remove watched/new.db",
		"@listed !/new.db",
		"sync -socket s -wait watched/new.db",
		"register -socket s -replica file://$D/other.replica watched/other",
		"@synced watched/other",
		"list -socket s -json",
		"@stop",
	}},
	{"one destination twice", daemonSteps(`
		register -socket s -replica file://$D/live.replica second.db
		list -socket s
	`)},
}

// daemonSteps returns steps that talk to a daemon whose database live.db is in
// its replica.
func daemonSteps(text string) []string {
	steps := []string{"@start replicate -config socket.yml", "@wait s", "@synced live.db"}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			steps = append(steps, line)
		}
	}
	return append(steps, "@stop")
}
