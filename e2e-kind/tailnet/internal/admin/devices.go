package admin

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/state"
)

func (a *API) routeDevices() {
	a.handle("GET /api/v2/tailnet/{tailnet}/devices", "devices:core", a.listDevices)
	a.handle("GET /api/v2/device/{id}", "devices:core", a.getDevice)
	a.handle("DELETE /api/v2/device/{id}", "devices:core", func(c *call) (any, error) {
		return accepted, a.cfg.State.DeleteDevice(c.PathValue("id"))
	})
	a.handle("POST /api/v2/device/{id}/tags", "devices:core", a.setTags)
	a.handle("POST /api/v2/device/{id}/authorized", "devices:core", a.setAuthorized)
	a.handle("POST /api/v2/device/{id}/name", "devices:core", a.setName)
	a.handle("GET /api/v2/device/{id}/routes", "devices:routes", a.getRoutes)
	a.handle("POST /api/v2/device/{id}/routes", "devices:routes", a.setRoutes)
}

// accepted is the answer to a change that has nothing to tell.
var accepted = struct{}{}

type deviceJSON struct {
	Addresses          []netip.Addr `json:"addresses"`
	ID                 string       `json:"id"`
	NodeID             string       `json:"nodeId"`
	Name               string       `json:"name"`
	Hostname           string       `json:"hostname"`
	User               string       `json:"user"`
	OS                 string       `json:"os"`
	ClientVersion      string       `json:"clientVersion"`
	Created            time.Time    `json:"created"`
	ConnectedToControl bool         `json:"connectedToControl"`
	LastSeen           *time.Time   `json:"lastSeen,omitempty"`
	KeyExpiryDisabled  bool         `json:"keyExpiryDisabled"`
	Authorized         bool         `json:"authorized"`
	IsEphemeral        bool         `json:"isEphemeral"`
	IsExternal         bool         `json:"isExternal"`
	NodeKey            string       `json:"nodeKey"`
	Tags               []string     `json:"tags,omitempty"`

	// Only with fields=all.
	AdvertisedRoutes   []netip.Prefix    `json:"advertisedRoutes,omitempty"`
	EnabledRoutes      []netip.Prefix    `json:"enabledRoutes,omitempty"`
	ClientConnectivity *connectivityJSON `json:"clientConnectivity,omitempty"`
}

type connectivityJSON struct {
	Endpoints []netip.AddrPort `json:"endpoints"`
}

func (a *API) deviceToJSON(d state.Device, all bool) deviceJSON {
	out := deviceJSON{
		Addresses:          d.Addrs,
		ID:                 strconv.FormatInt(int64(d.LegacyID), 10),
		NodeID:             string(d.ID),
		Name:               d.Name + "." + a.cfg.Domain,
		Hostname:           d.Hostname,
		User:               "admin@" + a.cfg.Domain,
		OS:                 d.OS,
		ClientVersion:      d.Version,
		Created:            d.Created.UTC(),
		ConnectedToControl: d.Online,
		KeyExpiryDisabled:  true,
		Authorized:         d.Authorized,
		IsEphemeral:        d.Ephemeral,
		NodeKey:            d.NodeKey.String(),
		Tags:               d.Tags,
	}
	if !d.Online {
		seen := d.LastSeen.UTC()
		out.LastSeen = &seen
	}
	if all {
		out.AdvertisedRoutes, out.EnabledRoutes = d.AdvertisedRoutes, d.EnabledRoutes
		out.ClientConnectivity = &connectivityJSON{Endpoints: d.Endpoints}
	}
	return out
}

func (a *API) listDevices(c *call) (any, error) {
	query := c.URL.Query()
	all := query.Get("fields") == "all"
	query.Del("fields")
	out := []deviceJSON{}
	for _, d := range a.cfg.State.Devices() {
		ok, err := a.matches(d, query)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, a.deviceToJSON(d, all))
		}
	}
	return map[string]any{"devices": out}, nil
}

// matches applies the filters of a listing: all of them, each by any of its
// values.
func (a *API) matches(d state.Device, filters url.Values) (bool, error) {
	for name, want := range filters {
		var have []string
		switch name {
		case "hostname":
			have = []string{d.Hostname}
		case "name":
			have = []string{d.Name, d.Name + "." + a.cfg.Domain}
		case "os":
			have = []string{d.OS}
		case "tags":
			have = d.Tags
		case "isEphemeral":
			have = []string{strconv.FormatBool(d.Ephemeral)}
		case "authorized":
			have = []string{strconv.FormatBool(d.Authorized)}
		default:
			return false, invalid("filter %q is not supported by this stand-in", name)
		}
		if !slices.ContainsFunc(want, func(w string) bool { return slices.Contains(have, w) }) {
			return false, nil
		}
	}
	return true, nil
}

func (a *API) getDevice(c *call) (any, error) {
	d, err := a.cfg.State.Device(c.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return a.deviceToJSON(d, c.URL.Query().Get("fields") == "all"), nil
}

func (a *API) setTags(c *call) (any, error) {
	var body struct {
		Tags []string `json:"tags"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if err := a.mayGive(c, body.Tags); err != nil {
		return nil, err
	}
	return accepted, a.cfg.State.SetTags(c.PathValue("id"), body.Tags)
}

func (a *API) setAuthorized(c *call) (any, error) {
	var body struct {
		Authorized bool `json:"authorized"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	return accepted, a.cfg.State.SetAuthorized(c.PathValue("id"), body.Authorized)
}

func (a *API) setName(c *call) (any, error) {
	var body struct {
		Name string `json:"name"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	return accepted, a.cfg.State.SetName(c.PathValue("id"), body.Name)
}

type routesJSON struct {
	Advertised []netip.Prefix `json:"advertisedRoutes"`
	Enabled    []netip.Prefix `json:"enabledRoutes"`
}

func (a *API) getRoutes(c *call) (any, error) {
	d, err := a.cfg.State.Device(c.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return routesJSON{Advertised: d.AdvertisedRoutes, Enabled: d.EnabledRoutes}, nil
}

func (a *API) setRoutes(c *call) (any, error) {
	var body struct {
		Routes []string `json:"routes"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	var routes []netip.Prefix
	for _, r := range body.Routes {
		p, err := netip.ParsePrefix(r)
		if err != nil || p != p.Masked() {
			return nil, invalid("route %q is not a prefix with all host bits zero", r)
		}
		routes = append(routes, p)
	}
	if err := a.cfg.State.SetRoutes(c.PathValue("id"), routes); err != nil {
		return nil, err
	}
	return a.getRoutes(c)
}
