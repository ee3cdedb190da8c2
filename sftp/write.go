package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/blob"
)

// Extensions of OpenSSH's protocol (PROTOCOL, section 4).
const (
	extPosixRename = "posix-rename@openssh.com"
	extHardlink    = "hardlink@openssh.com"
	extFsync       = "fsync@openssh.com"
)

// abandonedAfter is the age from which a temporary file counts as left behind
// by a crash. No single file takes that long to write.
const abandonedAfter = 24 * time.Hour

// WriteLTXFile stores a file under its name in one step, replacing one that is
// there already. A file that can be read at any place, or has at most 32 KiB,
// is sent again if the connection is lost.
func (c *ReplicaClient) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, false)
}

// WriteLTXFileExclusive stores a file unless one of that name exists. Of any
// number of writers exactly one succeeds on servers that make hard links, as
// OpenSSH does; on others the name is looked up first.
func (c *ReplicaClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, true)
}

func (c *ReplicaClient) write(ctx context.Context, info *ltx.FileInfo, r io.Reader, exclusive bool) (*ltx.FileInfo, error) {
	key := fileKey(info.Level, info.MinTXID, info.MaxTXID)
	src, err := newSource(r)
	if err != nil {
		return nil, c.fail("put", key, err)
	}
	hdr, err := src.header()
	if err != nil {
		return nil, c.fail("put", key, fmt.Errorf("read ltx header: %w", err))
	}
	info.CreatedAt = time.UnixMilli(hdr.Timestamp).UTC()
	info.Size, err = c.store(ctx, key, src, info.CreatedAt, exclusive)
	if err != nil {
		return nil, err
	}
	return info, nil
}

// store stores a source under a name relative to the path.
func (c *ReplicaClient) store(ctx context.Context, key string, src *source, modTime time.Time, exclusive bool) (size int64, err error) {
	began := time.Now()
	cn, err := c.connection(ctx)
	if err != nil {
		return 0, err
	}
	cn.writes.Store(true)
	err = cn.do(ctx, c.logger.Load(), func(ctx context.Context, s *session) error {
		u := &upload{
			client: c, cn: cn, session: s, dst: c.join(key),
			modTime: modTime, exclusive: exclusive,
		}
		u.tmp = blob.TempName(u.dst, began)
		if u.isSmall(src) {
			size, err = u.runSmall(ctx, src)
			if !errors.Is(err, errStepByStep) {
				return err
			}
		}
		size, err = u.run(ctx, src)
		if err != nil && src.spent {
			err = &finalError{err}
		}
		return err
	})
	c.observe("PUT", size, began, err)
	if err != nil {
		return 0, c.wrap("put", key, err)
	}
	return size, nil
}

// source is what is to be stored: a section that can be read again, or a
// stream of which the first part was read.
type source struct {
	section *io.SectionReader // nil: a stream
	first   []byte
	rest    io.Reader
	spent   bool // more than first was read of a stream
}

func newSource(r io.Reader) (*source, error) {
	if ra, ok := r.(interface {
		io.ReaderAt
		io.Seeker
	}); ok {
		pos, err := ra.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, fmt.Errorf("find size: %w", err)
		}
		end, err := ra.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, fmt.Errorf("find size: %w", err)
		}
		return &source{section: io.NewSectionReader(ra, pos, end-pos)}, nil
	}
	first := make([]byte, packetSize)
	n, err := io.ReadFull(r, first)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		b := first[:n]
		return &source{section: io.NewSectionReader(bytes.NewReader(b), 0, int64(n))}, nil
	} else if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	return &source{first: first, rest: r}, nil
}

func (src *source) header() (ltx.Header, error) {
	r := io.Reader(bytes.NewReader(src.first))
	if src.section != nil {
		r = io.NewSectionReader(src.section, 0, src.section.Size())
	}
	hdr, _, err := ltx.PeekHeader(r)
	return hdr, err
}

// reader returns a reader of the whole source.
func (src *source) reader() io.Reader {
	if src.section != nil {
		return io.NewSectionReader(src.section, 0, src.section.Size())
	}
	return io.MultiReader(bytes.NewReader(src.first), spender{src})
}

// size returns how large a buffer of at most limit bytes is worth while: one
// byte more than is in it, so that its end is seen at once.
func (src *source) size(limit int64) int64 {
	if src.section != nil {
		return min(limit, src.section.Size()+1)
	}
	return limit
}

func grow(buf []byte, size int64) []byte {
	if int64(len(buf)) >= size {
		return buf
	}
	return make([]byte, size)
}

type spender struct{ src *source }

func (s spender) Read(p []byte) (int, error) {
	s.src.spent = true
	return s.src.rest.Read(p)
}

// upload is one file on its way to its name.
type upload struct {
	client    *ReplicaClient
	cn        *connection
	session   *session
	tmp, dst  string
	modTime   time.Time
	exclusive bool

	mu   sync.Mutex // held by the call that works with the file
	file *sftp.File
}

// run sends the source and returns its size. If it fails nothing stays behind,
// unless the connection is lost.
func (u *upload) run(ctx context.Context, src *source) (size int64, err error) {
	defer func() {
		if err != nil {
			u.discard()
		}
	}()
	r := src.reader()
	// A call that was given up may go on with the buffer, which is used again
	// after one that succeeded only.
	part := make([]byte, src.size(packetSize))
	for ; ; part = grow(part, src.size(partSize)) {
		n, err := io.ReadFull(r, part)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return size, &finalError{fmt.Errorf("read file: %w", err)}
		}
		offset := size
		err = u.call(ctx, func(client *sftp.Client) error {
			return u.send(ctx, client, part[:n], offset, end)
		})
		size += int64(n)
		if err != nil || end {
			return size, err
		}
	}
}

// call is session.call for one that works with the file.
func (u *upload) call(ctx context.Context, fn func(client *sftp.Client) error) error {
	return u.session.call(ctx, func(client *sftp.Client) error {
		u.mu.Lock()
		defer u.mu.Unlock()
		return fn(client)
	})
}

// send writes a part; with the first one it creates the file, and after the
// last one it gives the file its name.
func (u *upload) send(ctx context.Context, client *sftp.Client, part []byte, offset int64, end bool) error {
	var made []string
	if u.file == nil {
		var err error
		if made, err = u.create(client); err != nil {
			return fmt.Errorf("create temporary file: %w", err)
		}
	}
	if len(part) > 0 {
		if _, err := u.file.WriteAt(part, offset); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	if err := u.syncNames(client, made); err != nil {
		return err
	}
	if !end {
		return nil
	}
	if err := u.finish(client); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err // nobody waits for the file any more
	}
	if err := u.publish(client); err != nil {
		return err
	}
	u.tmp = ""
	return u.syncDir(client, path.Dir(u.dst))
}

// create creates the temporary file, and the folders above it that are
// missing, which it returns.
func (u *upload) create(client *sftp.Client) (made []string, err error) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	u.file, err = client.OpenFile(u.tmp, flags)
	if errors.Is(err, fs.ErrNotExist) {
		if made, err = makeDirs(client, path.Dir(u.tmp)); err == nil {
			u.file, err = client.OpenFile(u.tmp, flags)
		}
	}
	if err != nil {
		u.file = nil
	}
	return made, err
}

// finish makes bytes and times durable, and closes the file. The times are set
// before the file gets its name, so that no listing sees others.
func (u *upload) finish(client *sftp.Client) error {
	if err := client.Chtimes(u.tmp, u.modTime, u.modTime); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	if _, ok := client.HasExtension(extFsync); ok {
		if err := u.file.Sync(); err != nil {
			return fmt.Errorf("sync: %w", err)
		}
	}
	f := u.file
	u.file = nil
	if err := f.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// publish gives the temporary file its name.
func (u *upload) publish(client *sftp.Client) error {
	if u.exclusive {
		return u.publishExclusive(client)
	}
	if _, ok := client.HasExtension(extPosixRename); ok {
		return client.PosixRename(u.tmp, u.dst)
	}
	err := client.Rename(u.tmp, u.dst)
	if !isRefused(err) || !exists(client, u.dst) {
		return err
	}
	// The protocol's own rename replaces nothing on this server.
	if err := client.Remove(u.dst); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return client.Rename(u.tmp, u.dst)
}

// publishExclusive gives the file its name unless that is taken.
func (u *upload) publishExclusive(client *sftp.Client) error {
	l := u.session.link
	if _, ok := client.HasExtension(extHardlink); ok && !l.noHardlink.Load() {
		err := client.Link(u.tmp, u.dst)
		if err == nil {
			return client.Remove(u.tmp)
		}
		if !isRefused(err) {
			return err
		}
		if exists(client, u.dst) {
			return fs.ErrExist
		}
		l.noHardlink.Store(true)
	}
	if u.cn.unconditional.CompareAndSwap(false, true) {
		u.client.logger.Load().Warn("sftp server makes no hard links, a second writer of this replica may go unnoticed",
			"host", u.cn.key.addr)
	}
	if exists(client, u.dst) {
		return fs.ErrExist
	}
	err := client.Rename(u.tmp, u.dst)
	if isRefused(err) && exists(client, u.dst) {
		return fs.ErrExist
	}
	return err
}

// discard removes the temporary file, after the call that works with it. It
// does not wait.
func (u *upload) discard() {
	s := u.session.hold()
	ok := s.link.spawn(func() {
		defer s.release()
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.file != nil {
			_ = u.file.Close() // it is removed
		}
		if u.tmp != "" {
			_ = s.channel.client.Remove(u.tmp) // what stays is swept later
		}
	})
	if !ok {
		s.release()
	}
}

// makeDirs creates a folder and those above it that are missing. It returns
// those that were missing, the highest first.
func makeDirs(client *sftp.Client, dir string) (made []string, err error) {
	err = client.Mkdir(dir)
	if parent := path.Dir(dir); errors.Is(err, fs.ErrNotExist) && parent != dir {
		if made, err = makeDirs(client, parent); err != nil {
			return nil, err
		}
		err = client.Mkdir(dir)
	}
	if err == nil {
		return append(made, dir), nil
	}
	// It is there already, or another writer was faster.
	if fi, statErr := client.Stat(dir); statErr != nil {
		return nil, fmt.Errorf("make folder %s: %w", dir, err)
	} else if !fi.IsDir() {
		return nil, &refusal{err: fmt.Errorf("%s is not a folder", dir), hint: "a part of the replica's path is a file"}
	}
	return append(made, dir), nil
}

// syncNames makes the names of new folders durable.
func (u *upload) syncNames(client *sftp.Client, made []string) error {
	for _, dir := range made {
		if err := u.syncDir(client, path.Dir(dir)); err != nil {
			return err
		}
	}
	return nil
}

// syncDir makes the names in a folder durable, as far as the server can. That
// of OpenSSH opens a folder like a file, on systems that do.
func (u *upload) syncDir(client *sftp.Client, dir string) error {
	l := u.session.link
	if _, ok := client.HasExtension(extFsync); !ok || l.noDirSync.Load() {
		return nil
	}
	f, err := client.Open(dir)
	if err == nil {
		err = f.Sync()
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}
	return u.noFolderSync(dir, err)
}

// noFolderSync takes a refusal for what the server cannot do.
func (u *upload) noFolderSync(dir string, err error) error {
	if isRefused(err) || errors.Is(err, fs.ErrPermission) {
		u.session.link.noDirSync.Store(true)
		u.client.logger.Load().Debug("sftp server does not sync folders", "host", u.cn.key.addr, "folder", dir, "error", err)
		return nil
	}
	return err
}

// isRefused reports whether the server answered with a refusal that has no
// meaning of its own.
func isRefused(err error) bool {
	_, ok := errors.AsType[*sftp.StatusError](err)
	return ok
}

func exists(client *sftp.Client, name string) bool {
	_, err := client.Lstat(name)
	return err == nil
}
