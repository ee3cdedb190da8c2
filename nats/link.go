package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

const (
	// DefaultResponseTimeout is how long a server may owe an answer.
	DefaultResponseTimeout = 30 * time.Second

	idleTimeout  = time.Minute     // after which a connection that nobody uses is closed
	pingTimeout  = 5 * time.Second // of a server that owed an answer
	reconnecting = 5 * time.Second // that an operation waits for a lost connection

	// Pings of a quiet connection, as in Litestream v0.5.
	pingInterval = 2 * time.Minute
	maxPingsOut  = 2
)

var (
	// errLost is a connection that broke.
	errLost = errors.New("connection to the server was lost")

	// errSilent is an answer that did not come.
	errSilent = errors.New("server did not answer in time")
)

// deniedError is a subject that the user may not use. The server says so of no
// request in particular.
type deniedError struct{ text, subject string }

// Error returns the server's text.
func (e *deniedError) Error() string { return e.text }

// link is one connection of the library, which gets it back by itself when it
// is lost, for as often as it is told. Once it gives up, the link is of no use.
type link struct {
	options Options
	logger  *slog.Logger
	nc      *natsgo.Conn
	gone    chan struct{} // closed when the library gave up, or was closed

	mu      sync.Mutex // guards the rest; never held across I/O
	up      chan struct{}
	waiters map[*waiter]struct{}
	users   int
	used    time.Time
	idle    *time.Timer
	lost    bool
}

// waiter is a request whose answer is awaited.
type waiter struct {
	subject string
	cancel  context.CancelCauseFunc
}

// dial connects and logs in.
func dial(o Options, logger *slog.Logger) (*link, error) {
	l := &link{
		options: o, logger: logger, gone: make(chan struct{}), up: make(chan struct{}),
		waiters: make(map[*waiter]struct{}), used: time.Now(),
	}
	close(l.up)
	opts, err := o.library()
	if err != nil {
		return nil, err
	}
	opts.DisconnectedErrCB = func(_ *natsgo.Conn, err error) { l.down(err) }
	opts.ReconnectedCB = func(*natsgo.Conn) { l.back() }
	opts.ClosedCB = func(nc *natsgo.Conn) { l.end(nc.LastError()) }
	opts.AsyncErrorCB = func(_ *natsgo.Conn, _ *natsgo.Subscription, err error) { l.trouble(err) }
	nc, err := opts.Connect()
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	l.mu.Lock()
	l.nc = nc
	l.idle = time.AfterFunc(idleTimeout, l.closeIdle)
	l.mu.Unlock()
	return l, nil
}

// down ends what waits for answers, which do not come any more.
func (l *link) down(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.up:
		l.up = make(chan struct{})
	default:
	}
	cause := errLost
	if err != nil {
		cause = fmt.Errorf("%w: %w", errLost, err)
	}
	for w := range l.waiters {
		w.cancel(cause)
	}
}

// back lets operations begin again.
func (l *link) back() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.up:
	default:
		close(l.up)
	}
}

// end is told that there is nothing to wait for.
func (l *link) end(err error) {
	l.down(err)
	l.mu.Lock()
	l.lost = true
	if l.idle != nil {
		l.idle.Stop()
	}
	l.mu.Unlock()
	close(l.gone)
}

var deniedSubject = regexp.MustCompile(`(?i)(?:publish|subscription) to "([^" ]+)"`)

// trouble is told of what the server complains about.
func (l *link) trouble(err error) {
	if !errors.Is(err, natsgo.ErrPermissionViolation) {
		l.logger.Debug("message of the server", "error", err)
		return
	}
	m := deniedSubject.FindStringSubmatch(err.Error())
	if m == nil {
		return
	}
	denied := &deniedError{text: err.Error(), subject: m[1]}
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.waiters {
		if w.subject == denied.subject || strings.HasPrefix(denied.subject, natsgo.InboxPrefix) {
			w.cancel(denied)
		}
	}
}

// hold keeps the link from being closed as idle, until release. It returns
// false if the link is of no use any more.
func (l *link) hold() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return false
	}
	l.users++
	return true
}

func (l *link) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users--
	l.used = time.Now()
}

// ready waits a little for a connection that is being opened again. Who waited
// in vain does not try again: the library goes on by itself.
func (l *link) ready(ctx context.Context) error {
	l.mu.Lock()
	up := l.up
	l.mu.Unlock()
	select {
	case <-up:
		return nil
	default:
	}
	timer := time.NewTimer(reconnecting)
	defer timer.Stop()
	select {
	case <-up:
		return nil
	case <-l.gone:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := l.nc.LastError(); err != nil {
		return &finalError{fmt.Errorf("%w: %w", errLost, err)}
	}
	return &finalError{errLost}
}

// close closes the connection and waits until the library is done with it.
func (l *link) close() {
	l.nc.Close()
	<-l.gone
}

// closeIdle closes the connection when nobody used it for a while.
func (l *link) closeIdle() {
	l.mu.Lock()
	rest := idleTimeout - time.Since(l.used)
	if l.users > 0 {
		rest = idleTimeout
	}
	if rest > 0 || l.lost {
		if !l.lost {
			l.idle.Reset(rest)
		}
		l.mu.Unlock()
		return
	}
	l.lost = true
	l.mu.Unlock()
	l.nc.Close()
}

// await returns a context that ends when the answers to what is sent to subject
// will not come, with the reason as its cause. more begins the time to answer
// anew; done must be called.
func (l *link) await(ctx context.Context, subject string) (_ context.Context, more, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &waiter{subject: subject, cancel: cancel}
	l.mu.Lock()
	l.waiters[w] = struct{}{}
	l.mu.Unlock()
	timer := time.AfterFunc(l.options.ResponseTimeout, func() { cancel(errSilent) })
	return ctx, func() { timer.Reset(l.options.ResponseTimeout) }, func() {
		timer.Stop()
		l.mu.Lock()
		delete(l.waiters, w)
		l.mu.Unlock()
		cancel(nil)
	}
}

// explain returns why there was no answer. A server that does not answer at all
// any more is given up.
func (l *link) explain(parent, ctx context.Context, err error) error {
	if parent.Err() != nil {
		return parent.Err()
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, errSilent) && l.nc.IsConnected() {
		ctx, cancel := context.WithTimeout(parent, min(pingTimeout, l.options.ResponseTimeout))
		defer cancel()
		if l.nc.FlushWithContext(ctx) != nil && parent.Err() == nil {
			l.logger.Debug("the server does not answer, connecting again")
			_ = l.nc.ForceReconnect() // it is being done already, or closed
		}
	}
	return err
}

// ask sends a request and returns its answer.
func (l *link) ask(ctx context.Context, msg *natsgo.Msg) (*natsgo.Msg, error) {
	waiting, _, done := l.await(ctx, msg.Subject)
	defer done()
	answer, err := l.nc.RequestMsgWithContext(waiting, msg)
	if err != nil {
		return nil, l.explain(ctx, waiting, err)
	}
	return answer, nil
}

// askJSON sends a request of the JetStream API and reads its answer into resp,
// unless that is nil.
func (l *link) askJSON(ctx context.Context, subject string, req, resp any) error {
	data, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	msg, err := l.ask(ctx, &natsgo.Msg{Subject: subject, Data: data})
	if err != nil {
		return err
	}
	return readAnswer(msg.Data, resp)
}

// readAnswer reads the answer of JetStream to a request or to a message.
func readAnswer(data []byte, resp any) error {
	var failed struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(data, &failed); err != nil {
		return fmt.Errorf("decode answer of the server: %w", err)
	}
	if failed.Error != nil {
		return failed.Error
	}
	if resp == nil {
		return nil
	}
	if err := json.Unmarshal(data, resp); err != nil {
		return fmt.Errorf("decode answer of the server: %w", err)
	}
	return nil
}

// A talk is a row of requests to one subject of which several are under way.
type talk struct {
	link    *link
	parent  context.Context //nolint:containedctx // of the call that it is part of
	waiting context.Context //nolint:containedctx // ends when no answer will come
	more    func()
	done    func()
	subject string
	sub     *natsgo.Subscription
	answers chan *natsgo.Msg
}

// talk begins one. window bounds the answers that are due at a time.
func (l *link) talk(ctx context.Context, subject string, window int) (*talk, error) {
	t := &talk{
		link: l, parent: ctx, subject: subject,
		answers: make(chan *natsgo.Msg, window),
	}
	var err error
	if t.sub, err = l.nc.ChanSubscribe(natsgo.NewInbox(), t.answers); err != nil {
		return nil, fmt.Errorf("subscribe to answers: %w", err)
	}
	t.waiting, t.more, t.done = l.await(ctx, subject)
	return t, nil
}

// close ends the talk. Answers that come later are dropped.
func (t *talk) close() {
	t.done()
	_ = t.sub.Unsubscribe() // of a connection that is lost nothing is left
}

// send sends a request.
func (t *talk) send(data []byte) error {
	err := t.link.nc.PublishMsg(&natsgo.Msg{Subject: t.subject, Reply: t.sub.Subject, Data: data})
	if err != nil {
		return t.link.explain(t.parent, t.waiting, err)
	}
	return nil
}

// next returns the next answer. Answers come in any order.
func (t *talk) next() (*natsgo.Msg, error) {
	select {
	case msg := <-t.answers:
		t.more()
		if len(msg.Data) == 0 && msg.Header.Get(statusHeader) == statusNoResponders {
			return nil, natsgo.ErrNoResponders
		}
		return msg, nil
	case <-t.waiting.Done():
		return nil, t.link.explain(t.parent, t.waiting, context.Cause(t.waiting))
	}
}
