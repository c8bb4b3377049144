// Package admin answers as much of Envoy's admin interface as Envoy Gateway's readiness probe and shutdown manager
// and a harness call. Test equipment, never part of the product.
package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/events"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/stats"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/upstream"
)

// Server is what the admin interface shows and does.
type Server interface {
	State() adminv3.ServerInfo_State
	Clusters() []*upstream.Cluster // sorted by name
	Listeners() []Listener         // sorted by name
	ConfigDump() (*adminv3.ConfigDump, error)
	FailHealthCheck(fail bool)
	DrainListeners()
	Quit()
}

// Listener is a bound listener.
type Listener struct{ Name, Address string }

// Options configure a handler.
type Options struct {
	Server  Server
	Stats   *stats.Registry
	Events  *events.Log
	Node    *corev3.Node
	Version string // says that this is the stand-in
	Started time.Time
}

type handler struct{ Options }

// New returns the handler of the admin interface.
func New(opts Options) http.Handler {
	h := &handler{opts}
	routes := map[string]http.HandlerFunc{
		"GET /ready": h.ready, "GET /server_info": h.serverInfo, "GET /stats": h.stats, "GET /stats/prometheus": h.prometheus,
		"GET /clusters": h.clusters, "GET /listeners": h.listeners, "GET /config_dump": h.configDump,
		"GET /standin/events":    h.events,
		"POST /drain_listeners":  h.act(opts.Server.DrainListeners),
		"POST /healthcheck/fail": h.act(func() { opts.Server.FailHealthCheck(true) }),
		"POST /healthcheck/ok":   h.act(func() { opts.Server.FailHealthCheck(false) }),
		"POST /quitquitquit":     h.act(opts.Server.Quit),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Tailgate-Standin", "this is not Envoy but its stand-in in tests")
		// Envoy Gateway's shutdown manager asks for //stats, so no redirect may come in between.
		path := "/" + strings.Trim(r.URL.Path, "/")
		if f := routes[r.Method+" "+path]; f != nil {
			f(w, r)
			return
		}
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if routes[method+" "+path] != nil {
				http.Error(w, fmt.Sprintf("Method %s not allowed, %s required.", r.Method, method), http.StatusMethodNotAllowed)
				return
			}
		}
		http.Error(w, "invalid path; the stand-in has no such admin endpoint", http.StatusNotFound)
	})
}

func (h *handler) act(f func()) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		f()
		text(w, http.StatusOK, "OK\n")
	}
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprint(w, body) // a client that is gone does not want it
}

func (h *handler) ready(w http.ResponseWriter, _ *http.Request) {
	state := h.Server.State()
	status := http.StatusServiceUnavailable
	if state == adminv3.ServerInfo_LIVE {
		status = http.StatusOK
	}
	text(w, status, state.String()+"\n")
}

func (h *handler) serverInfo(w http.ResponseWriter, _ *http.Request) {
	up := durationpb.New(time.Since(h.Started).Truncate(time.Second))
	// LIVE is the enum's zero, which must be shown.
	writeProtoBy(protojson.MarshalOptions{Multiline: true, UseProtoNames: true, EmitDefaultValues: true}, w, &adminv3.ServerInfo{
		Version: h.Version, State: h.Server.State(), UptimeCurrentEpoch: up, UptimeAllEpochs: up, Node: h.Node,
		CommandLineOptions: &adminv3.CommandLineOptions{ServiceCluster: h.Node.GetCluster(), ServiceNode: h.Node.GetId()},
	})
}

func writeProto(w http.ResponseWriter, m proto.Message) {
	writeProtoBy(protojson.MarshalOptions{Multiline: true, UseProtoNames: true}, w, m)
}

func writeProtoBy(opts protojson.MarshalOptions, w http.ResponseWriter, m proto.Message) {
	b, err := opts.Marshal(m)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n')) // a client that is gone does not want it
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that is gone does not want it
}

func (h *handler) stats(w http.ResponseWriter, r *http.Request) {
	filter, err := filterOf(r)
	if err != nil {
		text(w, http.StatusBadRequest, err.Error()+"\n")
		return
	}
	switch format := r.URL.Query().Get("format"); format {
	case "prometheus":
		h.prometheus(w, r)
	case "json":
		type stat struct {
			Name  string `json:"name"`
			Value int64  `json:"value"`
		}
		all := []stat{}
		for _, v := range h.Stats.All(filter) {
			all = append(all, stat{v.Name(), v.Get()})
		}
		writeJSON(w, map[string]any{"stats": all})
	case "", "text":
		var b strings.Builder
		for _, v := range h.Stats.All(filter) {
			fmt.Fprintf(&b, "%s: %d\n", v.Name(), v.Get())
		}
		text(w, http.StatusOK, b.String())
	default:
		text(w, http.StatusBadRequest, "usage: /stats?format=text|json|prometheus\n")
	}
}

func filterOf(r *http.Request) (*regexp.Regexp, error) {
	expr := r.URL.Query().Get("filter")
	if expr == "" {
		return nil, nil
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("invalid filter: %w", err)
	}
	return re, nil
}

func (h *handler) prometheus(w http.ResponseWriter, r *http.Request) {
	filter, err := filterOf(r)
	if err != nil {
		text(w, http.StatusBadRequest, err.Error()+"\n")
		return
	}
	var b strings.Builder
	if err := h.Stats.WritePrometheus(&b, filter); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	text(w, http.StatusOK, b.String())
}

func (h *handler) listeners(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("format") == "json" {
		all := []map[string]string{}
		for _, l := range h.Server.Listeners() {
			all = append(all, map[string]string{"name": l.Name, "local_address": l.Address})
		}
		writeJSON(w, map[string]any{"listener_statuses": all})
		return
	}
	var b strings.Builder
	for _, l := range h.Server.Listeners() {
		fmt.Fprintf(&b, "%s::%s\n", l.Name, l.Address)
	}
	text(w, http.StatusOK, b.String())
}

func (h *handler) configDump(w http.ResponseWriter, _ *http.Request) {
	dump, err := h.Server.ConfigDump()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeProto(w, dump)
}

func (h *handler) events(w http.ResponseWriter, _ *http.Request) { writeJSON(w, h.Events.All()) }
