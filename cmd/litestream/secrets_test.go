package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRedactURL(t *testing.T) {
	for in, want := range map[string]string{
		"s3://bkt/p":                             "s3://bkt/p",
		"s3://bkt.127.0.0.1:9000/a@b":            "s3://bkt.127.0.0.1:9000/a@b",
		"s3://arn:aws:s3:r:1:accesspoint/nm/a@b": "s3://arn:aws:s3:r:1:accesspoint/nm/a@b",
		"sftp://u@h/p":                           "sftp://u@h/p",
		"sftp://u:pw@h/p":                        "sftp://u:***@h/p",
		"sftp://u:p@w@h/p":                       "sftp://u:***@h/p",
		"sftp://u:p/w@h/p":                       "sftp://u:***@h/p",
		"sftp://u:p?w@h/p":                       "sftp://u:***@h/p",
		"sftp://u:p#w@h/p":                       "sftp://u:***@h/p",
		"sftp://u:123@h/p":                       "sftp://u:***@h/p",
		"u:pw@h:22":                              "u:***@h:22",
		"webdavs://u:pw@h/{{path}}":              "webdavs://u:***@h/{{path}}",
		"http://[::1]:80/a@b":                    "http://[::1]:80/a@b",
		"s3://b/p?endpoint=http://u:pw@h:1&region=r&sseCustomerKey=k&sse-customer-key=k": "s3://b/p?endpoint=http://u:***@h:1&region=r&sseCustomerKey=***&sse-customer-key=***",
		"s3://b/p?endpoint=http%3A%2F%2Fu%3Apw%40h&force-path-style=true":                "s3://b/p?endpoint=http://u:***@h&force-path-style=true",
		"s3://b/p?endpoint=%zz":    "s3://b/p?endpoint=***",
		"https://a.net/c?sv=1&sig": "https://a.net/c?sv=***&sig",
		"https://a.net/c?sig=abc":  "https://a.net/c?sig=***",
		"":                         "",
	} {
		if got := redactURL(in); got != want {
			t.Errorf("redactURL(%q)=%q, want %q", in, got, want)
		}
	}
}

// Every key whose name sounds like a secret is one, or is known to be none.
func TestSecretKeys(t *testing.T) {
	harmless := map[string]bool{
		"key-path": true, "host-key": true, "sse-customer-key-path": true, "sse-kms-key-id": true, "sse-customer-algorithm": true,
		"client-key": true, "creds": true, "nkey": false, "client-cert": true, // paths of files
	}
	name := regexp.MustCompile(`key|secret|password|token|seed|jwt|creds|passphrase`)
	address := regexp.MustCompile(`url|endpoint`)
	n := 0
	for _, typ := range []reflect.Type{reflect.TypeFor[ReplicaSettings](), reflect.TypeFor[ReplicaConfig](), reflect.TypeFor[Config](), reflect.TypeFor[MultiDBConfig](), reflect.TypeFor[DBConfig]()} {
		for f := range typ.Fields() {
			key := f.Tag.Get("yaml")
			if f.Type.Kind() != reflect.String || key == "" || strings.Contains(key, ",") {
				continue
			}
			isSecret := f.Type == reflect.TypeFor[secret]()
			if isSecret {
				n++
			}
			if name.MatchString(key) && !harmless[key] && !isSecret {
				t.Errorf("key %s is shown: make it a secret, or name it as harmless here", key)
			}
			if address.MatchString(key) && secretURLs[key] == nil {
				t.Errorf("key %s is shown with passwords in it: put it into secretURLs", key)
			}
		}
	}
	if n < 6 {
		t.Errorf("found %d secret keys, want 6 or more", n)
	}
}

// mark begins every secret of the tests below.
const mark = "mArKeR"

// leaked returns where a secret stands in a text.
func leaked(text string) string {
	i := strings.Index(text, mark)
	for _, key := range []string{markedKey, markedAccountKey} {
		if i < 0 {
			i = strings.Index(text, key)
		}
	}
	if i < 0 {
		return ""
	}
	return "…" + text[max(0, i-200):min(len(text), i+60)] + "…"
}

// Secrets that must be the base64 of something.
var (
	markedKey        = base64.StdEncoding.EncodeToString([]byte(mark + "0123456789012345678901234567"[:26]))
	markedAccountKey = base64.StdEncoding.EncodeToString([]byte(mark + "account"))
)

// secretsConfig returns a configuration with a secret in every key that may
// hold one, whose replicas all lie at an address.
func secretsConfig(dir, addr, logType string) string {
	r := strings.NewReplacer("DIR", dir, "ADDR", addr, "MARK", mark, "SSEKEY", markedKey, "ACCOUNTKEY", markedAccountKey, "LOGTYPE", logType)
	return r.Replace(`addr: 127.0.0.1:0
logging: {level: debug, type: LOGTYPE}
heartbeat-url: http://hb:MARKhbuser@ADDR/MARKhbpath?token=MARKhbquery
shutdown-sync-timeout: 100ms
dbs:
  - path: DIR/s3.db
    replica:
      type: s3
      bucket: bkt
      path: s3
      endpoint: http://u:MARKendpoint@ADDR
      access-key-id: MARKid
      secret-access-key: MARKsecret
      sse-customer-algorithm: AES256
      sse-customer-key: SSEKEY
  - path: DIR/s3url.db
    replica:
      url: s3://bkt/s3url?endpoint=http://u:MARKurlendpoint@ADDR&sseCustomerKey=MARKparam&x=MARKx
      access-key-id: MARKid2
      secret-access-key: MARKsecret2
  - path: DIR/abs.db
    replica: {type: abs, account-name: acct, account-key: ACCOUNTKEY, bucket: cont, path: abs, endpoint: "http://ADDR/acct"}
  - path: DIR/sas.db
    replica: {type: abs, account-name: acct, sas-token: "sv=2020&sig=MARKsas", bucket: cont, path: sas, endpoint: "http://ADDR/acct"}
  - path: DIR/sftp.db
    replica: {type: sftp, host: "ADDR", user: u, password: MARKsftp, host-key: any, path: /sftp}
  - path: DIR/sftpurl.db
    replica: {url: "sftp://u:MARKsftpurl@ADDR/sftpurl", host-key: any}
  - path: DIR/webdav.db
    replica: {type: webdav, webdav-url: "http://u:MARKdavurl@ADDR", path: /webdav}
  - path: DIR/webdav2.db
    replica: {type: webdav, webdav-url: "http://ADDR", webdav-username: u, webdav-password: MARKdav, path: /webdav2}
  - path: DIR/webdavurl.db
    replica: {url: "webdav://u:MARKdavurl2@ADDR/webdavurl"}
  - path: DIR/sftpkey.db
    replica: {type: sftp, host: "ADDR", user: u, key-path: DIR/key, host-key: any, path: /sftpkey}
  - path: DIR/nats.db
    replica: {url: "nats://ADDR/b1", username: u, password: MARKnats, timeout: 300ms}
  - path: DIR/natsjwt.db
    replica: {url: "nats://ADDR/b4", jwt: MARKnatsjwt, seed: MARKnatsseed, timeout: 300ms}
  - path: DIR/natsnkey.db
    replica: {url: "nats://ADDR/b5", nkey: MARKnatsnkey, timeout: 300ms}
  - path: DIR/natscreds.db
    replica: {url: "nats://ADDR/b6", creds: DIR/key, timeout: 300ms}
  - path: DIR/oss.db
    replica: {type: oss, bucket: bkt, path: oss, endpoint: "http://ADDR", access-key-id: MARKossid, secret-access-key: MARKosssecret}
  - path: DIR/ossenv.db
    replica: {type: oss, bucket: bkt, path: ossenv, endpoint: "http://ADDR"}
multi-db:
  enabled: true
  patterns: ["DIR/data/*.db"]
  state-dir: DIR/state
  replica-template:
    url: s3://bkt/fleet/{{tenant}}?endpoint=http://u:MARKfleet@ADDR
    access-key-id: MARKid3
    secret-access-key: MARKsecret3
`)
}

// secretURLsOf returns replica URLs with secrets, rightly and wrongly written.
func secretURLsOf(addr string) []string {
	r := strings.NewReplacer("ADDR", addr, "MARK", mark)
	var urls []string
	for _, u := range []string{
		"s3://bkt/p?endpoint=http://u:MARK@ADDR&sse-customer-key=MARK",
		"sftp://u:MARK@ADDR/p", "sftp://u:MARK/x@ADDR/p", "sftp://u:x/MARK@ADDR/p", "sftp://u:%MARK@ADDR/p", "sftp://u:MARK%zz@ADDR/p",
		"sftp://u:MARK?x@ADDR/p", "sftp://:MARK@ADDR/p",
		"webdav://u:MARK@ADDR/p", "webdav://u:MARK/x@ADDR/p", "abs://acct:MARK@cont/p?endpoint=http://ADDR/acct", "abs://acct@cont/p?sig=MARK&endpoint=http://ADDR/acct", "abs://acct@cont/p?endpoint=http://u:MARK@ADDR",
		"gs://u:MARK@bkt/p", "bogus://u:MARK@ADDR/p", "nats://u:MARK@ADDR/b", "oss://u:MARK@b/p", "https://u:MARK@ADDR/p",
	} {
		urls = append(urls, r.Replace(u))
	}
	return urls
}

// refuse answers every request like a server that refuses the credentials, and
// repeats what was asked.
func refuse(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("X-Ms-Error-Code", "AuthenticationFailed")
	w.WriteHeader(http.StatusForbidden)
	fmt.Fprintf(w, "<Error><Code>AccessDenied</Code><Message>you are not allowed to %s %s</Message></Error>", r.Method, r.URL.Path)
}

// Nothing that a person or a machine reads of the program holds a secret:
// neither log nor output of any command, control socket or metrics, whether
// the storage refuses the credentials or is away.
func TestSecrets_NeverShown(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(refuse))
	t.Cleanup(srv.Close)
	for name, tt := range map[string]struct {
		addr, logType string
		long          bool // nothing ends before all attempts are made
	}{
		"Refused": {strings.TrimPrefix(srv.URL, "http://"), "text", false},
		"Away":    {"127.0.0.1:1", "json", true},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.long && testing.Short() {
				t.Skip("waits for attempts to end")
			}
			dir := testFolder(t)
			for _, env := range []string{
				"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN",
			} {
				t.Setenv(env, mark+env)
			}
			t.Setenv("LITESTREAM_AZURE_ACCOUNT_KEY", markedAccountKey)
			t.Setenv("STORAGE_EMULATOR_HOST", "http://"+tt.addr) // in place of Google
			writeFile(t, "key", "-----BEGIN OPENSSH PRIVATE KEY-----\n"+mark+"\n-----END OPENSSH PRIVATE KEY-----\n")
			config := secretsConfig(dir, tt.addr, tt.logType)
			dbs := regexp.MustCompile(`path: (\S+\.db)\n`).FindAllStringSubmatch(config, -1)
			for _, m := range append(dbs, []string{"", dir + "/data/t1.db"}) {
				makeDatabase(t, m[1], 1)
			}
			writeFile(t, "cli.yml", config)
			d := startControlDaemon(t, config)
			var lines [][]string
			try := func(args ...string) { lines = append(lines, args) }
			for _, m := range dbs {
				try("sync", "-wait", "-timeout", "1", "-socket", d.socket, m[1])
				try("ltx", "-config", "cli.yml", m[1])
				if tt.long {
					continue
				}
				try("restore", "-config", "cli.yml", "-o", dir+"/out.db", m[1])
				try("doctor", "-quick", "-config", "cli.yml", m[1])
				try("status", "-config", "cli.yml", m[1])
			}
			if !tt.long {
				lines = append(lines, secretURLCommands(t, d, dir, tt.addr)...)
			}
			for _, args := range []string{
				"databases", "databases -json", "databases -check", "databases -print-config", "status", "status -json",
				"replicate -once", "doctor -quick", "doctor -quick -json",
			} {
				try(append(strings.Fields(args), "-config", "cli.yml")...)
			}
			for _, args := range []string{"info", "info -json", "list", "list -json", "reload", "reload -dry-run -json", "sync -all -timeout 1"} {
				try(append(strings.Fields(args), "-socket", d.socket)...)
			}
			var out lockedBuffer
			runAll(t, lines, &out)
			fmt.Fprint(&out, metricsText(t, d))
			d.stop()
			fmt.Fprint(&out, d.log.String())
			if text := leaked(out.String()); text != "" {
				t.Errorf("a secret is shown: %s", text)
			}
			if n := len(out.String()); n < 20000 {
				t.Errorf("collected %d bytes only", n)
			}
			if dump := os.Getenv("LITESTREAM_TEST_DUMP"); dump != "" {
				writeFile(t, dump+name, out.String())
			}
		})
	}
}

// secretURLCommands returns command lines with secrets in URLs, in arguments and
// in configurations.
func secretURLCommands(t *testing.T, d *controlDaemon, dir, addr string) (lines [][]string) {
	t.Helper()
	for i, u := range secretURLsOf(addr) {
		lines = append(
			lines, []string{"ltx", u}, []string{"restore", "-o", dir + "/out.db", u}, []string{"doctor", u},
			[]string{"replicate", "-once", dir + "/s3.db", u}, []string{"register", "-socket", d.socket, "-replica", u, dir + "/s3.db"},
		)
		for j, entry := range []string{
			"url: '%s'", "url: '%s', path: x", "path: '%s'", "type: sftp, user: u, path: x, host: '%s'",
			"type: s3, bucket: b, endpoint: '%s'", "type: webdav, path: x, webdav-url: '%s'", "url: '%s', bucket: b", "url: '%s', host: b", "url: '%s', webdav-url: 'x'",
		} {
			file := fmt.Sprintf("bad%d-%d.yml", i, j)
			writeFile(t, file, "dbs: [{path: x.db, replica: {"+fmt.Sprintf(entry, u)+"}}]\nheartbeat-url: '"+u+"'\n")
			lines = append(lines, []string{"databases", "-config", file, "-check"}, []string{"databases", "-config", file, "-print-config"})
		}
	}
	// Of types that refuse such values at once, or are not served yet.
	for i, entry := range []string{
		"url: 'nats://ADDR/b', jwt: MARKjwt, seed: MARKseed", "url: 'nats://ADDR/b', token: MARKtoken",
		"url: 'nats://ADDR/b', username: u, password: MARKpassword", "url: 'nats://ADDR/b', nkey: MARKnkey",
		"type: oss, bucket: bkt, path: p, endpoint: 'http://u:MARKoss@ADDR', access-key-id: MARKid, secret-access-key: MARKsecret",
		"type: s3, bucket: bkt, path: p, endpoint: 'http://ADDR', sse-customer-key: MARKnobase64",
		"type: abs, account-name: acct, account-key: MARK-nobase64, bucket: c, path: p, endpoint: 'http://ADDR/acct'",
		"type: abs, account-name: acct, sas-token: '?sig=%MARK', bucket: c, path: p, endpoint: 'http://ADDR/acct?sig=MARK'",
		"url: ['MARK'], password: {MARK: x}", "type: s3, access-key-id: {a: MARK}",
	} {
		file := fmt.Sprintf("type%d.yml", i)
		writeFile(t, file, strings.NewReplacer("ADDR", addr, "MARK", mark).Replace("dbs: [{path: x.db, replica: {"+entry+"}}]\n"))
		for _, name := range []string{"databases", "databases -check", "databases -print-config", "ltx", "doctor -quick", "replicate -once"} {
			args := append(strings.Fields(name), "-config", file)
			if name == "ltx" {
				args = append(args, "x.db")
			}
			lines = append(lines, args)
		}
	}
	return lines
}

// runAll runs command lines, some at a time, and writes what they say to out.
func runAll(t *testing.T, lines [][]string, out io.Writer) {
	t.Helper()
	next := make(chan []string)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for args := range next {
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				var said bytes.Buffer
				a := &app{stdout: &said, stderr: &said, signals: noSignals, newRunner: newStore}
				a.main(ctx, args)
				cancel()
				if text := leaked(said.String()); text != "" {
					t.Errorf("litestream %s shows a secret: %s", strings.ReplaceAll(strings.Join(args, " "), mark, "MARK"), text)
				}
				_, _ = out.Write(said.Bytes())
			}
		})
	}
	for _, args := range lines {
		next <- args
	}
	close(next)
	wg.Wait()
}

// metricsText returns what the daemon's metrics and profiles show.
func metricsText(t *testing.T, d *controlDaemon) string {
	t.Helper()
	m := regexp.MustCompile(`http://127\.0\.0\.1:\d+/metrics`).FindString(d.log.String())
	var all strings.Builder
	for _, path := range []string{"/metrics", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=1"} {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get(strings.TrimSuffix(m, "/metrics") + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		all.Write(body)
	}
	return all.String()
}
