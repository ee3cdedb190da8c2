package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/benbjohnson/litestream"
)

// TestCompatibility_Complete holds that the documents name every command, flag,
// key of the configuration file and metric: docs/COMPATIBILITY.md what v0.5.18
// may have too, docs/MULTIDB.md what is below multi-db.
func TestCompatibility_Complete(t *testing.T) {
	doc, fleet := readDoc(t, "COMPATIBILITY.md"), readDoc(t, "MULTIDB.md")
	for _, c := range commands() {
		row := regexp.MustCompile("(?m)^\\| [^|]*`"+c.name+"[` ].*$").FindAllString(doc, -1)
		if row == nil {
			t.Errorf("docs/COMPATIBILITY.md has no row for the command %s", c.name)
		}
		for _, f := range c.help.flags {
			flag, _, _ := strings.Cut(f[0], " ")
			if !strings.Contains(strings.Join(row, "\n"), "`"+flag+"`") {
				t.Errorf("docs/COMPATIBILITY.md names no flag %s in the row of %s", flag, c.name)
			}
		}
	}
	for _, k := range configKeys {
		text, file := doc, "COMPATIBILITY.md"
		if strings.HasPrefix(string(k.scope), string(scopeMultiDB)) {
			text, file = fleet, "MULTIDB.md"
		}
		if !regexp.MustCompile("[`.\n ]" + regexp.QuoteMeta(k.name) + "[`:.\\[]").MatchString(text) {
			t.Errorf("docs/%s does not name the key %s of %s", file, k.name, k.scope)
		}
	}
	for _, name := range metricNames() {
		if !strings.Contains(doc, "`"+name+"`") {
			t.Errorf("docs/COMPATIBILITY.md does not name the metric %s", name)
		}
	}
}

func readDoc(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// nameRegisterer collects the names of metrics.
type nameRegisterer struct {
	prometheus.Registerer

	names []string
}

var metricName = regexp.MustCompile(`fqName: "([^"]*)"`)

func (r *nameRegisterer) MustRegister(collectors ...prometheus.Collector) {
	for _, c := range collectors {
		ch := make(chan *prometheus.Desc, 100)
		c.Describe(ch)
		close(ch)
		for desc := range ch {
			r.names = append(r.names, metricName.FindStringSubmatch(desc.String())[1])
		}
	}
}

// metricNames returns the names of all metrics of databases.
func metricNames() []string {
	var r nameRegisterer
	litestream.NewMetrics(&r)
	return r.names
}
