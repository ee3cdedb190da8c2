package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// newMetricsRegistry returns a registry with the metrics of the Go runtime and
// of the process.
func newMetricsRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// metricsServer serves /metrics and /debug/pprof on the `addr` of the
// configuration. Anyone who reaches that address can read both.
type metricsServer struct {
	addr   string // empty for none
	server *http.Server
	logger *slog.Logger
	done   chan struct{}
}

func newMetricsServer(addr string, reg *prometheus.Registry, logger *slog.Logger) *metricsServer {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.InstrumentMetricHandler(reg, promhttp.HandlerFor(reg, promhttp.HandlerOpts{})))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return &metricsServer{
		addr:   addr,
		server: &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second},
		logger: logger,
	}
}

// open listens and serves. An address that cannot be bound is an error in the
// log and no more: backups matter more than metrics.
func (s *metricsServer) open(ctx context.Context) {
	if s.addr == "" {
		return
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", s.addr)
	if err != nil {
		s.logger.Error("cannot start metrics server", "addr", s.addr, "error", err)
		return
	}
	s.logger.Info("serving metrics on", "url", localURL(ln.Addr(), "/metrics"))
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		if err := s.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.logger.Error("metrics server stopped", "error", err)
		}
	}()
}

// localURL returns where a program on this host finds a path of a server.
func localURL(addr net.Addr, path string) string {
	host, port, err := net.SplitHostPort(addr.String())
	if ip := net.ParseIP(host); err != nil || ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port) + path
}

// close stops serving and waits for it.
func (s *metricsServer) close() {
	if s.done == nil {
		return
	}
	if err := s.server.Close(); err != nil {
		s.logger.Error("close metrics server", "error", err)
	}
	<-s.done
}
