package gs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
	v03 "github.com/benbjohnson/litestream/internal/v03"
)

var (
	_ litestream.VersionKeeper = (*ReplicaClient)(nil)
	_ litestream.RemnantClient = (*ReplicaClient)(nil)
)

// Remnants lists the objects of a backup of Litestream v0.3, with one request
// per 1,000. Uploads that did not end cannot be listed; the service forgets them
// after a week.
func (c *ReplicaClient) Remnants(ctx context.Context) (remnants []litestream.Remnant, err error) {
	s, err := c.session()
	if err != nil {
		return nil, err
	}
	query := url.Values{"prefix": {s.root().Objects() + v03.Dir + "/"}}
	err = s.eachObject(ctx, query, func(obj *object) {
		if name, ok := strings.CutPrefix(obj.Name, s.root().Objects()); ok {
			remnants = append(remnants, litestream.Remnant{Kind: litestream.RemnantV03, Name: name, Size: obj.Size})
		}
	})
	return remnants, err
}

// DeleteRemnants deletes objects, one request for each.
func (c *ReplicaClient) DeleteRemnants(ctx context.Context, remnants []litestream.Remnant) error {
	s, err := c.session()
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range remnants {
		errs = append(errs, s.deleteObject(ctx, s.root().Objects()+r.Name))
	}
	return errors.Join(errs...)
}

// keptObject is what the service tells of a version of an object.
type keptObject struct {
	Name           string    `json:"name"`
	Size           int64     `json:"size,string"`
	HardDeleteTime time.Time `json:"hardDeleteTime"` // of one that can be undeleted

	RetentionExpirationTime time.Time `json:"retentionExpirationTime"` // by the bucket's policy
	Retention               struct {
		RetainUntilTime time.Time `json:"retainUntilTime"`
	} `json:"retention"` // of its own
	TemporaryHold  bool `json:"temporaryHold"`
	EventBasedHold bool `json:"eventBasedHold"`
}

// lockedUntil returns when the object may be deleted at the earliest.
func (o *keptObject) lockedUntil() time.Time {
	if o.Retention.RetainUntilTime.After(o.RetentionExpirationTime) {
		return o.Retention.RetainUntilTime
	}
	return o.RetentionExpirationTime
}

// KeptVersions lists the versions of the database's files that the bucket keeps,
// and what it can undelete, with one request per 1,000 of each. Both listings
// tell of locks.
func (c *ReplicaClient) KeptVersions(ctx context.Context) (*litestream.KeptVersions, error) {
	s, err := c.session()
	if err != nil {
		return nil, err
	}
	k := &litestream.KeptVersions{}
	now := time.Now()
	for _, prefix := range []string{s.root().Tree(), s.root().Objects() + v03.Dir + "/"} {
		err := s.eachKept(ctx, url.Values{"prefix": {prefix}, "versions": {"true"}}, func(o *keptObject) {
			k.Versions++
			k.Bytes += o.Size
			k.Asked++
			if until := o.lockedUntil(); until.After(now) {
				k.Locked++
				if until.After(k.LockedUntil) {
					k.LockedUntil = until.UTC()
				}
			}
			if o.TemporaryHold || o.EventBasedHold {
				k.Held++
			}
		})
		if err := s.untold(ctx, k, "versions", err); err != nil {
			return nil, err
		}
		err = s.eachKept(ctx, url.Values{"prefix": {prefix}, "softDeleted": {"true"}}, func(o *keptObject) {
			if o.HardDeleteTime.IsZero() {
				return // of a server that does not know the parameter
			}
			k.Undeletable++
			k.Bytes += o.Size
			if o.HardDeleteTime.After(k.UndeletableUntil) {
				k.UndeletableUntil = o.HardDeleteTime.UTC()
			}
		})
		if api, ok := errors.AsType[*apiError](err); ok && api.status/100 == 4 && !s.undeletes(ctx) {
			err = nil
		}
		if err := s.untold(ctx, k, "soft-deleted objects", err); err != nil {
			return nil, err
		}
		if len(k.Untold) > 0 {
			break // it would be the same again
		}
	}
	return k, nil
}

// untold takes note of what is not told; a context that is done is an error.
func (s *session) untold(ctx context.Context, k *litestream.KeptVersions, what string, err error) error {
	if ctx.Err() != nil {
		return s.fail("list", s.Path, ctx.Err())
	}
	if err != nil {
		k.Untold = append(k.Untold, fmt.Sprintf("%s: %v", what, s.wrap("list", s.Path, err)))
	}
	return nil
}

// undeletes reports whether the bucket may bring back what was deleted: false
// only if it says so.
func (s *session) undeletes(ctx context.Context) bool {
	var b struct {
		SoftDeletePolicy struct {
			RetentionDurationSeconds string `json:"retentionDurationSeconds"`
		} `json:"softDeletePolicy"`
	}
	began := time.Now()
	err := s.conn.call(ctx, &request{method: http.MethodGet, url: strings.TrimSuffix(s.objectsURL(), "/o") + "?fields=softDeletePolicy"}, &b)
	s.observe("GET", 0, began, err)
	n, parseErr := strconv.ParseInt(b.SoftDeletePolicy.RetentionDurationSeconds, 10, 64)
	return err != nil || parseErr == nil && n > 0
}

// eachKept reads all pages of a listing of what is kept.
func (s *session) eachKept(ctx context.Context, query url.Values, fn func(o *keptObject)) error {
	query.Set("maxResults", fmt.Sprint(pageSize))
	query.Set("projection", "noAcl")
	for {
		var p struct {
			NextPageToken string       `json:"nextPageToken"`
			Items         []keptObject `json:"items"`
		}
		began := time.Now()
		err := s.conn.call(ctx, &request{method: http.MethodGet, url: s.objectsURL() + "?" + query.Encode()}, &p)
		s.observe("LIST", 0, began, err)
		if err != nil {
			return err
		}
		for i := range p.Items {
			if s.ours(p.Items[i].Name) {
				fn(&p.Items[i])
			}
		}
		if p.NextPageToken == "" {
			return nil
		}
		if p.NextPageToken == query.Get("pageToken") {
			return errors.New("listing does not advance: same page token again")
		}
		query.Set("pageToken", p.NextPageToken)
	}
}

// ours reports whether a key is that of the database, and of no other below its
// path.
func (s *session) ours(key string) bool {
	if s.root().IsFile(key) {
		return true
	}
	rel, ok := strings.CutPrefix(key, s.root().Objects())
	_, backup := v03.ParseName(rel)
	return ok && backup
}
