package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/benbjohnson/litestream/internal/control"
)

var listHelp = help{
	about: "list shows the databases of a running daemon, those of multi-db included, and when each was last synced.",
	forms: []string{"list [arguments]"},
	flags: [][2]string{
		{"-filter GLOB", "Only paths that match. A pattern that does not begin with a slash\nmatches at any depth."},
		{"-limit N", "At most so many databases. If there are more, the last line, or the\nkey next of the JSON, tells what goes on with -after."},
		{"-after CURSOR", "Go on behind a list that -limit cut."},
		rawFlag, socketFlag, timeoutFlag(defaultQueryTimeout),
	},
	notes: `The status is replicating, open (without a replica) or stopped; a database of
multi-db may also be failed, with the reason, or deleted.`,
	examples: []string{"list", "list -json", "list -filter '/data/p1/**' -limit 100", "list -socket /tmp/litestream.sock"},
}

func (a *app) runList(ctx context.Context, args []string) (err error) {
	var c client
	fs := a.newFlagSet("litestream-list", &listHelp)
	c.register(fs, defaultQueryTimeout)
	query := make(url.Values)
	for _, name := range []string{"filter", "after"} {
		fs.Func(name, name, func(v string) error { query.Set(name, v); return nil })
	}
	limit := fs.Uint("limit", 0, "limit")
	if err := fs.Parse(args); err != nil {
		return err
	} else if fs.NArg() > 0 {
		return errTooManyArguments
	} else if err := c.check(); err != nil {
		return err
	}
	if *limit > 0 {
		query.Set("limit", strconv.FormatUint(uint64(*limit), 10))
	}
	target := "/list"
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	body, err := c.do(ctx, "list", http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	bw := bufio.NewWriter(a.stdout)
	var out listOutput = &textListing{w: bw}
	if c.asJSON {
		out = &jsonListing{list: jsonListWriter[control.Database]{w: bw, indent: "    "}, w: bw}
	}
	err = eachListed(body, out)
	return errors.Join(err, bw.Flush())
}

// listOutput prints databases as they come.
type listOutput interface {
	write(db *control.Database) error
	end(next string) error
}

// eachListed reads {"databases":[…],"next":"…"} and hands it on element by
// element: no list is ever in memory as a whole.
func eachListed(r io.Reader, out listOutput) error {
	dec := json.NewDecoder(r)
	err := eachKey(dec, func() error {
		for dec.More() {
			var db control.Database
			if err := dec.Decode(&db); err != nil {
				return err
			}
			if err := out.write(&db); err != nil {
				return err
			}
		}
		_, err := dec.Token() // the end of the list
		return err
	}, out.end)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the list is not complete: %w", io.ErrUnexpectedEOF)
	} else if err != nil {
		return fmt.Errorf("read answer of the daemon: %w", err)
	}
	return nil
}

// eachKey walks through the object: list is called at the begin of the list,
// end with the value of next behind all.
func eachKey(dec *json.Decoder, list func() error, end func(next string) error) error {
	if _, err := dec.Token(); err != nil { // {
		return err
	}
	var next string
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		switch key {
		case "databases":
			if _, err = dec.Token(); err == nil { // [
				err = list()
			}
		case "next":
			err = dec.Decode(&next)
		default:
			var skip json.RawMessage
			err = dec.Decode(&skip)
		}
		if err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil { // }
		return err
	}
	return end(next)
}

// textListing prints one line for each database.
type textListing struct {
	w io.Writer
	n int
}

func (t *textListing) write(db *control.Database) error {
	t.n++
	last := "never"
	if db.LastSyncAt != nil {
		last = db.LastSyncAt.Format(time.RFC3339)
	}
	line := fmt.Sprintf("%s [%s] (last sync: %s)", printable(db.Path), db.Status, last)
	if db.Error != "" {
		line += ": " + db.Error
	}
	_, err := fmt.Fprintln(t.w, line)
	return err
}

func (t *textListing) end(next string) error {
	var err error
	switch {
	case next != "":
		_, err = fmt.Fprintf(t.w, "There are more: -after %s\n", next)
	case t.n == 0:
		_, err = fmt.Fprintln(t.w, "No databases configured")
	}
	return err
}

// jsonListing prints the answer of the daemon, indented.
type jsonListing struct {
	w    io.Writer
	list jsonListWriter[control.Database]
	n    int
}

func (j *jsonListing) write(db *control.Database) error {
	if j.n++; j.n == 1 {
		if _, err := io.WriteString(j.w, "{\n  \"databases\": "); err != nil {
			return err
		}
	}
	return j.list.write(db)
}

func (j *jsonListing) end(next string) error {
	text := "\n  ]"
	if j.n == 0 {
		text = "{\n  \"databases\": []"
	}
	if next != "" {
		data, err := json.Marshal(next)
		if err != nil {
			return err
		}
		text += ",\n  \"next\": " + string(data)
	}
	_, err := io.WriteString(j.w, text+"\n}\n")
	return err
}
