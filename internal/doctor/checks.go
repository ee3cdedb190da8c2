package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// What is written. The sizes are such that every client takes each of its ways:
// a large file is more than the 16 MiB that the largest part of an upload has,
// many files are more than the 1,000 that most services put on a page and take
// in one delete.
const (
	smallSize  = 4 << 10
	smallFiles = 10
	largeSize  = 17 << 20
	manySize   = 200
	manyFiles  = 1050
	manyAtOnce = 16
	rounds     = 3 // of writers that race
	racers     = 8

	// TXIDs of the files of one check each.
	raceTXID  = 100
	largeTXID = 1000
	manyTXID  = 10001

	// maxMany is how long many files may take by what one file took.
	maxMany = time.Minute

	// maxSkew is how far the clocks of a service and its clients may be apart;
	// AWS refuses requests beyond it.
	maxSkew = 15 * time.Minute
)

// fileTime returns the timestamp in the header of a file: one that no clock has.
func fileTime(txid ltx.TXID) time.Time {
	return time.Date(2021, 3, 4, 5, 6, 7, 123e6, time.UTC).Add(time.Duration(txid) * time.Millisecond)
}

// file returns n bytes that begin with an LTX header and go on with noise.
func file(txid ltx.TXID, n int, seed byte) ([]byte, error) {
	hdr := ltx.Header{
		Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: 4096, Commit: 1,
		MinTXID: txid, MaxTXID: txid, Timestamp: fileTime(txid).UnixMilli(),
	}
	data, err := hdr.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	noise := make([]byte, n-len(data))
	_, _ = rand.NewChaCha8([32]byte{0: seed, 1: byte(txid), 2: byte(txid >> 8)}).Read(noise) // never fails
	return append(data, noise...), nil
}

// write stores a file of level 0, or of another, and takes note of it first: a
// write that fails may have stored it.
func (e *exam) write(ctx context.Context, level int, txid ltx.TXID, data []byte) error {
	e.written, e.wrote = append(e.written, &ltx.FileInfo{Level: level, MinTXID: txid, MaxTXID: txid}), true
	info, err := e.scratch.WriteLTXFile(ctx, level, txid, txid, bytes.NewReader(data))
	if err == nil && info.Size != int64(len(data)) {
		err = fmt.Errorf("client says that %d of %d bytes are stored", info.Size, len(data))
	}
	return err
}

// get reads a part of a file.
func (e *exam) get(ctx context.Context, level int, txid ltx.TXID, offset, size int64) (data []byte, err error) {
	r, err := e.scratch.OpenLTXFile(ctx, level, txid, txid, offset, size)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return io.ReadAll(r)
}

// connect lists a folder that is not there: the cheapest call that needs
// everything to be right.
func (e *exam) connect(ctx context.Context) (string, error) {
	began := e.now()
	files, err := listLevel(ctx, e.scratch, 0, 0, false)
	if err != nil {
		return "", err
	}
	if len(files) > 0 {
		return "", &problem{
			status: Failed, text: fmt.Sprintf("a folder that nobody wrote to lists %d files", len(files)),
			advice: "check that the endpoint is a storage of the replica's type",
		}
	}
	return "answers, first after " + round(e.now().Sub(began)), nil
}

// put stores small files one after the other.
func (e *exam) put(ctx context.Context) (string, error) {
	n := smallFiles
	if e.Depth == Brief {
		n = 1
	}
	var took []time.Duration
	for i := range n {
		txid := ltx.TXID(i + 1)
		data, err := file(txid, smallSize, 0)
		if err != nil {
			return "", err
		}
		began := e.now()
		if err := e.write(ctx, 0, txid, data); err != nil {
			return "", err
		}
		took = append(took, e.now().Sub(began))
		e.small = append(e.small, e.written[len(e.written)-1])
	}
	m := median(took)
	e.report.Speed.PutMillis = millis(m)
	return fmt.Sprintf("%d files of 4 KiB, %s each", n, round(m)), nil
}

// list lists the small files, with their times.
func (e *exam) list(ctx context.Context) (string, error) {
	began := e.now()
	plain, err := listLevel(ctx, e.scratch, 0, 0, false)
	if err != nil {
		return "", err
	}
	took := e.now().Sub(began)
	e.report.Speed.ListMillis = millis(took)
	if err := compareListing(plain, e.small, 1); err != nil {
		return "", err
	}
	files, err := listLevel(ctx, e.scratch, 0, 0, true)
	if err != nil {
		return "", err
	}
	if err := compareListing(files, e.small, 1); err != nil {
		return "", err
	}
	for i, f := range files {
		if want := fileTime(f.MinTXID); !f.CreatedAt.Equal(want) {
			return "", &problem{
				status: Warning, text: fmt.Sprintf("a file of %s is listed with the time %s", want.Format(time.RFC3339Nano), f.CreatedAt.Format(time.RFC3339Nano)),
				advice: "restore -timestamp finds another state than the one asked for: use -txid, or a storage that keeps metadata",
			}
		}
		if f.Size != smallSize || plain[i].Size != smallSize {
			return "", &problem{
				status: Failed, text: fmt.Sprintf("a file of %d bytes is listed with %d: it was cut short", smallSize, f.Size),
				advice: "the storage, or a proxy before it, does not keep what it accepts: use another one",
			}
		}
	}
	return fmt.Sprintf("%d files with their times, %s", len(files), round(took)), e.compareClocks(plain)
}

// compareListing holds a listing against what was written from a TXID on.
func compareListing(got, want []*ltx.FileInfo, first ltx.TXID) error {
	next := first
	for _, f := range got {
		if f.MinTXID != next || f.MaxTXID != next {
			break
		}
		next++
	}
	if int(next-first) == len(want) && len(got) == len(want) {
		return nil
	}
	return &problem{
		status: Failed, text: fmt.Sprintf("%d files were stored, the listing has %d and the first %d are right: it is not complete", len(want), len(got), next-first),
		advice: "a restore would miss transactions: use a storage whose listings are complete at once, without a cache before it",
	}
}

// compareClocks looks at the time of upload, where a listing tells it.
func (e *exam) compareClocks(files []*ltx.FileInfo) error {
	if len(files) == 0 {
		return nil
	}
	at := files[len(files)-1]
	if fileTime(at.MinTXID).Sub(at.CreatedAt).Abs() <= time.Second {
		return nil // the header's, to the second
	}
	skew := e.now().Sub(at.CreatedAt)
	if skew.Abs() < maxSkew {
		return nil
	}
	ahead := "ahead of"
	if skew < 0 {
		ahead = "behind"
	}
	return &problem{
		status: Warning, text: fmt.Sprintf("the clock of this machine is %s %s the storage's", skew.Abs().Round(time.Second), ahead),
		advice: "set the clocks (NTP): services refuse requests from another time, and retention goes by it",
	}
}

// read reads whole files and parts.
func (e *exam) read(ctx context.Context) (string, error) {
	var took []time.Duration
	for _, f := range e.small {
		want, err := file(f.MinTXID, smallSize, 0)
		if err != nil {
			return "", err
		}
		began := e.now()
		got, err := e.get(ctx, 0, f.MinTXID, 0, 0)
		if err != nil {
			return "", err
		}
		took = append(took, e.now().Sub(began))
		if err := compareBytes("a file", got, want); err != nil {
			return "", err
		}
	}
	m := median(took)
	e.report.Speed.GetMillis = millis(m)
	if len(e.small) == 0 {
		return "", &problem{status: Skipped, text: "not tried: nothing could be stored"}
	}
	want, err := file(1, smallSize, 0)
	if err != nil {
		return "", err
	}
	for _, r := range [][2]int64{{0, 100}, {1000, 1000}, {4000, 0}, {4000, 1000}, {smallSize, 0}} {
		got, err := e.get(ctx, 0, 1, r[0], r[1])
		if err != nil {
			return "", err
		}
		end := int64(smallSize)
		if r[1] > 0 {
			end = min(end, r[0]+r[1])
		}
		if err := compareBytes("a part of a file", got, want[r[0]:end]); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("whole files and parts, %s each", round(m)), nil
}

func compareBytes(what string, got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	text := fmt.Sprintf("%s of %d bytes comes back changed", what, len(want))
	if len(got) != len(want) {
		text = fmt.Sprintf("%s of %d bytes comes back with %d", what, len(want), len(got))
	}
	return &problem{
		status: Failed, text: text,
		advice: "nothing can be restored from it: the storage, or a proxy before it, does not keep what it accepts",
	}
}

// replace writes a file again with other contents.
func (e *exam) replace(ctx context.Context) (string, error) {
	const txid = smallFiles
	data, err := file(txid, smallSize, 1)
	if err != nil {
		return "", err
	}
	if err := e.write(ctx, 0, txid, data); err != nil {
		return "", err
	}
	got, err := e.get(ctx, 0, txid, 0, 0)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(got, data) {
		return "", &problem{
			status: Failed, text: "after a file was replaced, the old one is read",
			advice: "use the storage without a cache before it, and without a policy that forbids to replace",
		}
	}
	return "a file is replaced at once", nil
}

const (
	ignored      = "conditional writes are ignored by this server: a second writer may go unnoticed"
	onlyOneHint  = "make sure that one daemon alone writes to this path: two would damage each other's backups unnoticed"
	atomicHint   = "the server looks and writes in two steps: " + onlyOneHint
	unsupporting = "replicas of this type cannot refuse to overwrite: a second writer may go unnoticed"
)

// secondWriter stores files that must not be there yet, twice, and then by
// several writers at a time.
func (e *exam) secondWriter(ctx context.Context) (string, error) {
	x, ok := e.scratch.(litestream.ExclusiveWriter)
	if !ok {
		return "", &problem{status: Warning, text: unsupporting, advice: onlyOneHint}
	}
	put := func(ctx context.Context, txid ltx.TXID, seed byte) (bool, error) {
		data, err := file(txid, smallSize, seed)
		if err != nil {
			return false, err
		}
		_, err = x.WriteLTXFileExclusive(ctx, 0, txid, txid, bytes.NewReader(data))
		if errors.Is(err, fs.ErrExist) {
			return false, nil
		}
		return err == nil, err
	}
	for i := range rounds + 1 {
		txid := ltx.TXID(raceTXID + i)
		e.written = append(e.written, &ltx.FileInfo{MinTXID: txid, MaxTXID: txid})
	}
	first, err := put(ctx, raceTXID, 0)
	if err != nil {
		return "", err
	} else if !first {
		return "", &problem{status: Failed, text: "the storage says of a file that is not there that it is", advice: "use another storage: nothing could be replicated to this one"}
	}
	second, err := put(ctx, raceTXID, 1)
	warned := e.warned.take() // what the client had to do without
	switch {
	case err != nil:
		return "", err
	case second:
		return "", &problem{status: Warning, text: ignored, advice: onlyOneHint}
	case len(warned) > 0:
		return "", &problem{status: Warning, text: strings.Join(warned, "; "), advice: onlyOneHint}
	}
	for i := range rounds {
		wins := make([]bool, racers)
		err := blob.Each(ctx, racers, racers, func(ctx context.Context, w int) (err error) {
			wins[w], err = put(ctx, ltx.TXID(raceTXID+1+i), byte(w))
			return err
		}, litestream.IsPermanent)
		if err != nil {
			return "", err
		}
		wins = slices.DeleteFunc(wins, func(won bool) bool { return !won })
		if len(wins) != 1 {
			return "", &problem{
				status: Warning, text: fmt.Sprintf("of %d writers of one file at the same time, %d were told that they wrote it", racers, len(wins)),
				advice: atomicHint,
			}
		}
	}
	return "is refused: a file is never overwritten by accident", nil
}

// namedObjects stores what multi-db keeps beside the databases.
func (e *exam) namedObjects(ctx context.Context) (string, error) {
	if _, ok := e.Client.(litestream.ObjectDeleter); !ok {
		return "", &problem{status: Skipped, text: "not tried: what multi-db keeps beside the databases could not be removed again"}
	}
	name := e.name + "/object"
	e.named, e.wrote = append(e.named, name), true
	if err := e.objects.WriteObject(ctx, name, []byte("first"), true); err != nil {
		return "", err
	}
	for i, text := range []string{"first", "second"} {
		if i > 0 {
			if err := e.objects.WriteObject(ctx, name, []byte(text), false); err != nil {
				return "", err
			}
		}
		got, err := e.objects.ReadObject(ctx, name)
		if err != nil {
			return "", err
		}
		if err := compareBytes("an object", got, []byte(text)); err != nil {
			return "", err
		}
	}
	switch err := e.objects.WriteObject(ctx, name, []byte("third"), true); {
	case err == nil:
		return "", &problem{status: Warning, text: ignored, advice: onlyOneHint}
	case !errors.Is(err, fs.ErrExist):
		return "", err
	}
	return "what multi-db keeps beside the databases", nil
}

// large stores one file that is sent in parts, and reads it back.
func (e *exam) large(ctx context.Context) (string, error) {
	data, err := file(largeTXID, largeSize, 0)
	if err != nil {
		return "", err
	}
	began := e.now()
	if err := e.write(ctx, litestream.SnapshotLevel, largeTXID, data); err != nil {
		return "", err
	}
	up := e.now().Sub(began)
	began = e.now()
	got, err := e.get(ctx, litestream.SnapshotLevel, largeTXID, 0, 0)
	if err != nil {
		return "", err
	}
	down := e.now().Sub(began)
	if err := compareBytes("a large file", got, data); err != nil {
		return "", err
	}
	const mb = float64(largeSize) / 1e6
	e.report.Speed.UploadMB, e.report.Speed.DownloadMB = perSecond(mb, up), perSecond(mb, down)
	return fmt.Sprintf("17 MiB, up %.0f MB/s, down %.0f MB/s", perSecond(mb, up), perSecond(mb, down)), nil
}

// many stores more files than a page of a listing has, and lists them.
func (e *exam) many(ctx context.Context) (string, error) {
	if est := time.Duration(e.report.Speed.PutMillis*manyFiles/manyAtOnce) * time.Millisecond; est > maxMany {
		return "", &problem{status: Skipped, text: fmt.Sprintf("not tried: %d files would take about %s", manyFiles, est.Round(time.Second))}
	}
	want := make([]*ltx.FileInfo, manyFiles)
	for i := range want {
		txid := ltx.TXID(manyTXID + i)
		want[i] = &ltx.FileInfo{Level: 1, MinTXID: txid, MaxTXID: txid}
	}
	e.written = append(e.written, want...)
	began := e.now()
	err := blob.Each(ctx, len(want), manyAtOnce, func(ctx context.Context, i int) error {
		data, err := file(want[i].MinTXID, manySize, 0)
		if err == nil {
			_, err = e.scratch.WriteLTXFile(ctx, 1, want[i].MinTXID, want[i].MinTXID, bytes.NewReader(data))
		}
		return err
	}, func(error) bool { return true })
	if err != nil {
		return "", err
	}
	e.report.Speed.FilesPerS = perSecond(manyFiles, e.now().Sub(began))
	for _, skip := range []int{0, manyFiles - 20} {
		got, err := listLevel(ctx, e.scratch, 1, ltx.TXID(manyTXID+skip), false)
		if err != nil {
			return "", err
		}
		if err := compareListing(got, want[skip:], ltx.TXID(manyTXID+skip)); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d files, %.0f/s with %d at a time, and listed completely", manyFiles, e.report.Speed.FilesPerS, manyAtOnce), nil
}

// remove deletes all files at once and looks whether they are gone.
func (e *exam) remove(ctx context.Context) (string, error) {
	err := e.scratch.DeleteLTXFiles(ctx, e.written)
	n, verified := 0, " at once"
	if err == nil {
		var listErr error
		if n, listErr = e.countFiles(ctx); listErr != nil {
			verified = ", and it cannot be told whether they are gone: " + describe(listErr)
		}
	}
	switch {
	case e.KeepsFiles && (err != nil || n > 0):
		return "", &problem{status: Warning, text: "files cannot be deleted, which this configuration does not want either (retention.enabled: false)", cause: err}
	case err != nil:
		return "", &problem{status: Failed, text: describe(err), advice: removeAdvice(err), cause: err}
	case n > 0:
		return "", &problem{
			status: Failed, text: fmt.Sprintf("%d of %d files are still listed after they were deleted", n, len(e.written)),
			advice: "look for a retention policy or a cache; what is deleted would be paid for on",
		}
	}
	n = len(e.written)
	e.written = nil
	return fmt.Sprintf("%d files%s", n, verified), nil
}

// removeAdvice says what follows if nothing can be deleted.
func removeAdvice(err error) string {
	const otherwise = "without it old files are never removed and the storage fills: allow it, or leave that to a rule of the bucket and set retention.enabled to false"
	if hint := advise(err); hint != "" {
		return hint + "; " + otherwise
	}
	return otherwise
}
