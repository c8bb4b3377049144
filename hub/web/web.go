// Package web answers questions about the hub over HTTP: is it alive, what did it decide and why, what is each member
// told. It is read-only.
package web

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// journalPage is how many records one answer has at the most.
const journalPage = 1000

// Hub is what the pages are made of.
type Hub interface {
	Next(ctx context.Context, c federation.ClusterID, epoch, version uint64) (linkstate.Update, error)
	Epoch() uint64
}

// Journal reads decisions.
type Journal interface {
	Journal(ctx context.Context, after uint64, limit int, service federation.ServiceID) ([]ledger.Record, error)
}

// Options are a handler's parts. All are required.
type Options struct {
	Hub     Hub
	Journal Journal
	Log     *slog.Logger
}

// Health answers that the process lives.
func Health() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { plain(w, "ok\n") })
}

// Ready answers with what the hub waits for, or why it does not serve any more. It is ready where that is nil.
func Ready(why func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := why(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		plain(w, "ok\n")
	})
}

// plain answers a client; one that has gone does not hear that it has.
func plain(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(text))
}

// Handler returns the handler:
//
//	GET /api/v1/journal?after=SEQ&service=Service/NAMESPACE/NAME
//	GET /api/v1/clusters/CLUSTER  what the member is told
func Handler(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/journal", o.journal)
	mux.HandleFunc("GET /api/v1/clusters/{cluster}", o.cluster)
	return mux
}

func (o Options) journal(w http.ResponseWriter, r *http.Request) {
	var (
		after   uint64
		service federation.ServiceID
		err     error
	)
	if v := r.FormValue("after"); v != "" {
		if after, err = strconv.ParseUint(v, 10, 64); err != nil {
			http.Error(w, "after: want a sequence number", http.StatusBadRequest)
			return
		}
	}
	if v := r.FormValue("service"); v != "" {
		if service, err = federation.ParseServiceID(v); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	records, err := o.Journal.Journal(r.Context(), after, journalPage, service)
	if err != nil {
		o.Log.Error("read the journal", "err", err)
		http.Error(w, "the journal cannot be read, see the hub's log", http.StatusInternalServerError)
		return
	}
	o.write(w, map[string]any{"records": records})
}

func (o Options) cluster(w http.ResponseWriter, r *http.Request) {
	c := federation.ClusterID(r.PathValue("cluster"))
	if err := c.Validate(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	u, err := o.Hub.Next(ctx, c, 0, 0)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	o.write(w, u)
}

func (o Options) write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		o.Log.Debug("answer not written", "err", err)
	}
}
