package servers

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"sync/atomic"
	"testing/iotest"
)

// Answer makes the answers of a server that does not serve: a status with
// headers and a text. What the client sends is read first.
func Answer(status int, header http.Header, body string) HTTPFault {
	return func(_ *HTTPProxy, w http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			_, _ = io.WriteString(w, body)
		}
		return true
	}
}

// Lose serves a request and cuts the connection instead of answering.
func Lose(p *HTTPProxy, _ http.ResponseWriter, r *http.Request) bool {
	resp := p.forward(r, r.Body, r.ContentLength)
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	panic(http.ErrAbortHandler)
}

// CutUpload passes on a random part of what is uploaded. If declared is set the
// server learns the length of all of it, and finds a clean end too early; else
// it learns the length of the part, and what it answers is passed on.
func CutUpload(declared bool) HTTPFault {
	return func(p *HTTPProxy, w http.ResponseWriter, r *http.Request) bool {
		if r.ContentLength <= 1 || r.Method == http.MethodDelete || r.Method == "PROPFIND" {
			return false
		}
		part := p.below(r.ContentLength)
		length := part
		if declared {
			length = r.ContentLength
		}
		if part == 0 && !declared {
			part, length = 1, 1
		}
		resp := p.forward(r, io.LimitReader(r.Body, part), length)
		_, _ = io.Copy(io.Discard, r.Body)
		defer resp.Body.Close()
		p.copyHeader(w, r, resp, resp.ContentLength)
		_, _ = io.Copy(w, resp.Body)
		return true
	}
}

// CutDownload passes on a random part of an answer's body and ends the
// connection cleanly. If declared is set the client learns the length of all of
// it; else that of the part.
func CutDownload(declared bool) HTTPFault {
	return func(p *HTTPProxy, w http.ResponseWriter, r *http.Request) bool {
		resp := p.forward(r, r.Body, r.ContentLength)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		part := int64(len(body))
		cut := len(body) > 1 && resp.StatusCode/100 == 2
		if cut {
			part = p.below(part)
		}
		length := part
		if declared {
			length = int64(len(body))
		}
		if r.Method == http.MethodHead {
			length = resp.ContentLength
		}
		w.Header().Set("Connection", "close")
		p.copyHeader(w, r, resp, length)
		_, _ = w.Write(body[:part])
		return true
	}
}

// Sometimes does a fault to some requests: to percent of a hundred.
func Sometimes(percent int, f HTTPFault) HTTPFault {
	return func(p *HTTPProxy, w http.ResponseWriter, r *http.Request) bool {
		return p.below(100) < int64(percent) && f(p, w, r)
	}
}

// Next does a fault to the next n requests that match, and to none after them.
func Next(n int64, match func(*http.Request) bool, f HTTPFault) HTTPFault {
	var left atomic.Int64
	left.Store(n)
	return func(p *HTTPProxy, w http.ResponseWriter, r *http.Request) bool {
		return match(r) && left.Add(-1) >= 0 && f(p, w, r)
	}
}

// Method matches the requests with a method.
func Method(name string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == name }
}

// BreakUpload passes on half of what is uploaded and cuts both connections.
func BreakUpload(p *HTTPProxy, _ http.ResponseWriter, r *http.Request) bool {
	half := io.LimitReader(r.Body, r.ContentLength/2)
	resp := p.forward(r, io.MultiReader(half, iotest.ErrReader(io.ErrClosedPipe)), r.ContentLength)
	_ = resp.Body.Close() // of a server that did not wait for the rest
	panic(http.ErrAbortHandler)
}

// BreakDownload passes on half of an answer's body, then cuts the connection.
func BreakDownload(p *HTTPProxy, w http.ResponseWriter, r *http.Request) bool {
	p.halfAnswer(w, r)
	panic(http.ErrAbortHandler)
}

// StallDownload passes on half of an answer's body, and then nothing until the
// client gives up.
func StallDownload(p *HTTPProxy, w http.ResponseWriter, r *http.Request) bool {
	p.halfAnswer(w, r)
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// halfAnswer serves a request up to the middle of the answer's body.
func (p *HTTPProxy) halfAnswer(w http.ResponseWriter, r *http.Request) {
	resp := p.forward(r, r.Body, r.ContentLength)
	defer resp.Body.Close()
	p.copyHeader(w, r, resp, resp.ContentLength)
	_, _ = io.CopyN(w, resp.Body, resp.ContentLength/2)
	_ = http.NewResponseController(w).Flush()
}

// FlipUpload serves a request with another bit in the first byte of its body.
func FlipUpload(p *HTTPProxy, w http.ResponseWriter, r *http.Request) bool {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if len(body) > 0 {
		body[0] ^= 1
	}
	resp := p.forward(r, bytes.NewReader(body), r.ContentLength)
	defer resp.Body.Close()
	p.copyHeader(w, r, resp, resp.ContentLength)
	_, _ = io.Copy(w, resp.Body)
	return true
}

// FlipDownload serves a request and answers with another bit in the middle of
// the body.
func FlipDownload(p *HTTPProxy, w http.ResponseWriter, r *http.Request) bool {
	resp := p.forward(r, r.Body, r.ContentLength)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if len(body) > 0 {
		body[len(body)/2] ^= 1
	}
	p.copyHeader(w, r, resp, resp.ContentLength)
	_, _ = w.Write(body)
	return true
}
