package litestream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// maxLoggedProblems bounds the lines about one replica.
const maxLoggedProblems = 5

// validateReplica lists all levels of a replica and returns where the files of
// the levels 0 to maxLevel do not join. What it finds it looks for in a second
// listing: others may write and delete while one is made.
func validateReplica(ctx context.Context, client ReplicaClient, maxLevel int, promise levelPromise) ([]LevelProblem, error) {
	var found []LevelProblem
	for try := range 2 {
		tree, err := listTree(ctx, client)
		if err != nil {
			return nil, err
		}
		problems := treeProblems(levelsOf(tree), maxLevel, promise)
		if try > 0 {
			problems = slices.DeleteFunc(problems, func(p LevelProblem) bool {
				return !slices.ContainsFunc(found, func(q LevelProblem) bool { return p.String() == q.String() })
			})
		}
		if found = problems; len(found) == 0 {
			return nil, nil
		}
	}
	return found, nil
}

// problemsText tells one set of problems from another.
func problemsText(problems []LevelProblem) string {
	var b strings.Builder
	for _, p := range problems {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

// logProblems writes a line for each of the first few problems of a replica.
func logProblems(logger *slog.Logger, db string, problems []LevelProblem) {
	for _, p := range problems[:min(len(problems), maxLoggedProblems)] {
		logger.Warn("validation error detected", "db", db, "level", p.Next.Level, "type", string(p.Kind), "message", p.String())
	}
	if n := len(problems) - maxLoggedProblems; n > 0 {
		logger.Warn("more validation errors of the same replica", "db", db, "count", n)
	}
}

// scheduleValidation makes the next validation of a replica due, each at a time
// of its own within the interval.
func (s *Store) scheduleValidation(m *managedDB) {
	if s.ValidationInterval <= 0 || m.compactor == nil {
		return
	}
	lvl := CompactionLevel{Interval: s.ValidationInterval}
	s.sched.at(lvl.nextAt(time.Now(), phase(m.db.Path(), s.ValidationInterval)), m, taskValidate)
}

// runValidation checks that the files of each level join.
func (s *Store) runValidation(ctx context.Context, m *managedDB) {
	maxLevel := s.Levels.MaxLevel()
	problems, err := m.compactor.validate(ctx)
	if ctx.Err() != nil {
		return
	}
	var invalid [MaxCompactionLevel + 1]bool
	for _, p := range problems {
		invalid[p.Next.Level] = true
	}
	for level := range maxLevel + 1 {
		m.db.metrics.validated(level, !invalid[level], err, time.Now())
	}
	s.report(m, &m.validate, err, "validation failed", "validation works again")
	if text := problemsText(problems); err == nil && text != m.problems {
		if text == "" {
			m.db.Logger.Info("validation recovered", "db", m.db.Path())
		}
		logProblems(m.db.Logger, m.db.Path(), problems)
		m.problems = text
		m.compactor.Invalidate() // somebody else changed the replica
	}
	s.scheduleValidation(m)
}

// promise returns what is promised of this replica.
func (c *Compactor) promise() levelPromise {
	return levelPromise{now: c.Now(), levels: c.Levels, snapshotRetention: c.SnapshotRetention, l0Retention: c.L0Retention}
}

// rawClient returns the client that makes each request.
func (c *Compactor) rawClient() ReplicaClient {
	if l, ok := c.client.(*listedReplica); ok {
		return l.ReplicaClient
	}
	return c.client
}

func (c *Compactor) validate(ctx context.Context) ([]LevelProblem, error) {
	return validateReplica(ctx, c.rawClient(), c.Levels.MaxLevel(), c.promise())
}

// verifyCompacted lists a level that was just written, and tells of files that
// do not join. Where one listing shows some, all levels are looked at: a gap
// that a snapshot covers is none.
func (c *Compactor) verifyCompacted(ctx context.Context, level int) {
	if c.OnVerified == nil {
		return
	}
	problems, err := c.VerifyLevel(ctx, level)
	if err == nil && len(problems) > 0 {
		problems, err = c.validate(ctx)
		problems = slices.DeleteFunc(problems, func(p LevelProblem) bool { return p.Next.Level != level })
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		c.logger.Warn("compaction could not be verified", "db", c.Path, "level", level, "error", err)
		return
	case len(problems) > 0:
		err = errors.New(problems[0].String())
	}
	c.mu.Lock()
	changed := c.verified[level] != problemsText(problems)
	c.verified[level] = problemsText(problems)
	c.mu.Unlock()
	if changed && err != nil {
		c.logger.Warn("compaction verification failed", "db", c.Path, "level", level,
			"type", string(problems[0].Kind), "problems", len(problems), "error", err)
	}
	c.OnVerified(level, err)
}
