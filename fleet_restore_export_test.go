package litestream

import (
	"os"
	"time"
)

// SetKnobs replaces what users cannot set: what is free and in all on a file
// system, how long a batch waits for more, and what is told of each step.
func (opt *FleetRestoreOptions) SetKnobs(free func() (total, free uint64), linger time.Duration, step func(name string)) {
	opt.knobs = fleetRestoreKnobs{linger: linger, step: step}
	if free != nil {
		opt.knobs.space = func(*os.File) (s fleetSpace, err error) {
			s.total, s.free = free()
			s.noInodes = true
			return s, nil
		}
	}
}

// FleetTarget is fleetTarget.
var FleetTarget = fleetTarget
