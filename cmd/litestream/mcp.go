package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/benbjohnson/litestream/internal/mcpserver"
)

// mcpService does for MCP clients what the commands do in a terminal, in this
// process. What a command prints on either stream is the answer.
type mcpService struct {
	config      string // path of the daemon's configuration file
	noExpandEnv bool
}

var _ mcpserver.Service = (*mcpService)(nil)

// command runs one command. Text that clients send is never read as a flag:
// options are joined with their flag, and operands stand behind "--".
func (s *mcpService) command(ctx context.Context, w io.Writer, run func(*app, context.Context, []string) error, options []string, operands ...string) error {
	out := &lockedWriter{w: w} // both streams, and goroutines that log
	a := &app{stdout: out, stderr: out, signals: noMoreSignals}
	args := append(options, "--")
	for _, o := range operands {
		if o != "" {
			args = append(args, o)
		}
	}
	return run(a, ctx, args)
}

// configOptions are the flags of a configuration: the client's, else the
// daemon's own, which its default would find as well.
func (s *mcpService) configOptions(config string) []string {
	if config == "" {
		config = s.config
	}
	options := []string{"-config=" + config}
	if s.noExpandEnv {
		options = append(options, "-no-expand-env")
	}
	return options
}

// replicaOptions are those of a command on a path or on the URL of a replica,
// which goes without a configuration.
func (s *mcpService) replicaOptions(config, path string) []string {
	if strings.Contains(path, "://") && config == "" {
		return nil
	}
	return s.configOptions(config)
}

// Databases implements mcpserver.Service.
func (s *mcpService) Databases(ctx context.Context, w io.Writer, config string) error {
	return s.command(ctx, w, (*app).runDatabases, s.configOptions(config))
}

// Status implements mcpserver.Service.
func (s *mcpService) Status(ctx context.Context, w io.Writer, config, path string) error {
	return s.command(ctx, w, (*app).runStatus, s.configOptions(config), path)
}

// LTX implements mcpserver.Service. It lists all levels, of which level 0 may
// hold nothing but the newest file.
func (s *mcpService) LTX(ctx context.Context, w io.Writer, config, path string) error {
	return s.command(ctx, w, (*app).runLTX, append(s.replicaOptions(config, path), "-level=all"), path)
}

// Restore implements mcpserver.Service.
func (s *mcpService) Restore(ctx context.Context, w io.Writer, r *mcpserver.RestoreRequest) error {
	options := s.replicaOptions(r.Config, r.Path)
	for _, o := range [][2]string{
		{"-o=", r.Output}, {"-txid=", r.TXID}, {"-timestamp=", r.Timestamp}, {"-parallelism=", r.Parallelism},
	} {
		if o[1] != "" {
			options = append(options, o[0]+o[1])
		}
	}
	if r.IfDBNotExists {
		options = append(options, "-if-db-not-exists")
	}
	if r.IfReplicaExists {
		options = append(options, "-if-replica-exists")
	}
	return s.command(ctx, w, (*app).runRestore, options, r.Path)
}

// Reset implements mcpserver.Service.
func (s *mcpService) Reset(ctx context.Context, w io.Writer, config, path string) error {
	return s.command(ctx, w, (*app).runReset, s.configOptions(config), path)
}

// Version implements mcpserver.Service.
func (s *mcpService) Version(ctx context.Context, w io.Writer) error {
	return s.command(ctx, w, (*app).runVersion, nil)
}

// infoReplicas is of how many databases a summary lists the replica's files.
const infoReplicas = 10

// Info implements mcpserver.Service. Of many databases it tells the state of
// all, and lists the files of the first few replicas.
func (s *mcpService) Info(ctx context.Context, w io.Writer, config string) error {
	printf(w, "Version: %s\n\nStatus:\n\n", currentVersion())
	if err := s.Status(ctx, w, config, ""); err != nil {
		return err
	}
	path := config
	if path == "" {
		path = s.config
	}
	cfg, err := readConfigFile(path, !s.noExpandEnv)
	if err != nil {
		return err
	}
	for i, db := range cfg.DBs {
		if i == infoReplicas {
			printf(w, "\n%d more databases: litestream_ltx lists the files of one\n", len(cfg.DBs)-i)
			break
		}
		printf(w, "\nLTX files of %s:\n\n", printable(db.Path))
		if err := s.LTX(ctx, w, config, db.Path); err != nil { // the others may be well
			printf(w, "Error: %v\n", err)
		}
	}
	return nil
}

// lockedWriter lets several goroutines write.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

// Write implements io.Writer.
func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// noMoreSignals is for commands inside a daemon, which has the signals.
func noMoreSignals() (<-chan os.Signal, func()) { return nil, func() {} }

// startMCP serves MCP clients, if the configuration has an address for them.
// An address that cannot be bound is an error in the log and no more: backups
// matter more. The server that is returned has to be closed.
func (r *replication) startMCP(ctx context.Context) *mcpserver.Server {
	// An address for MCP stands in a file, so that there is one.
	service := &mcpService{config: configPath(r.opts.conf.path), noExpandEnv: r.opts.conf.noExpandEnv}
	logger := r.logger.With("system", "mcp")
	server := mcpserver.New(service, logger)
	if r.cfg.MCPAddr == "" || r.opts.once {
		return server
	}
	listen, exposed, err := mcpserver.Address(r.cfg.MCPAddr)
	if err == nil {
		err = server.Open(ctx, listen)
	}
	if err != nil {
		logger.Error("cannot start mcp server", "addr", r.cfg.MCPAddr, "error", err)
		return server
	}
	logger.Info("serving mcp on", "url", localURL(server.Addr(), "/"))
	if exposed {
		logger.Warn("the mcp address can be reached from other machines, and everyone who reaches it can restore and reset databases: bind it to 127.0.0.1",
			"addr", server.Addr().String())
	}
	return server
}

// closeMCP ends what startMCP began.
func closeMCP(server *mcpserver.Server, logger *slog.Logger) {
	if err := server.Close(); err != nil {
		logger.Error("close mcp server", "error", err)
	}
}
