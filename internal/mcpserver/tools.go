package mcpserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Service does what the tools are for. Each method writes what the command of
// the same name prints. An empty config is the service's own configuration.
// The methods may be called at the same time.
type Service interface {
	Info(ctx context.Context, w io.Writer, config string) error
	Databases(ctx context.Context, w io.Writer, config string) error
	Status(ctx context.Context, w io.Writer, config, path string) error
	LTX(ctx context.Context, w io.Writer, config, path string) error
	Restore(ctx context.Context, w io.Writer, r *RestoreRequest) error
	Reset(ctx context.Context, w io.Writer, config, path string) error
	Version(ctx context.Context, w io.Writer) error
}

// Arguments of the tools; their names and types are those of Litestream v0.5.
type (
	configArgs struct {
		Config string `json:"config,omitempty" jsonschema:"Path of the configuration file. Optional: without it, that of the running daemon."`
	}
	statusArgs struct {
		configArgs
		Path string `json:"path,omitempty" jsonschema:"Path of one database. Optional."`
	}
	ltxArgs struct {
		configArgs
		Path string `json:"path" jsonschema:"Path of a database, or URL of a replica."`
	}
	resetArgs struct {
		configArgs
		Path string `json:"path" jsonschema:"Path of the database."`
	}
	versionArgs struct{}
)

// RestoreRequest are the arguments of a restore. They are those of the command
// line, as text.
type RestoreRequest struct {
	Config          string `json:"config,omitempty" jsonschema:"Path of the configuration file. Optional: without it, that of the running daemon."`
	Path            string `json:"path" jsonschema:"Path of a database, those of multi-db included, or URL of a replica."`
	Output          string `json:"o,omitempty" jsonschema:"File to write. It must not exist. Optional for the path of a database."`
	TXID            string `json:"txid,omitempty" jsonschema:"Restore up to this transaction, 16 hexadecimal digits. Optional."`
	Timestamp       string `json:"timestamp,omitempty" jsonschema:"Restore the state before this time, RFC 3339. Optional."`
	Parallelism     string `json:"parallelism,omitempty" jsonschema:"Requests in flight, a number. Optional."`
	IfDBNotExists   bool   `json:"if_db_not_exists,omitempty" jsonschema:"Do nothing if the file exists. Optional."`
	IfReplicaExists bool   `json:"if_replica_exists,omitempty" jsonschema:"Succeed if the replica holds no backup. Optional."`
}

const (
	// maxOutput bounds the text of one answer in bytes.
	maxOutput = 1 << 20
	// maxCalls bounds the tools that run at the same time.
	maxCalls = 8
	// readTimeout bounds a tool that only reads. A restore takes the time it
	// takes; it ends with the server.
	readTimeout = 2 * time.Minute
)

// addTools adds all tools to the server of one protocol.
func (s *Server) addTools(m *mcp.Server) {
	reads := func(name, title, description string) *mcp.Tool {
		no := false
		return &mcp.Tool{Name: name, Description: description, Annotations: &mcp.ToolAnnotations{
			Title: title, ReadOnlyHint: true, DestructiveHint: &no, IdempotentHint: true, OpenWorldHint: &no,
		}}
	}
	writes := func(name, title, description string, destructive bool) *mcp.Tool {
		no := false
		return &mcp.Tool{Name: name, Description: description, Annotations: &mcp.ToolAnnotations{
			Title: title, DestructiveHint: &destructive, OpenWorldHint: &no,
		}}
	}
	svc := s.service
	add(s, m, readTimeout, reads("litestream_info", "Summary", "Version, databases, their replication state and what their replicas hold, in one text."),
		func(ctx context.Context, w io.Writer, a *configArgs) error { return svc.Info(ctx, w, a.Config) })
	add(s, m, readTimeout, reads("litestream_databases", "Databases", "List the databases of the configuration and their replicas, those found by the patterns of multi-db included."),
		func(ctx context.Context, w io.Writer, a *configArgs) error { return svc.Databases(ctx, w, a.Config) })
	add(s, m, readTimeout, reads("litestream_status", "Status", "Show the replication state of the databases: path, status, local transaction and size of the log; of multi-db a summary, or the record of one database by its path."),
		func(ctx context.Context, w io.Writer, a *statusArgs) error {
			return svc.Status(ctx, w, a.Config, a.Path)
		})
	add(s, m, readTimeout, reads("litestream_ltx", "LTX files", "List the LTX files of a database's replica."),
		func(ctx context.Context, w io.Writer, a *ltxArgs) error { return svc.LTX(ctx, w, a.Config, a.Path) })
	add(s, m, readTimeout, reads("litestream_version", "Version", "Print the version of Litestream."),
		func(ctx context.Context, w io.Writer, _ *versionArgs) error { return svc.Version(ctx, w) })

	add(s, m, 0, writes("litestream_restore", "Restore", "Write a database from its replica, to a file that does not exist yet. Nothing is overwritten.", false), svc.Restore)
	add(s, m, readTimeout, writes("litestream_reset", "Reset", "Remove the local replication state of a database, so that the next sync captures it whole. The database and its replica stay as they are.", true),
		func(ctx context.Context, w io.Writer, a *resetArgs) error { return svc.Reset(ctx, w, a.Config, a.Path) })
}

// add adds one tool. Its answer is the text that it wrote, and behind it the
// error, as on a terminal.
func add[A any](s *Server, m *mcp.Server, timeout time.Duration, t *mcp.Tool, run func(context.Context, io.Writer, *A) error) {
	mcp.AddTool(m, t, func(ctx context.Context, _ *mcp.CallToolRequest, args A) (*mcp.CallToolResult, any, error) {
		select {
		case s.calls <- struct{}{}:
			defer func() { <-s.calls }()
		default:
			return nil, nil, fmt.Errorf("%d tools are running already: try again later", maxCalls)
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.run, cancel)() //nolint:contextcheck // the server's end is the call's, too
		if timeout > 0 {
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		start := time.Now()
		out := &limitedBuffer{left: maxOutput}
		err := run(ctx, out, &args)
		text := out.text()
		if err != nil {
			text += "Error: " + err.Error() + "\n"
		}
		s.logger.Info("mcp tool", "tool", t.Name, "duration", time.Since(start), "error", err)
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}, IsError: err != nil}, nil, nil
	})
}

// limitedBuffer keeps the beginning of a text.
type limitedBuffer struct {
	buf  bytes.Buffer
	left int
	cut  int // bytes that were dropped
}

// Write implements io.Writer and never fails.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.buf.Write(p[:n])
	b.left -= n
	b.cut += len(p) - n
	return len(p), nil
}

func (b *limitedBuffer) text() string {
	if b.cut == 0 {
		return b.buf.String()
	}
	return fmt.Sprintf("%s\n[%d more bytes are left out; the command line shows all]\n", b.buf.String(), b.cut)
}
