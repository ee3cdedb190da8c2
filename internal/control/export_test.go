package control

import "time"

// Limits make a server's limits small enough to be met in a test. Zero fields
// stay as they are.
type Limits struct {
	Connections, Operations, Streams int
	Read, Write, Answer, Close       time.Duration
}

// WithLimits returns options with other limits.
func WithLimits(o Options, l Limits) Options {
	o.limits = limits{
		connections: l.Connections, operations: l.Operations, streams: l.Streams,
		readTimeout: l.Read, write: l.Write, answerGrace: l.Answer, closeGrace: l.Close,
	}
	return o
}

// MaxBodyBytes is the bound of a request's body.
const MaxBodyBytes = maxBodyBytes
