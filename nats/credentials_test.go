package nats_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/nats"
	"github.com/benbjohnson/litestream/tests/servers"
)

// keyPair returns a key pair with its public key and its seed.
func keyPair(tb testing.TB, make func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public, seed string) {
	tb.Helper()
	pair, err := make()
	if err != nil {
		tb.Fatal(err)
	}
	s, err := pair.Seed()
	if err != nil {
		tb.Fatal(err)
	}
	if public, err = pair.PublicKey(); err != nil {
		tb.Fatal(err)
	}
	return pair, public, string(s)
}

// token returns a JWT as NATS has it (ADR-14), of version 2.
func token(tb testing.TB, issuer nkeys.KeyPair, subject, kind string, more map[string]any) string {
	tb.Helper()
	public, err := issuer.PublicKey()
	if err != nil {
		tb.Fatal(err)
	}
	claims := map[string]any{"type": kind, "version": 2}
	maps.Copy(claims, more)
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			tb.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	text := part(map[string]string{"typ": "JWT", "alg": "ed25519-nkey"}) + "." + part(map[string]any{
		"jti": subject, "iat": time.Now().Unix(), "iss": public, "name": kind, "sub": subject, "nats": claims,
	})
	sig, err := issuer.Sign([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// works holds that a client can write, list and read.
func works(t *testing.T, name string, c *nats.ReplicaClient) {
	t.Helper()
	data := replicatest.File(t, 1, 1, 500, 0)
	if _, err := c.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(data)); err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if a := replicatest.List(t, c, 0, 0, false); len(a) != 1 {
		t.Errorf("%s: listed %+v", name, a)
	}
	if got, err := replicatest.Read(t, c, 0, 1, 1, 0, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%s: read %d bytes, err=%v", name, len(got), err)
	}
}

// refused holds that a client gets a permanent error that shows no secret.
func refused(t *testing.T, name string, c *nats.ReplicaClient, want string) {
	t.Helper()
	_, err := c.LTXFiles(t.Context(), 0, 0, false)
	if !litestream.IsPermanent(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: err=%v, want a permanent one with %q", name, err, want)
		return
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%s: secret in %v", name, err)
	}
}

func writeFile(tb testing.TB, text string) string {
	tb.Helper()
	name := filepath.Join(tb.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return name
}

// TestCredentials logs in in every way.
func TestCredentials(t *testing.T) {
	t.Parallel()
	_, public, seed := keyPair(t, nkeys.CreateUser)
	srv := servers.NATS(t, fmt.Sprintf("authorization { users = [ {user: bob, password: hunter2}, {nkey: %s} ] }", public))
	srv.CreateBucket(jetstream.ObjectStoreConfig{Bucket: bucket}, natsgo.UserInfo("bob", "hunter2"))
	base := nats.Config{Server: srv.Addr, Bucket: bucket}
	for name, set := range map[string]func(*nats.Config){
		"password":        func(c *nats.Config) { c.Username, c.Password = "bob", "hunter2" },
		"nkey is a seed":  func(c *nats.Config) { c.NKey = seed },
		"nkey is a file":  func(c *nats.Config) { c.NKey = writeFile(t, "# of bob\n"+seed+"\n") },
		"nkey is public":  func(c *nats.Config) { c.NKey, c.Seed = public, seed },
		"nkey goes first": func(c *nats.Config) { c.NKey, c.Username, c.Password = seed, "bob", "wrong" },
	} {
		cfg := base
		set(&cfg)
		works(t, name, newClient(t, cfg))
	}
	for name, set := range map[string]func(*nats.Config){
		"none":           func(*nats.Config) {},
		"wrong password": func(c *nats.Config) { c.Username, c.Password = "bob", "hunter22" },
		"wrong token":    func(c *nats.Config) { c.Token = "hunter2" },
		"wrong nkey":     func(c *nats.Config) { _, _, c.NKey = keyPair(t, nkeys.CreateUser) },
		"broken nkey":    func(c *nats.Config) { c.NKey = "SUhunter2" },
		"no file":        func(c *nats.Config) { c.Creds = filepath.Join(t.TempDir(), "creds") },
	} {
		cfg := base
		set(&cfg)
		refused(t, name, newClient(t, cfg), "check creds, jwt and seed")
	}

	srv = servers.NATS(t, "authorization { token: hunter2 }")
	srv.CreateBucket(jetstream.ObjectStoreConfig{Bucket: bucket}, natsgo.Token("hunter2"))
	cfg, err := nats.Config{}.WithURL("nats://hunter2@" + srv.Addr + "/" + bucket)
	if err != nil {
		t.Fatal(err)
	}
	works(t, "token in the URL", newClient(t, cfg))
}

// TestJWT logs in to a server whose accounts are JWTs.
func TestJWT(t *testing.T) {
	t.Parallel()
	operator, operatorKey, _ := keyPair(t, nkeys.CreateOperator)
	account, accountKey, _ := keyPair(t, nkeys.CreateAccount)
	_, systemKey, _ := keyPair(t, nkeys.CreateAccount)
	_, userKey, userSeed := keyPair(t, nkeys.CreateUser)
	limits := map[string]any{
		"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
		"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
	}
	system := map[string]any{"limits": map[string]any{"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1}}
	srv := servers.NATS(t, fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: {\n%s: %s\n%s: %s\n}",
		token(t, operator, operatorKey, "operator", map[string]any{"system_account": systemKey}), systemKey,
		accountKey, token(t, operator, accountKey, "account", map[string]any{"limits": limits}),
		systemKey, token(t, operator, systemKey, "account", system)))
	jwt := token(t, account, userKey, "user", map[string]any{"subs": -1, "data": -1, "payload": -1})
	srv.CreateBucket(jetstream.ObjectStoreConfig{Bucket: bucket}, natsgo.UserJWTAndSeed(jwt, userSeed))
	creds := writeFile(t, "-----BEGIN NATS USER JWT-----\n"+jwt+"\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n"+userSeed+"\n------END USER NKEY SEED------\n")
	base := nats.Config{Server: srv.Addr, Bucket: bucket}
	for name, set := range map[string]func(*nats.Config){
		"jwt":              func(c *nats.Config) { c.JWT, c.Seed = jwt, userSeed },
		"creds":            func(c *nats.Config) { c.Creds = creds },
		"jwt before creds": func(c *nats.Config) { c.JWT, c.Seed, c.Creds = jwt, userSeed, "/none" },
	} {
		cfg := base
		set(&cfg)
		works(t, name, newClient(t, cfg))
	}
	stranger, _, _ := keyPair(t, nkeys.CreateAccount)
	base.JWT, base.Seed = token(t, stranger, userKey, "user", nil), userSeed
	refused(t, "of another account", newClient(t, base), "check creds, jwt and seed")
}

// TestTLS connects to servers that want TLS, and a client's certificate.
func TestTLS(t *testing.T) {
	t.Parallel()
	cert, key := servers.Certificate(t)
	other, otherKey := servers.Certificate(t)
	srv := servers.NATS(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }", cert, key, other))
	srv.CreateBucket(jetstream.ObjectStoreConfig{Bucket: bucket}, natsgo.RootCAs(cert), natsgo.ClientCert(other, otherKey))
	good := nats.Config{Server: srv.Addr, Bucket: bucket, TLS: true, RootCAs: []string{cert}, ClientCert: other, ClientKey: otherKey}
	works(t, "certificate", newClient(t, good))

	bad := good
	bad.RootCAs = nil
	refused(t, "unknown authority", newClient(t, bad), "certificate authority")
	bad = good
	bad.RootCAs = []string{filepath.Join(t.TempDir(), "missing.pem")}
	refused(t, "no file", newClient(t, bad), "missing.pem")
	bad = good
	bad.ClientCert, bad.ClientKey = "", ""
	_, err := newClient(t, bad).LTXFiles(t.Context(), 0, 0, false)
	if err == nil {
		t.Error("without a certificate: no error")
	}

	plain := start(t)
	refused(t, "no TLS", newClient(t, nats.Config{Server: plain.Addr, Bucket: bucket, TLS: true}), "the server has no TLS")
}

// TestDenied holds that a user who may not do something is told at once, and
// what is needed is as documented.
func TestDenied(t *testing.T) {
	t.Parallel()
	const allowed = `"$O.litestream.>", "$JS.API.STREAM.INFO.OBJ_litestream", "$JS.API.STREAM.MSG.GET.OBJ_litestream"`
	srv := servers.NATS(t, `authorization { users = [
		{user: admin, password: x}
		{user: all, password: x, permissions: {publish: [`+allowed+`, "$JS.API.STREAM.PURGE.OBJ_litestream", "$JS.API.DIRECT.GET.OBJ_litestream"], subscribe: "_INBOX.>"}}
		{user: keep, password: x, permissions: {publish: [`+allowed+`], subscribe: "_INBOX.>"}}
		{user: read, password: x, permissions: {publish: ["$JS.API.STREAM.INFO.OBJ_litestream", "$JS.API.STREAM.MSG.GET.OBJ_litestream"], subscribe: "_INBOX.>"}}
		{user: deaf, password: x, permissions: {publish: ">", subscribe: {deny: ">"}}}
	] }`)
	srv.CreateBucket(jetstream.ObjectStoreConfig{Bucket: bucket}, natsgo.UserInfo("admin", "x"))
	client := func(user string) *nats.ReplicaClient {
		return newClient(t, nats.Config{Server: srv.Addr, Bucket: bucket, Username: user, Password: "x"})
	}
	all := client("all")
	works(t, "all", all)
	if err := all.DeleteAll(t.Context()); err != nil {
		t.Error(err)
	}
	keep := client("keep")
	works(t, "keep", keep)
	check := func(name string, err error) {
		t.Helper()
		if !litestream.IsPermanent(err) || !strings.Contains(err.Error(), "allow this user to publish") {
			t.Errorf("%s: err=%v", name, err)
		}
	}
	check("delete", keep.DeleteAll(t.Context()))
	read := client("read")
	for _, n := range []int{500, 1 << 20} {
		_, err := read.WriteLTXFile(t.Context(), 0, 2, 2, bytes.NewReader(replicatest.File(t, 2, 2, n, 0)))
		check("write", err)
	}
	if got, err := replicatest.Read(t, read, 0, 1, 1, 0, 0); err != nil || len(got) != 500 {
		t.Errorf("read: %d bytes, err=%v", len(got), err)
	}
	_, err := client("deaf").LTXFiles(t.Context(), 0, 0, false)
	check("no inbox", err)
}
