package tailnet

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/state"
)

// KeyOptions say what an auth key allows.
type KeyOptions struct {
	Tags          []string      // that nodes get; they must exist
	Ephemeral     bool          // nodes are removed when they are gone
	Reusable      bool          // for more than one node
	Preauthorized bool          // recorded only: all devices are authorized
	Expiry        time.Duration // 0 means 90 days, the longest
}

// MintKey makes an auth key, as an administrator does in the admin console.
func (t *Tailnet) MintKey(opts KeyOptions) (string, error) {
	k, err := t.state.CreateKey(state.KeySpec{
		Description:   "console",
		Tags:          opts.Tags,
		Ephemeral:     opts.Ephemeral,
		Reusable:      opts.Reusable,
		Preauthorized: opts.Preauthorized,
		Expiry:        opts.Expiry,
	})
	return k.Secret, err
}

// NodeInfo is what the console shows of a node.
type NodeInfo struct {
	ID        string       `json:"id"`   // stable id, as in WhoIs
	Name      string       `json:"name"` // fully qualified, without a trailing dot
	Hostname  string       `json:"hostname"`
	Addrs     []netip.Addr `json:"addrs"`
	Tags      []string     `json:"tags"`
	Online    bool         `json:"online"`
	LastSeen  time.Time    `json:"lastSeen,omitzero"` // zero while online
	Ephemeral bool         `json:"ephemeral"`
	Services  []string     `json:"services"` // that it offers to host
}

// Nodes returns all nodes, oldest first.
func (t *Tailnet) Nodes() []NodeInfo {
	nodes := []NodeInfo{}
	for _, d := range t.state.Devices() {
		n := NodeInfo{
			ID:        string(d.ID),
			Name:      d.Name + "." + t.opts.Domain,
			Hostname:  d.Hostname,
			Addrs:     d.Addrs,
			Tags:      d.Tags,
			Online:    d.Online,
			LastSeen:  d.LastSeen,
			Ephemeral: d.Ephemeral,
		}
		for _, name := range d.Services {
			n.Services = append(n.Services, string(name))
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// ServiceInfo is what the console shows of a service.
type ServiceInfo struct {
	Name    string       `json:"name"`
	Addrs   []netip.Addr `json:"addrs"`
	Tags    []string     `json:"tags,omitempty"`
	Hosts   []string     `json:"hosts"`   // stable ids of the approved hosts, first come first
	Primary string       `json:"primary"` // stable id of the one that gets the traffic, "" if none
}

// Services returns all services, by name.
func (t *Tailnet) Services() []ServiceInfo {
	services := []ServiceInfo{}
	for _, s := range t.state.Services() {
		info := ServiceInfo{Name: string(s.Name), Addrs: s.Addrs, Tags: s.Tags, Hosts: []string{}, Primary: string(s.Primary)}
		for _, id := range s.Hosts {
			info.Hosts = append(info.Hosts, string(id))
		}
		services = append(services, info)
	}
	return services
}

// KeyRequest is the body of POST /console/keys.
type KeyRequest struct {
	Tags          []string `json:"tags"`
	Ephemeral     bool     `json:"ephemeral"`
	Reusable      bool     `json:"reusable"`
	Preauthorized bool     `json:"preauthorized"`
	ExpirySeconds int64    `json:"expirySeconds"` // 0 means 90 days
}

// KeyResponse is the answer to it.
type KeyResponse struct {
	Key string `json:"key"`
}

// OfflineRequest is the body of POST /console/nodes/{id}/offline.
type OfflineRequest struct {
	Offline bool `json:"offline"`
}

// routeConsole serves the stand-in of the admin console, for a harness that
// runs the tailnet in another process. Like the console's user, whoever can
// reach it may do everything, so the tailnet belongs on an address of its own.
//
//	POST /console/keys                KeyRequest  → KeyResponse
//	GET  /console/nodes                           → []NodeInfo
//	POST /console/nodes/{id}/offline  OfflineRequest
//	GET  /console/services                        → []ServiceInfo
func (t *Tailnet) routeConsole(mux *http.ServeMux) {
	mux.HandleFunc("POST /console/keys", t.consoleKey)
	mux.HandleFunc("GET /console/nodes", func(w http.ResponseWriter, _ *http.Request) { answer(w, t.Nodes(), nil) })
	mux.HandleFunc("GET /console/services", func(w http.ResponseWriter, _ *http.Request) { answer(w, t.Services(), nil) })
	mux.HandleFunc("POST /console/nodes/{id}/offline", func(w http.ResponseWriter, r *http.Request) {
		var req OfflineRequest
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&req)
		if err == nil {
			err = t.SetOffline(r.PathValue("id"), req.Offline)
		}
		answer(w, struct{}{}, err)
	})
}

func (t *Tailnet) consoleKey(w http.ResponseWriter, r *http.Request) {
	var req KeyRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&req); err != nil {
		answer(w, nil, err)
		return
	}
	if longest := int64(state.MaxKeyExpiry / time.Second); req.ExpirySeconds < 0 || req.ExpirySeconds > longest {
		answer(w, nil, errors.New("expirySeconds is out of range: want 0 to 90 days"))
		return
	}
	secret, err := t.MintKey(KeyOptions{
		Tags:          req.Tags,
		Ephemeral:     req.Ephemeral,
		Reusable:      req.Reusable,
		Preauthorized: req.Preauthorized,
		Expiry:        time.Duration(req.ExpirySeconds) * time.Second,
	})
	answer(w, KeyResponse{Key: secret}, err)
}

// answer answers with v, or with err if that isn't nil. A client that is gone
// misses nothing.
func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		status := http.StatusBadRequest
		if refusal, ok := errors.AsType[*state.Error](err); ok && refusal.Kind == state.NotFound {
			status = http.StatusNotFound
		}
		w.WriteHeader(status)
		v = map[string]string{"message": err.Error()}
	}
	_ = json.NewEncoder(w).Encode(v)
}
