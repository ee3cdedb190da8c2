package sdnotify

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Monotonic returns the state that dates a message by CLOCK_MONOTONIC, as
// systemd wants it beside Reloading (sd_notify(3)).
func Monotonic() string {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return ""
	}
	return fmt.Sprintf("MONOTONIC_USEC=%d", ts.Nano()/int64(time.Microsecond))
}
