package s3_test

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/tests/servers"
)

// Litestream v0.5.18 and we find each other's objects by the same URL, whatever
// its path looks like.
func TestReplicaClient_Upstream(t *testing.T) {
	t.Parallel()
	bin := servers.Upstream(t)
	srv := servers.Versitygw(t, false)
	srv.CreateBucket(bucket)
	path := filepath.Join(t.TempDir(), "db")
	db, err := sql.Open("sqlite3", path+"?_journal_mode=WAL")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE t (x)"); err != nil {
		t.Fatal(err)
	}

	env := []string{"AWS_ACCESS_KEY_ID=" + srv.AccessKey, "AWS_SECRET_ACCESS_KEY=" + srv.SecretKey}
	url := fmt.Sprintf("s3://%s/some//deep/../path/?endpoint=%s&region=%s", bucket, srv.Endpoint, srv.Region)
	upstream := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), bin, args...)
		cmd.Env = append(os.Environ(), env...)
		cmd.Env = append(cmd.Env, "AWS_CA_BUNDLE=")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("upstream %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	began := time.Now().Add(-time.Second)
	upstream("replicate", "-once", path, url)

	cfg, err := s3.Config{}.WithURL(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.AccessKeyID, cfg.SecretAccessKey = srv.AccessKey, srv.SecretKey
	c := newClient(t, cfg)
	infos := replicatest.List(t, c, 0, 0, true)
	if len(infos) == 0 {
		t.Fatal("nothing found of what upstream wrote")
	}
	last := infos[len(infos)-1]
	if last.CreatedAt.Before(began) || last.CreatedAt.After(time.Now().Add(time.Second)) {
		t.Errorf("upstream's file is of %v, want now", last.CreatedAt)
	}

	next := last.MaxTXID + 1
	replicatest.Write(t, c, 0, next, next, replicatest.File(t, next, next, 300, 0))
	out := upstream("ltx", url)
	for _, txid := range []ltx.TXID{last.MaxTXID, next} {
		if !strings.Contains(out, txid.String()) {
			t.Errorf("upstream lists no %s:\n%s", txid, out)
		}
	}
}
