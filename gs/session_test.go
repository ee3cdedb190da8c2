package gs_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// sessionServer serves uploads that can be resumed, as the service documents
// them. fake-gcs-server has no answer to the question how much it has.
type sessionServer struct {
	*httptest.Server
	tb    testing.TB
	fault string // done to every second part: "cut", "lose", "storm"

	mu       sync.Mutex // guards all below
	parts    int
	faults   int
	kept     []byte
	done     []byte
	received int64 // bytes of content
	repeated int64 // bytes of it that were lost
}

func newSessionServer(tb testing.TB, fault string) *sessionServer {
	tb.Helper()
	s := &sessionServer{tb: tb, fault: fault}
	s.Server = httptest.NewServer(s)
	tb.Cleanup(s.Close)
	return s
}

func (s *sessionServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodPost {
		w.Header().Set("Location", s.URL+"/session")
		return
	}
	rng, total, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Content-Range"), "bytes "), "/")
	if rng == "*" {
		s.answer(w, total)
		return
	}
	s.parts++
	fault := s.fault
	if s.parts%2 == 0 {
		fault = ""
	}
	if fault != "" {
		s.faults++
	}
	var first, last int
	if _, err := fmt.Sscanf(rng, "%d-%d", &first, &last); err != nil || first != len(s.kept) || int64(last-first+1) != r.ContentLength {
		s.tb.Errorf("content range %q, length %d, the server has %d", rng, r.ContentLength, len(s.kept))
	}
	if total == "*" && r.ContentLength%(256<<10) != 0 {
		s.tb.Errorf("a part of %d bytes that is not the last", r.ContentLength)
	}
	if fault == "storm" {
		n, _ := io.Copy(io.Discard, r.Body)
		s.received += n
		s.repeated += n
		jsonError(w, http.StatusServiceUnavailable, "backendError", "busy")
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.tb.Error(err)
	}
	s.received += int64(len(body))
	if fault == "cut" { // only whole units survive
		keep := len(body) / 2 &^ (256<<10 - 1)
		s.repeated += int64(len(body) - keep)
		s.kept = append(s.kept, body[:keep]...)
		panic(http.ErrAbortHandler)
	}
	s.kept = append(s.kept, body...)
	if fault == "lose" {
		s.finish(total)
		panic(http.ErrAbortHandler)
	}
	s.answer(w, total)
}

// finish makes the object if all of it is there.
func (s *sessionServer) finish(total string) bool {
	if n, err := strconv.Atoi(total); err == nil && n == len(s.kept) {
		s.done = s.kept
	}
	return s.done != nil
}

func (s *sessionServer) answer(w http.ResponseWriter, total string) {
	if s.finish(total) {
		stored(w, s.done)
		return
	}
	if len(s.kept) > 0 {
		w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", len(s.kept)-1))
	}
	w.WriteHeader(http.StatusPermanentRedirect)
}
