package s3

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/benbjohnson/litestream"
	v03 "github.com/benbjohnson/litestream/internal/v03"
)

var _ litestream.VersionKeeper = (*ReplicaClient)(nil)

// maxLockAsked is how many versions are asked for their lock, one request each.
const maxLockAsked = 200

// KeptVersions lists the versions of the database's files that the bucket
// keeps. A server without versions keeps none. Locks are asked for where the
// bucket has them, of the newest 200 versions.
func (c *ReplicaClient) KeptVersions(ctx context.Context) (*litestream.KeptVersions, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	v := versions{session: s}
	if !v.versioned(ctx) {
		return &v.kept, ctx.Err()
	}
	for _, prefix := range []string{c.prefix().Tree(), c.v03Root() + v03.Dir + "/"} {
		if err := v.list(ctx, prefix); ctx.Err() != nil {
			return nil, s.fail("list", prefix, ctx.Err())
		} else if !v.told("versions", err) {
			return &v.kept, nil
		}
	}
	if v.kept.Versions > 0 && v.hasLock(ctx) {
		if err := v.locks(ctx); err != nil {
			return nil, err
		}
	}
	return &v.kept, nil
}

// versions is one look at what a bucket keeps.
type versions struct {
	*session
	kept   litestream.KeptVersions
	newest []types.ObjectVersion // whose locks are asked for
}

// told takes note of what is not told. It reports whether it is.
func (v *versions) told(what string, err error) bool {
	if err != nil {
		v.kept.Untold = append(v.kept.Untold, fmt.Sprintf("%s: %v", what, v.fail("list", v.Path, err)))
	}
	return err == nil
}

// unsupported reports whether a server says that it has nothing of the kind.
func unsupported(err error) bool {
	switch errorCode(err) {
	case "NotImplemented", "MethodNotAllowed", "HTTP501", "HTTP405", "VersioningNotConfigured",
		"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration", "InvalidRequest":
		return true
	default:
		return false
	}
}

// versioned reports whether the bucket may keep versions.
func (v *versions) versioned(ctx context.Context) bool {
	began := time.Now()
	out, err := v.api.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: aws.String(v.Bucket)})
	v.observe("GET", 0, began, err)
	if unsupported(err) {
		return false
	}
	return err != nil || out.Status != "" // one who may not ask may be told of the versions
}

// list counts the versions below a prefix.
func (v *versions) list(ctx context.Context, prefix string) error {
	in := &s3.ListObjectVersionsInput{Bucket: aws.String(v.Bucket), Prefix: aws.String(prefix)}
	for {
		began := time.Now()
		out, err := v.api.ListObjectVersions(ctx, in)
		v.observe("LIST", 0, began, err)
		if unsupported(err) {
			return nil
		} else if err != nil {
			return err
		}
		for i := range out.Versions {
			if o := &out.Versions[i]; v.ours(aws.ToString(o.Key)) {
				v.kept.Versions++
				v.kept.Bytes += aws.ToInt64(o.Size)
				v.newest = append(v.newest, *o)
			}
		}
		for i := range out.DeleteMarkers {
			if v.ours(aws.ToString(out.DeleteMarkers[i].Key)) {
				v.kept.Markers++
			}
		}
		v.trim()
		if !aws.ToBool(out.IsTruncated) {
			return nil
		}
		key, version := aws.ToString(out.NextKeyMarker), aws.ToString(out.NextVersionIdMarker)
		if key == "" || key == aws.ToString(in.KeyMarker) && version == aws.ToString(in.VersionIdMarker) {
			return errors.New("listing of versions does not advance")
		}
		in.KeyMarker, in.VersionIdMarker = out.NextKeyMarker, out.NextVersionIdMarker
	}
}

// ours reports whether a key is that of the database, and of no other below its
// path.
func (v *versions) ours(key string) bool {
	rel, ok := strings.CutPrefix(key, v.v03Root())
	return v.prefix().IsFile(key) || ok && isBackup(rel)
}

// trim keeps the newest versions: those that are locked for longest, where all
// are locked for the same time.
func (v *versions) trim() {
	if len(v.newest) > maxLockAsked {
		slices.SortFunc(v.newest, func(a, b types.ObjectVersion) int {
			return aws.ToTime(b.LastModified).Compare(aws.ToTime(a.LastModified))
		})
		v.newest = v.newest[:maxLockAsked]
	}
}

func isBackup(name string) bool {
	_, ok := v03.ParseName(name)
	return ok
}

// hasLock reports whether the bucket has locks, and takes note of the one that
// new objects get.
func (v *versions) hasLock(ctx context.Context) bool {
	began := time.Now()
	out, err := v.api.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: aws.String(v.Bucket)})
	v.observe("GET", 0, began, err)
	if unsupported(err) || !v.told("lock of the bucket", err) {
		return err != nil && !unsupported(err)
	}
	cfg := out.ObjectLockConfiguration
	if cfg == nil || cfg.ObjectLockEnabled != types.ObjectLockEnabledEnabled {
		return false
	}
	if cfg.Rule != nil && cfg.Rule.DefaultRetention != nil {
		r := cfg.Rule.DefaultRetention
		n, unit := aws.ToInt32(r.Days), "days"
		if r.Years != nil {
			n, unit = *r.Years, "years"
		}
		v.kept.DefaultLock = fmt.Sprintf("%s for %d %s", strings.ToLower(string(r.Mode)), n, unit)
	}
	return true
}

// locks asks until when versions are locked. A refusal ends it.
func (v *versions) locks(ctx context.Context) error {
	for i := range v.newest {
		key, id := v.newest[i].Key, v.newest[i].VersionId
		began := time.Now()
		ret, err := v.api.GetObjectRetention(ctx, &s3.GetObjectRetentionInput{Bucket: aws.String(v.Bucket), Key: key, VersionId: id})
		v.observe("GET", 0, began, err)
		if ctx.Err() != nil {
			return v.fail("get", aws.ToString(key), ctx.Err())
		} else if !unsupported(err) && !v.told("locks", err) {
			return nil
		}
		if err == nil && ret.Retention != nil && aws.ToTime(ret.Retention.RetainUntilDate).After(time.Now()) {
			v.kept.Locked++
			if until := aws.ToTime(ret.Retention.RetainUntilDate).UTC(); until.After(v.kept.LockedUntil) {
				v.kept.LockedUntil = until
			}
		}
		began = time.Now()
		hold, err := v.api.GetObjectLegalHold(ctx, &s3.GetObjectLegalHoldInput{Bucket: aws.String(v.Bucket), Key: key, VersionId: id})
		v.observe("GET", 0, began, err)
		if !unsupported(err) && !v.told("legal holds", err) {
			return ctx.Err()
		}
		if err == nil && hold.LegalHold != nil && hold.LegalHold.Status == types.ObjectLockLegalHoldStatusOn {
			v.kept.Held++
		}
		v.kept.Asked++
	}
	return nil
}
