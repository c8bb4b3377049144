package admin

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/state"
)

func (a *API) routeKeys() {
	a.handle("GET /api/v2/tailnet/{tailnet}/keys", "auth_keys", a.listKeys)
	a.handle("POST /api/v2/tailnet/{tailnet}/keys", "auth_keys", a.createKey)
	a.handle("GET /api/v2/tailnet/{tailnet}/keys/{id}", "", a.getKey)
	a.handle("DELETE /api/v2/tailnet/{tailnet}/keys/{id}", "auth_keys", a.deleteKey)
}

// keyCapabilities is what a key allows, in the shape of the API.
type keyCapabilities struct {
	Devices struct {
		Create struct {
			Reusable      bool     `json:"reusable"`
			Ephemeral     bool     `json:"ephemeral"`
			Preauthorized bool     `json:"preauthorized"`
			Tags          []string `json:"tags"`
		} `json:"create"`
	} `json:"devices"`
}

type keyJSON struct {
	ID            string          `json:"id"`
	KeyType       string          `json:"keyType"`
	Key           string          `json:"key,omitempty"`
	Description   string          `json:"description"`
	ExpirySeconds int64           `json:"expirySeconds"`
	Created       time.Time       `json:"created"`
	Expires       time.Time       `json:"expires"`
	Revoked       time.Time       `json:"revoked,omitzero"`
	Invalid       bool            `json:"invalid"`
	Capabilities  keyCapabilities `json:"capabilities"`
	Tags          []string        `json:"tags,omitempty"`
}

func (a *API) keyToJSON(k state.Key) keyJSON {
	out := keyJSON{
		ID:            k.ID,
		KeyType:       "auth",
		Key:           k.Secret,
		Description:   k.Description,
		ExpirySeconds: int64(k.Expires.Sub(k.Created) / time.Second),
		Created:       k.Created.UTC(),
		Expires:       k.Expires.UTC(),
		Invalid:       !k.Usable(a.cfg.Now()),
		Tags:          k.Tags,
	}
	if !k.Revoked.IsZero() {
		out.Revoked = k.Revoked.UTC()
	}
	create := &out.Capabilities.Devices.Create
	create.Reusable, create.Ephemeral, create.Preauthorized, create.Tags = k.Reusable, k.Ephemeral, k.Preauthorized, k.Tags
	return out
}

// clientToJSON tells of an OAuth client or federated identity.
func clientToJSON(c Client) any {
	kind := "client"
	if c.Subject != "" {
		kind = "federated"
	}
	return struct {
		ID      string    `json:"id"`
		KeyType string    `json:"keyType"`
		Expires time.Time `json:"expires,omitzero"`
		Scopes  []string  `json:"scopes"`
		Tags    []string  `json:"tags,omitempty"`
	}{c.ID, kind, c.Expires.UTC(), c.Scopes, c.Tags}
}

func (a *API) listKeys(*call) (any, error) {
	type id struct {
		ID string `json:"id"`
	}
	ids := []id{}
	for _, k := range a.cfg.State.Keys() {
		ids = append(ids, id{k.ID})
	}
	return map[string]any{"keys": ids}, nil
}

func (a *API) createKey(c *call) (any, error) {
	var body struct {
		KeyType       string          `json:"keyType"`
		Capabilities  keyCapabilities `json:"capabilities"`
		ExpirySeconds int64           `json:"expirySeconds"`
		Description   string          `json:"description"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.KeyType != "" && body.KeyType != "auth" {
		return nil, invalid("keyType %q is not supported by this stand-in: configure its OAuth clients instead", body.KeyType)
	}
	if body.ExpirySeconds < 0 || body.ExpirySeconds > math.MaxInt64/int64(time.Second) {
		return nil, invalid("expirySeconds %d is out of range", body.ExpirySeconds)
	}
	create := body.Capabilities.Devices.Create
	if err := a.mayGive(c, create.Tags); err != nil {
		return nil, err
	}
	k, err := a.cfg.State.CreateKey(state.KeySpec{
		Description:   body.Description,
		Tags:          create.Tags,
		Ephemeral:     create.Ephemeral,
		Reusable:      create.Reusable,
		Preauthorized: create.Preauthorized,
		Expiry:        time.Duration(body.ExpirySeconds) * time.Second,
	})
	if err != nil {
		return nil, err
	}
	return a.keyToJSON(k), nil
}

// mayGive checks that the caller may hand these tags on: an OAuth client can
// only make tagged keys, of its own tags and of those that these own. Source:
// https://tailscale.com/kb/1215/oauth-clients
func (a *API) mayGive(c *call, tags []string) error {
	if c.caller.anyTag {
		return nil
	}
	if len(tags) == 0 {
		return invalid("tailnet-owned auth key must have tags set")
	}
	for _, t := range tags {
		if !slices.Contains(c.caller.tags, t) && !a.cfg.State.Owns(c.caller.tags, t) {
			return invalid("requested tags [%s] are invalid or not permitted", t)
		}
	}
	return nil
}

// getKey tells of an auth key, or of the client that calls: of itself, each one
// may know.
func (a *API) getKey(c *call) (any, error) {
	if id := c.PathValue("id"); id == c.caller.client {
		client, ok := a.auth.client(id)
		if !ok {
			return nil, &state.Error{Kind: state.NotFound, Message: fmt.Sprintf("key %q not found", id)}
		}
		return clientToJSON(client), nil
	}
	if !c.caller.may("auth_keys", true) {
		return nil, errScope("auth_keys")
	}
	k, err := a.cfg.State.Key(c.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return a.keyToJSON(k), nil
}

func (a *API) deleteKey(c *call) (any, error) {
	if err := a.cfg.State.RevokeKey(c.PathValue("id")); err != nil {
		return nil, err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil, nil
}

func invalid(format string, args ...any) error {
	return &state.Error{Kind: state.Invalid, Message: fmt.Sprintf(format, args...)}
}
