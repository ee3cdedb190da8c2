package litestream_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/benbjohnson/litestream"
)

func TestTenantMap_Invertible(t *testing.T) {
	const deep = "/data/*/databases/*/branches/*/tenants/*.db"
	for _, tt := range []struct{ template, pattern, want string }{
		{"{{project}}/{{database}}/{{branch}}/{{tenant}}", deep, ""},
		{"{{project}}/{{branch}}/{{tenant}}", deep, "{{database}}"},
		{"b/{{path}}", deep, ""},
		{"{{hostname}}/{{relpath}}", deep, ""},
		{"{{hostname}}/{{tenant}}", "/data/*.db", ""},
		{"{{tenant}}", "/data/*", "the extension of the file's name"},
		{"{{1}}", "/data/*", ""},
		{"{{name}}", "/data/*.db", ""},
		{"{{name}}", "/data/*.tar.db", "{{tenant}}"},
		{"{{name}}", "/data/*", "{{tenant}}"},
		{"{{1}}-{{2}}", "/data/*/*.db", "what tells one variable from the next"},
		{"{{1}}/x-{{2}}-y", "/data/*/*.db", ""},
		{"{{1}}/{{2}}", "/data/**/*.db", ""},
		{"{{1}}/{{2}}/{{3}}", "/data/**/x/**/*.db", "what tells one variable from the next"},
		{"{{2}}", "/data/*/x*/*.db", "{{project}}"},
	} {
		err := tenantMap(t, tt.template, tt.pattern).Invertible()
		if tt.want == "" && err != nil {
			t.Errorf("%s of %s: %v", tt.template, tt.pattern, err)
		} else if tt.want != "" && (!errors.Is(err, litestream.ErrReplicaPathUnclear) || !strings.HasSuffix(err.Error(), "the template does not hold "+tt.want)) {
			t.Errorf("%s of %s: got %v, want what is missing: %s", tt.template, tt.pattern, err, tt.want)
		}
	}
}

func TestTenantMap_FindReplica(t *testing.T) {
	long := strings.Repeat("x", 252)
	m := tenantMap(t, "/b/{{project}}/t-{{tenant}}-x", "/data/*/*.db", "/other/{{project}}/x/{{tenant}}.sqlite")
	for _, tt := range []struct{ replica, want string }{
		{"/b/p/t-a-x", "/data/p/a.db"},
		{"b/p/t-a-x", "/data/p/a.db"},
		{"b/p/t-a-x-x", "/data/p/a-x.db"},
		{"b/p%20q/t-%2Ea-x", "/data/p q/.a.db"},
		{"b/p/t-!-x", "/data/p/.db"},
		{"b/p/x", "none"},
		{"b/p/q/t-a-x", "none"},
		{"c/p/t-a-x", "none"},
		{"b/p/t-%2e-x", "unclear"}, // nothing is encoded so
		{"b/p/t-a b-x", "unclear"},
		{"b/p/t-%-x", "unclear"},
		{"b/p/t-" + long[:212] + "!157762641c370e5fd085fe0e87a60eae5309ea78", "unclear"},
		{"b/%2E%2E/t-a-x", "unclear"},
		{"b/a%2Fb/t-a-x", "unclear"},
	} {
		got, err := m.FindReplica(tt.replica)
		switch {
		case tt.want == "none" && errors.Is(err, litestream.ErrNoTenant):
		case tt.want == "unclear" && errors.Is(err, litestream.ErrReplicaPathUnclear):
		case err == nil && got.Path == tt.want:
		default:
			t.Errorf("%s: got %q, %v; want %s", tt.replica, got.Path, err, tt.want)
		}
	}
}

// Whatever the names, the database of a replica path is found, or it is said
// that the path does not tell; never another one.
func TestTenantMap_FindReplicaRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	maps := map[string]*litestream.TenantMap{}
	for _, template := range []string{"{{path}}", "b/{{relpath}}", "{{1}}/{{2}}", "x/{{2}}/y-{{1}}", "{{hostname}}/{{1}}/{{name}}"} {
		maps[template] = tenantMap(t, template, "/data/**/{{n}}.db")
	}
	const chars = "ab.-_%! \xff/ü"
	name := func() string {
		var b strings.Builder
		for range 1 + rng.IntN(4) {
			b.WriteByte(chars[rng.IntN(len(chars))])
		}
		if rng.IntN(50) == 0 {
			b.WriteString(strings.Repeat("x", 250))
		}
		return b.String()
	}
	found, unclear := 0, 0
	for range 20000 {
		file := fmt.Sprintf("/data/%s/%s.db", name(), name())
		for template, m := range maps {
			want, err := m.Lookup(file)
			if err != nil {
				continue
			}
			got, err := m.FindReplica(want.ReplicaPath)
			switch {
			case err == nil && got.Path == file:
				found++
			case errors.Is(err, litestream.ErrReplicaPathUnclear) && (strings.ContainsRune(want.ReplicaPath, '!') || strings.HasPrefix(template, "{{hostname}}")):
				unclear++
			default:
				t.Fatalf("%s of %s lies at %q: found %q, %v", template, file, want.ReplicaPath, got.Path, err)
			}
		}
	}
	if found < 10*unclear || unclear == 0 {
		t.Errorf("%d found, %d unclear", found, unclear)
	}
}
