package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/pkg/sftp"
)

// maxSmall is the size in bytes up to which a file is sent in batches. It fits
// the window that OpenSSH gives a session before it reads anything.
const maxSmall = 256 << 10

// errStepByStep means that a file has to be sent step by step: its folder is
// missing, or the server makes no hard links there. Nothing stays behind.
var errStepByStep = errors.New("send it step by step")

// isSmall reports whether a source can be sent in batches. Only a server that
// syncs files is trusted to do one thing after another: OpenSSH, and those that
// are made to be like it.
func (u *upload) isSmall(src *source) bool {
	client, l := u.session.channel.client, u.session.link
	if src.section == nil || src.section.Size() > maxSmall || !l.key.concurrentWrites {
		return false
	}
	_, syncs := client.HasExtension(extFsync)
	if u.exclusive {
		_, links := client.HasExtension(extHardlink)
		return syncs && links && !l.noHardlink.Load()
	}
	_, replaces := client.HasExtension(extPosixRename)
	return syncs && replaces
}

// runSmall is run for a small file: three round trips instead of ten.
func (u *upload) runSmall(ctx context.Context, src *source) (int64, error) {
	data, err := io.ReadAll(src.reader())
	if err != nil {
		return 0, &finalError{fmt.Errorf("read file: %w", err)}
	}
	b := &smallUpload{upload: u, wire: u.session.channel.wire}
	err = u.session.call(ctx, func(client *sftp.Client) error {
		err := b.send(ctx, client, data)
		return errors.Join(err, b.closeAll(err))
	})
	return int64(len(data)), err
}

// smallUpload is an upload in batches. It belongs to one call.
type smallUpload struct {
	*upload
	wire *wire

	handle, dir string // handles of file and folder that are open on the server; "" if none
	created     bool   // and not renamed or removed
}

// closeAll leaves nothing open on the server, and no temporary file after an
// error. That it fails changes nothing: what stays is swept later.
func (b *smallUpload) closeAll(err error) error {
	var requests []request
	for _, handle := range []string{b.handle, b.dir} {
		if handle != "" {
			requests = append(requests, ofName(fxpClose, handle))
		}
	}
	if b.created {
		requests = append(requests, ofName(fxpRemove, b.tmp))
	}
	if len(requests) == 0 || isBroken(err) {
		return nil
	}
	_, err = b.wire.batch(requests...)
	return err
}

// send stores the data under its name.
func (b *smallUpload) send(ctx context.Context, client *sftp.Client, data []byte) error {
	if err := b.open(); err != nil {
		return err
	}
	if err := b.fill(data); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err // nobody waits for the file any more
	}
	return b.publish(client)
}

// open creates the temporary file, and opens its folder, so that the new name
// can be made durable.
func (b *smallUpload) open() error {
	l := b.session.link
	requests := []request{openRequest(b.tmp, fxfWrite|fxfCreate|fxfExcl)}
	if !l.noDirSync.Load() {
		requests = append(requests, openRequest(path.Dir(b.dst), fxfRead))
	}
	answers, err := b.wire.batch(requests...)
	if err != nil {
		return err
	}
	b.handle, err = answers[0].handle()
	b.created = err == nil
	if len(answers) > 1 {
		var dirErr error
		b.dir, dirErr = answers[1].handle()
		if err == nil {
			err = b.noFolderSync(path.Dir(b.dst), dirErr)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return errStepByStep
	} else if err != nil {
		return fmt.Errorf("create temporary file: %w", err)
	}
	return nil
}

// fill writes the file, and makes bytes and times durable.
func (b *smallUpload) fill(data []byte) error {
	var requests []request
	var steps []string
	add := func(step string, r request) { requests, steps = append(requests, r), append(steps, step) }
	for offset := 0; offset < len(data); offset += packetSize {
		add("write", writeRequest(b.handle, offset, data[offset:min(len(data), offset+packetSize)]))
	}
	add("set times", timesRequest(b.handle, b.modTime))
	add("sync", extendedRequest(extFsync, b.handle))
	add("close", ofName(fxpClose, b.handle))
	b.handle = ""
	answers, err := b.wire.batch(requests...)
	if err != nil {
		return err
	}
	for i, a := range answers {
		if err := a.status(); err != nil {
			return fmt.Errorf("%s: %w", steps[i], err)
		}
	}
	return nil
}

// publish gives the file its name, and makes that durable.
func (b *smallUpload) publish(client *sftp.Client) error {
	requests := []request{extendedRequest(extPosixRename, b.tmp, b.dst)}
	if b.exclusive {
		requests = []request{extendedRequest(extHardlink, b.tmp, b.dst), ofName(fxpRemove, b.tmp)}
	}
	naming := len(requests)
	if b.dir != "" {
		requests = append(requests, extendedRequest(extFsync, b.dir), ofName(fxpClose, b.dir))
		b.dir = ""
	}
	answers, err := b.wire.batch(requests...)
	if err != nil {
		return err
	}
	err = answers[0].status()
	b.created = err != nil && !b.exclusive // a link was refused, and the file removed
	if b.exclusive && isRefused(err) {
		if exists(client, b.dst) {
			return fs.ErrExist
		}
		b.session.link.noHardlink.Store(true)
		return errStepByStep
	}
	if err == nil && b.exclusive {
		err = answers[1].status()
	}
	for _, a := range answers[naming:] {
		if err == nil {
			err = b.noFolderSync(path.Dir(b.dst), a.status())
		}
	}
	return err
}
