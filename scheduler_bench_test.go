package litestream

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkScheduler takes the first task that is due and schedules it again,
// among the tasks of so many databases.
func BenchmarkScheduler(b *testing.B) {
	for _, n := range []int{1, 2000, 100_000} {
		b.Run(fmt.Sprintf("dbs=%d", n), func(b *testing.B) {
			s := newScheduler(nil)
			now := time.Now()
			later := now.AddDate(200, 0, 0) // everything is due
			for i := range n {
				m := &managedDB{}
				for k := range m.tasks {
					m.tasks[k] = scheduled{m: m, kind: taskKind(k), index: -1}
				}
				phase := time.Duration(i) * time.Second / time.Duration(n)
				s.at(now.Add(phase), m, taskSync)
				s.at(now.Add(24*time.Hour+phase), m, taskSnapshot)
			}
			b.ReportAllocs()
			for b.Loop() {
				item, _ := s.next(later)
				s.at(item.due.Add(time.Second), item.m, item.kind)
			}
		})
	}
}
