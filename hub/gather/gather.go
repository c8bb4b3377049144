// Package gather makes the support bundle: what somebody needs who is to find out, from afar, what is wrong with a
// federation. It has what hub and spokes say of themselves, their objects, pods and logs, and what [verify.Judge] finds.
//
// A bundle has no secrets. Secrets are listed by their metadata alone, so that their data is never read; all else goes
// through a [Scrubber], which takes out what looks like a credential, wherever it stands.
package gather

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/hub/verify"
)

const (
	// timeout is for each thing that is asked.
	timeout = 30 * time.Second
	// records are how many decisions of the journal a bundle has, the newest.
	records = 5000
)

// Options say what a bundle is of.
type Options struct {
	// Verify says where the hub and the clusters are.
	Verify verify.Options
	// Version is the version of the tool that makes the bundle.
	Version string
	Now     time.Time
	// LogBytes bounds the log of each container, in bytes from its end.
	LogBytes int64
}

// Summary says what a bundle has.
type Summary struct {
	// Files are the paths in the archive, in its order.
	Files []string
	// Missing says what could not be had, and why. It stands in the bundle, too.
	Missing []string
	// Redacted counts what looked like a credential.
	Redacted int
}

// Write writes a bundle, a gzipped tar archive. That something cannot be had is no error, but is said in the summary: what is
// broken is what bundles are made for. It is an error if the archive cannot be written.
func Write(ctx context.Context, w io.Writer, o Options) (Summary, error) {
	g := &gatherer{Options: o, archive: newArchive(w, "tailgate-"+o.Now.UTC().Format("20060102T150405Z"), o.Now)}
	g.hub(ctx)
	g.findings(ctx)
	if m := o.Verify.Management; m != nil {
		g.cluster(ctx, "management", *m)
	}
	for _, m := range o.Verify.Members {
		g.cluster(ctx, "members/"+name(m.Context), m)
	}
	g.add("README.txt", []byte(g.readme()))
	slices.Sort(g.missing)
	err := g.archive.Close()
	return Summary{Files: g.archive.files, Missing: g.missing, Redacted: g.archive.scrubber.Redacted}, err
}

// name makes of a context's name one element of a path.
func name(context string) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune(`/\:*?"<>|`, r) {
			return '_'
		}
		return r
	}, context)
	return cmp.Or(strings.Trim(clean, "."), "_")
}

// gatherer gathers.
type gatherer struct {
	Options

	archive *archive
	missing []string
}

// miss notes that something cannot be had.
func (g *gatherer) miss(what string, err error) {
	g.missing = append(g.missing, g.archive.scrubber.Scrub(fmt.Sprintf("%s: %v", what, err)))
}

// add adds a file. That it cannot be written, Close says.
func (g *gatherer) add(path string, data []byte) { g.archive.add(path, data) }

// addJSON adds a value, or notes why there is none.
func (g *gatherer) addJSON(path string, v any, err error) {
	if err == nil {
		var data []byte
		if data, err = json.MarshalIndent(v, "", "  "); err == nil {
			g.add(path, append(data, '\n'))
			return
		}
	}
	g.miss(path, err)
}

// hub adds what the hub answers operators.
func (g *gatherer) hub(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	api, err := g.Verify.Hub(ctx)
	if err != nil {
		g.miss("hub", err)
		return
	}
	status, err := api.Status(ctx)
	g.addJSON("hub/status.json", status, err)
	vips, err := api.VIPs(ctx)
	g.addJSON("hub/vips.json", vips, err)
	services, err := api.Services(ctx)
	g.addJSON("hub/services.json", services, err)
	operations, err := api.Operations(ctx)
	g.addJSON("hub/operations.json", operations, err)
	journal, err := operator.Newest(ctx, api, operator.JournalQuery{}, records)
	g.addJSON("hub/journal.json", journal, err)
}

// findings adds what tailgate verify says.
func (g *gatherer) findings(ctx context.Context) {
	picture, err := verify.Look(ctx, g.Verify)
	if err != nil {
		g.miss("verify.json", err)
		return
	}
	g.addJSON("verify.json", verify.Judge(picture), nil)
}

func (g *gatherer) readme() string {
	var b strings.Builder
	fmt.Fprintf(&b, `A support bundle of Tailgate, made by tailgate gather %s on %s.

verify.json    what tailgate verify finds
hub/           what the hub answers: its members, VIPs, services, what operators want, and its newest decisions
management/    the management cluster, members/CONTEXT/ a member:
  version.json     of the API server
  objects/         objects as YAML, by kind; of Secrets only the metadata
  logs/            logs of the containers of the namespaces of Tailgate and Envoy Gateway; *.previous.log of those that ended
  spoke.json       what the spoke says of itself

What looks like a credential is replaced by %s. Names of clusters, namespaces, services and nodes, and addresses, are as they are.
`, g.Version, g.Now.UTC().Format(time.RFC3339), redacted)
	if len(g.missing) > 0 {
		b.WriteString("\nWhat could not be had:\n")
		for _, m := range slices.Sorted(slices.Values(g.missing)) {
			fmt.Fprintf(&b, "* %s\n", strings.ReplaceAll(m, "\n", " "))
		}
	}
	return b.String()
}
