package admin

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/tailscale/hujson"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/state"
)

func (a *API) routePolicy() {
	a.handle("GET /api/v2/tailnet/{tailnet}/acl", "policy_file", a.getPolicy)
	a.handle("POST /api/v2/tailnet/{tailnet}/acl", "policy_file", a.setPolicy)
	a.handle("POST /api/v2/tailnet/{tailnet}/acl/validate", "policy_file", a.validatePolicy)
}

// getPolicy answers with the file as it was written, or as plain JSON if the
// caller asked for that.
func (a *API) getPolicy(c *call) (any, error) {
	text, etag := a.cfg.State.Policy()
	body, contentType := []byte(text), "application/hujson"
	if strings.Contains(c.Header.Get("Accept"), "application/json") {
		standard, err := hujson.Standardize(body)
		if err != nil {
			return nil, fmt.Errorf("standardize policy file: %w", err)
		}
		body, contentType = standard, "application/json"
	}
	c.w.Header().Set("ETag", strconv.Quote(etag))
	c.w.Header().Set("Content-Type", contentType)
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(body) // a client that is gone misses nothing
	return nil, nil
}

func (a *API) setPolicy(c *call) (any, error) {
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	if err := a.cfg.State.SetPolicy(string(body), strings.Trim(c.Header.Get("If-Match"), `"`)); err != nil {
		return nil, err
	}
	return a.getPolicy(c)
}

// validatePolicy answers 200 either way: with an empty object, or with what is
// wrong.
func (a *API) validatePolicy(c *call) (any, error) {
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	if err := state.ValidatePolicy(string(body)); err != nil {
		return map[string]string{"message": err.Error()}, nil
	}
	return struct{}{}, nil
}
