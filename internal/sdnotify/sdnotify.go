// Package sdnotify tells systemd how a service is: that it has started, what
// it does, that it still works and that it stops (sd_notify(3)). A program that
// systemd did not start tells nobody.
package sdnotify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// States that systemd knows. Status is followed by a text for people.
const (
	Ready     = "READY=1"
	Reloading = "RELOADING=1" // with Monotonic; Ready ends it
	Stopping  = "STOPPING=1"
	Alive     = "WATCHDOG=1"
	Status    = "STATUS="
)

// sendTimeout bounds one message: systemd may be too busy to read its socket.
const sendTimeout = 5 * time.Second

// A Notifier sends messages to systemd. The nil Notifier sends none. It is safe
// for concurrent use.
type Notifier struct {
	socket   string
	watchdog time.Duration
}

// FromEnvironment returns what the variables NOTIFY_SOCKET, WATCHDOG_USEC and
// WATCHDOG_PID ask of the process pid, nil if nothing.
func FromEnvironment(getenv func(string) string, pid int) (*Notifier, error) {
	n := &Notifier{socket: getenv("NOTIFY_SOCKET")}
	if n.socket == "" {
		return nil, nil
	}
	if n.socket[0] != '/' && n.socket[0] != '@' {
		return nil, fmt.Errorf("NOTIFY_SOCKET %q: must begin with / or @", n.socket)
	}
	usec, owner := getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID")
	if usec == "" || owner != "" && owner != strconv.Itoa(pid) {
		return n, nil
	}
	v, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || v <= 0 || v > int64(time.Duration(1<<63-1)/time.Microsecond) {
		return nil, fmt.Errorf("WATCHDOG_USEC %q: must be a number of microseconds above 0", usec)
	}
	n.watchdog = time.Duration(v) * time.Microsecond
	return n, nil
}

// Watchdog returns within which time systemd wants to see Alive again, before
// it takes the service for hung. Half of it is the usual interval. 0 is never.
func (n *Notifier) Watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Send tells systemd one or several states in one message.
func (n *Notifier) Send(ctx context.Context, states ...string) (err error) {
	if n == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	// Package net takes a leading @ for an abstract socket, as systemd does.
	conn, err := new(net.Dialer).DialContext(ctx, "unixgram", n.socket)
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetWriteDeadline(deadline); err != nil {
			return fmt.Errorf("notify systemd: %w", err)
		}
	}
	if _, err := conn.Write([]byte(strings.Join(states, "\n"))); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
