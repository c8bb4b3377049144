package control

import (
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/state"
)

// register decides on a registration, and passes it on if the node is welcome.
func (c *session) register(w http.ResponseWriter, r *http.Request) {
	var req tailcfg.RegisterRequest
	if !readRequest(w, r, &req) {
		return
	}
	if req.Version == 0 || req.NodeKey.IsZero() || req.Hostinfo == nil {
		http.Error(w, "bad request: version, node key or hostinfo missing", http.StatusBadRequest)
		return
	}
	st, log := c.server.cfg.State, c.server.cfg.Logger.With("hostname", req.Hostinfo.Hostname)
	switch {
	case req.Followup != "":
		<-r.Context().Done() // nobody ever visits a login page here
		return
	case !req.Expiry.IsZero() && req.Expiry.Before(time.Now()):
		st.Logout(req.NodeKey, c.machine)
		log.Debug("node logged out")
		writeJSON(w, tailcfg.RegisterResponse{MachineAuthorized: true})
		return
	case st.Admit(req.NodeKey, c.machine).Blocked:
		http.Error(w, unavailable, http.StatusServiceUnavailable)
		return
	}
	reg := state.Registration{
		NodeKey:    req.NodeKey,
		OldNodeKey: req.OldNodeKey,
		Machine:    c.machine,
		Ephemeral:  req.Ephemeral,
		Hostinfo:   req.Hostinfo,
	}
	if req.Auth != nil {
		reg.AuthKey = req.Auth.AuthKey
		req.Auth = nil
	}
	switch verdict := st.Register(reg); {
	case verdict.Refusal != "":
		log.Info("node refused", "reason", verdict.Refusal)
		writeJSON(w, tailcfg.RegisterResponse{Error: verdict.Refusal})
		return
	case verdict.NeedsLogin:
		log.Info("node needs login")
		writeJSON(w, tailcfg.RegisterResponse{MachineAuthorized: true, AuthURL: c.server.cfg.URL + "/a/" + rand.Text()})
		return
	case !verdict.Rotated:
		// The test server would take the old key for the same device.
		req.OldNodeKey = key.NodePublic{}
	}
	c.admit(w, r, &req, log)
}

// admit passes a registration on, and records what the test server assigned.
// If that fails, the node's next attempt needs no auth key.
func (c *session) admit(w http.ResponseWriter, r *http.Request, req *tailcfg.RegisterRequest, log *slog.Logger) {
	res, err := c.forward(r.Context(), r.URL.Path, req)
	if err != nil {
		if r.Context().Err() == nil {
			log.Error("registration failed", "error", err)
		}
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	if node := c.server.upstream.Node(req.NodeKey); node != nil {
		c.server.cfg.State.Settle(req.NodeKey, node.ID, node.Addresses)
	}
	if _, err := io.Copy(w, res.Body); err != nil {
		log.Debug("node went away", "error", err)
	}
}
