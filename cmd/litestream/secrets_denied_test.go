package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/benbjohnson/litestream/tests/servers"
)

// Real servers that refuse wrong credentials get nothing into the log, or into
// what commands say, but what is wrong and with which database.
func TestSecrets_Denied(t *testing.T) {
	dir := testFolder(t)
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, "seed", string(seed))
	sshd, nats, oss := servers.SSHD(t), servers.NATS(t, `authorization { user: "owner", password: "right" }`), servers.OSS(t)
	config := strings.NewReplacer(
		"DIR", dir, "MARK", mark, "SSHD", sshd.Addr, "SSHUSER", sshd.User, "NATS", nats.Addr, "OSSID", oss.AccessKeyID, "OSS", oss.Endpoint, "SEED", string(seed),
	).Replace(`logging: {level: debug}
shutdown-sync-timeout: 100ms
dbs:
  - path: DIR/sftp.db
    replica: {type: sftp, host: "SSHD", user: SSHUSER, password: MARKsftp, host-key: any, path: /sftp}
  - path: DIR/sftpurl.db
    replica: {url: "sftp://SSHUSER:MARKsftpurl@SSHD/sftpurl", host-key: any}
  - path: DIR/nats.db
    replica: {url: "nats://NATS/b1", username: owner, password: MARKnats}
  - path: DIR/natsurl.db
    replica: {url: "nats://owner:MARKnatsurl@NATS/b2"}
  - path: DIR/natstoken.db
    replica: {url: "nats://NATS/b3", token: MARKnatstoken}
  - path: DIR/natsnkey.db
    replica: {url: "nats://NATS/b4", nkey: SEED}
  - path: DIR/natsfile.db
    replica: {url: "nats://NATS/b5", nkey: DIR/seed}
  - path: DIR/oss.db
    replica: {type: oss, bucket: bkt, path: p, endpoint: "OSS", access-key-id: OSSID, secret-access-key: MARKoss}
  - path: DIR/ossid.db
    replica: {type: oss, bucket: bkt, path: q, endpoint: "OSS", access-key-id: MARKossid, secret-access-key: MARKoss}
`)
	dbs := regexp.MustCompile(`path: (\S+\.db)\n`).FindAllStringSubmatch(config, -1)
	for _, m := range dbs {
		makeDatabase(t, m[1], 1)
	}
	writeFile(t, "cli.yml", config)
	d := startControlDaemon(t, config)
	var lines [][]string
	for _, m := range dbs {
		lines = append(
			lines, []string{"sync", "-wait", "-timeout", "2", "-socket", d.socket, m[1]},
			[]string{"ltx", "-config", "cli.yml", m[1]}, []string{"doctor", "-quick", "-config", "cli.yml", m[1]},
		)
	}
	lines = append(lines, []string{"info", "-socket", d.socket}, []string{"databases", "-config", "cli.yml", "-print-config"})
	var out lockedBuffer
	runAll(t, lines, &out)
	for _, m := range dbs {
		awaitLog(t, &d.log, fmt.Sprintf("path=%s", m[1]))
	}
	d.stop()
	text := out.String() + d.log.String()
	if leak := leaked(strings.ReplaceAll(text, string(seed), mark)); leak != "" {
		t.Errorf("a secret is shown: %s", leak)
	}
	if n := strings.Count(text, "  failed   connect "); n != len(dbs) {
		t.Errorf("doctor says of %d of %d databases that it cannot connect:\n%s", n, len(dbs), text)
	}
}
