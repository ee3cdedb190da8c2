package interop_test

import (
	"fmt"
	"os"
	"testing"
)

// TestGoOnAfterRestore replaces the database by what one program restored, the
// newest position or an older one, lets the application write, and has either
// program go on on the same replica.
func TestGoOnAfterRestore(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.loose = true
	s.create(4096, "wal")
	s.exec(workload[1].query)
	s.theirsOnce()
	s.remember()
	for i := range 16 {
		older, forget, restoreOurs, runOurs := i&1 != 0, i&2 != 0, i&4 != 0, i&8 != 0
		name := fmt.Sprintf("older=%t forget=%t restored by ours=%t continued by ours=%t", older, forget, restoreOurs, runOurs)
		s.exec("UPDATE t SET v = randomblob(400) WHERE id = ?", i+1)
		run := func() {
			if runOurs {
				s.oursRun().stop()
			} else {
				s.theirsOnce()
			}
			s.remember()
		}
		run()
		tg := target{txid: s.newest()}
		if older {
			tg.txid--
		}
		s.closeApp()
		s.replace(tg, restoreOurs)
		if forget {
			if err := os.RemoveAll(s.dir + "/.app.db-litestream"); err != nil {
				t.Fatal(err)
			}
		}
		s.exec("PRAGMA journal_mode=wal")
		s.exec("INSERT INTO t (v) VALUES (randomblob(200))")
		before := s.newest()
		run()
		if s.newest() == before {
			t.Fatalf("%s: no new position behind %s", name, before)
		}
		s.check(target{}, s.images[s.newest()])
		hdr, pages := s.header(before + 1)
		t.Logf("%s: %s holds %d of %d pages", name, before+1, pages, hdr.Commit)
	}
	s.wantContiguous()
	t.Logf("%d targets restored", s.checkTXIDs())
}

// replace puts a restored database in the place of the live one.
func (s *scene) replace(tg target, ours bool) {
	s.t.Helper()
	restore := s.theirs
	if ours {
		restore = s.ours
	}
	image, err := restore(tg)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(s.path + suffix); err != nil && !os.IsNotExist(err) {
			s.t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.path, image, 0o644); err != nil {
		s.t.Fatal(err)
	}
}
