package servers

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy stands between a client and a server that speak over TCP, and breaks
// what a test asks for. It is safe for concurrent use, and gone when the test
// ends.
type Proxy struct {
	Addr string // where it listens, on loopback

	target string
	ln     net.Listener
	wg     sync.WaitGroup

	budget atomic.Int64 // bytes until all connections are cut; negative: no end
	cuts   atomic.Int64
	moved  atomic.Int64
	turns  atomic.Int64
	heard  atomic.Bool  // the server spoke last
	delay  atomic.Int64 // nanoseconds that each read waits
	wait   atomic.Pointer[chan struct{}]
	refuse atomic.Bool

	mu     sync.Mutex // guards the rest
	conns  map[net.Conn]struct{}
	closed bool
}

// NewProxy returns a proxy for the server at an address.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{Addr: ln.Addr().String(), target: target, ln: ln, conns: make(map[net.Conn]struct{})}
	p.budget.Store(-1)
	p.wg.Go(p.accept)
	tb.Cleanup(func() {
		p.Resume()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		_ = ln.Close() // nobody connects any more
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// CutAfter cuts all connections once so many more bytes went through, in both
// directions together. Connections made after that work again.
func (p *Proxy) CutAfter(bytes int64) { p.budget.Store(bytes) }

// Cut cuts all connections now.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // the other side sees a reset
		}
		_ = conn.Close() // it may have been closed before
	}
	clear(p.conns)
}

// Hang keeps every byte back until Resume, so that nobody answers any more.
func (p *Proxy) Hang() {
	ch := make(chan struct{})
	p.wait.CompareAndSwap(nil, &ch)
}

// Resume ends Hang.
func (p *Proxy) Resume() {
	if ch := p.wait.Swap(nil); ch != nil {
		close(*ch)
	}
}

// Refuse cuts all connections, and makes new ones end at once until it is called
// with false.
func (p *Proxy) Refuse(on bool) {
	p.refuse.Store(on)
	if on {
		p.Cut()
	}
}

// Delay makes every piece of data wait that long.
func (p *Proxy) Delay(d time.Duration) { p.delay.Store(int64(d)) }

// Cuts returns how often CutAfter has cut.
func (p *Proxy) Cuts() int { return int(p.cuts.Load()) }

// Moved returns how many bytes went through in both directions.
func (p *Proxy) Moved() int64 { return p.moved.Load() }

// Turns returns how often a client spoke after the server had: with one
// connection that does one thing at a time, the number of round trips.
func (p *Proxy) Turns() int { return int(p.turns.Load()) }

func (p *Proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return // closed
		}
		if p.refuse.Load() {
			_ = client.Close() // as if nobody listened
			continue
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close() // as if nobody listened
			continue
		}
		p.mu.Lock()
		ok := !p.closed
		if ok {
			p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		}
		p.mu.Unlock()
		if !ok {
			_ = client.Close()
			_ = server.Close()
			return
		}
		p.wg.Go(func() { p.pump(server, client, p.clientSpoke) })
		p.wg.Go(func() { p.pump(client, server, p.serverSpoke) })
	}
}

func (p *Proxy) serverSpoke() { p.heard.Store(true) }

func (p *Proxy) clientSpoke() {
	if p.heard.Swap(false) {
		p.turns.Add(1)
	}
}

// pump moves bytes one way until one side ends, and tells of each piece before
// it goes on.
func (p *Proxy) pump(dst, src net.Conn, spoke func()) {
	defer func() {
		_ = src.Close()
		_ = dst.Close()
		p.mu.Lock()
		delete(p.conns, src)
		delete(p.conns, dst)
		p.mu.Unlock()
	}()
	buf := make([]byte, 16<<10)
	for {
		n, err := src.Read(buf)
		if d := time.Duration(p.delay.Load()); d > 0 && n > 0 {
			<-time.NewTimer(d).C
		}
		if ch := p.wait.Load(); ch != nil {
			<-*ch
		}
		n, cut := p.spend(n)
		spoke()
		if _, werr := dst.Write(buf[:n]); err == nil {
			err = werr
		}
		p.moved.Add(int64(n))
		if cut {
			p.cuts.Add(1)
			p.Cut()
			return
		}
		if err != nil {
			return // a half-closed connection is none of these protocols' ways
		}
	}
}

// spend takes n bytes from the budget, and returns how many may pass.
func (p *Proxy) spend(n int) (pass int, cut bool) {
	for {
		left := p.budget.Load()
		switch {
		case left < 0:
			return n, false
		case int64(n) < left:
			if p.budget.CompareAndSwap(left, left-int64(n)) {
				return n, false
			}
		default:
			if p.budget.CompareAndSwap(left, -1) {
				return int(left), true
			}
		}
	}
}
