package admin

import (
	"net/http"
	"net/netip"

	"tailscale.com/tailcfg"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/state"
)

func (a *API) routeServices() {
	a.handle("GET /api/v2/tailnet/{tailnet}/vip-services", "services", a.listServices)
	a.handle("GET /api/v2/tailnet/{tailnet}/vip-services/{name}", "services", a.getService)
	a.handle("PUT /api/v2/tailnet/{tailnet}/vip-services/{name}", "services", a.putService)
	a.handle("DELETE /api/v2/tailnet/{tailnet}/vip-services/{name}", "services", a.deleteService)
	const approved = "/api/v2/tailnet/{tailnet}/services/{name}/device/{id}/approved"
	a.handle("GET "+approved, "services", a.getApproval)
	a.handle("POST "+approved, "services", a.approve)
}

type serviceJSON struct {
	Name        tailcfg.ServiceName `json:"name,omitempty"`
	Addrs       []string            `json:"addrs,omitempty"`
	Comment     string              `json:"comment,omitempty"`
	Annotations map[string]string   `json:"annotations,omitempty"`
	Ports       []string            `json:"ports,omitempty"`
	Tags        []string            `json:"tags,omitempty"`
}

func serviceToJSON(s state.Service) serviceJSON {
	out := serviceJSON{Name: s.Name, Comment: s.Comment, Annotations: s.Annotations, Ports: s.Ports, Tags: s.Tags}
	for _, addr := range s.Addrs {
		out.Addrs = append(out.Addrs, addr.String())
	}
	return out
}

func (a *API) listServices(*call) (any, error) {
	out := []serviceJSON{}
	for _, s := range a.cfg.State.Services() {
		out = append(out, serviceToJSON(s))
	}
	return map[string]any{"vipServices": out}, nil
}

func (a *API) getService(c *call) (any, error) {
	s, err := a.cfg.State.Service(c.PathValue("name"))
	if err != nil {
		return nil, err
	}
	return serviceToJSON(s), nil
}

func (a *API) putService(c *call) (any, error) {
	var body serviceJSON
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	name := tailcfg.ServiceName(c.PathValue("name"))
	if body.Name != "" && body.Name != name {
		return nil, invalid("service name %q in the body differs from %q in the path", body.Name, name)
	}
	want := state.Service{Name: name, Comment: body.Comment, Annotations: body.Annotations, Ports: body.Ports, Tags: body.Tags}
	for _, addr := range body.Addrs {
		ip, err := netip.ParseAddr(addr)
		if err != nil {
			return nil, invalid("address %q is invalid", addr)
		}
		want.Addrs = append(want.Addrs, ip)
	}
	s, err := a.cfg.State.PutService(want)
	if err != nil {
		return nil, err
	}
	return serviceToJSON(s), nil
}

func (a *API) deleteService(c *call) (any, error) {
	if err := a.cfg.State.DeleteService(c.PathValue("name")); err != nil {
		return nil, err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil, nil
}

type approvalJSON struct {
	Approved     bool `json:"approved"`
	AutoApproved bool `json:"autoApproved"`
}

func (a *API) getApproval(c *call) (any, error) {
	got, err := a.cfg.State.Approval(c.PathValue("name"), c.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return approvalJSON(got), nil
}

func (a *API) approve(c *call) (any, error) {
	var body struct {
		Approved *bool `json:"approved"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.Approved == nil {
		return nil, invalid("field approved is missing")
	}
	got, err := a.cfg.State.Approve(c.PathValue("name"), c.PathValue("id"), *body.Approved)
	if err != nil {
		return nil, err
	}
	return approvalJSON(got), nil
}
