package tailnet

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	tsapi "tailscale.com/client/tailscale/v2"
)

// Scope is a permission of an OAuth client or federated identity.
type Scope string

// The scopes that the hub needs, all with write access.
const (
	ScopeServices Scope = "services"
	ScopeAuthKeys Scope = "auth_keys"
	ScopeDevices  Scope = "devices:core"
)

// Scopes returns what the hub needs.
func Scopes() []Scope { return []Scope{ScopeServices, ScopeAuthKeys, ScopeDevices} }

// Info is what a tailnet says about itself.
type Info struct {
	// MagicDNSSuffix is what the names of nodes and VIPs end in; "" if the tailnet has no node yet.
	MagicDNSSuffix string
	// Devices counts the devices that the credentials see.
	Devices int
	// VIPs are the names (svc:...) of the Tailscale Services that are VIPs of this federation, sorted. Untagged are those of
	// them that have other tags than they should.
	VIPs, Untagged []string
	// Expires is when the OAuth client or federated identity expires. It is zero where the API does not say, and where it
	// never does.
	Expires time.Time
}

// Validate checks that the credentials work and have the scopes that the hub needs, by one read each; it makes no auth
// key. Whether they may write what they may read is known only where the API tells about the credentials. If scopes are
// missing, the error is a [MissingScopesError] with all of them, and Info has what could be read.
func (a *API) Validate(ctx context.Context) (Info, error) {
	info, missing, err := a.aboutClient(ctx, Info{})
	if err != nil {
		return Info{}, err
	}
	for _, s := range Scopes() {
		switch info, err = a.Look(ctx, s, info); {
		case errors.Is(err, ErrForbidden):
			missing.Scopes = append(missing.Scopes, s)
			if e, ok := errors.AsType[*Error](err); ok {
				missing.Message = e.Message
			}
		case err != nil:
			return Info{}, err
		}
	}
	if len(missing.Scopes)+len(missing.ReadOnly) > 0 {
		missing.ReadOnly = slices.DeleteFunc(missing.ReadOnly, func(s Scope) bool { return slices.Contains(missing.Scopes, s) })
		return info, missing
	}
	return info, nil
}

// Look makes the one read of a tailnet that a scope allows, and returns was with what it tells. Where the scope is
// missing, the error wraps [ErrForbidden].
func (a *API) Look(ctx context.Context, s Scope, was Info) (Info, error) {
	switch s {
	case ScopeServices:
		services, err := a.client.VIPServices().List(ctx)
		if err != nil {
			return was, said(err, "list services (scope %s)", s)
		}
		was.VIPs, was.Untagged = a.count(services)
	case ScopeAuthKeys:
		if _, err := a.client.Keys().List(ctx, false); err != nil {
			return was, said(err, "list auth keys (scope %s)", s)
		}
	case ScopeDevices:
		devices, err := a.client.Devices().List(ctx)
		if err != nil {
			return was, said(err, "list devices (scope %s)", s)
		}
		was.Devices = len(devices)
		if suffix := suffixOf(devices); suffix != "" {
			was.MagicDNSSuffix = suffix
		}
	}
	return was, nil
}

// VIPNames returns the names (svc:...) of the Tailscale Services that are VIPs of this federation, sorted.
func (a *API) VIPNames(ctx context.Context) ([]string, error) {
	info, err := a.Look(ctx, ScopeServices, Info{})
	return info.VIPs, err
}

func (a *API) count(services []tsapi.VIPService) (mine, untagged []string) {
	for _, s := range services {
		if !a.mine(s) {
			continue
		}
		mine = append(mine, s.Name)
		if !a.tagged(s) {
			untagged = append(untagged, s.Name)
		}
	}
	slices.Sort(mine)
	slices.Sort(untagged)
	return mine, untagged
}

func suffixOf(devices []tsapi.Device) string {
	for _, d := range devices {
		if _, suffix, ok := strings.Cut(strings.TrimSuffix(d.Name, "."), "."); ok {
			return suffix
		}
	}
	return ""
}

// aboutClient reads what the API tells about the credentials themselves: any scope allows that, says Tailscale. Where it
// does not tell, it is not asked again.
func (a *API) aboutClient(ctx context.Context, was Info) (Info, *MissingScopesError, error) {
	missing := &MissingScopesError{}
	if a.mute.Load() {
		return was, missing, nil
	}
	key, err := a.client.Keys().Get(ctx, a.options.ClientID)
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrForbidden), errors.Is(err, ErrRejected):
		a.mute.Store(true)
		return was, missing, nil
	case err != nil:
		return was, missing, said(err, "read about the client %s", a.options.ClientID)
	}
	was.Expires = key.Expires
	for _, s := range Scopes() {
		if readOnly(key.Scopes, s) {
			missing.ReadOnly = append(missing.ReadOnly, s)
		}
	}
	return was, missing, nil
}

// readOnly reports whether granted scopes let somebody read what s is about, but not write it. Where they say nothing of
// it, it is not known.
func readOnly(granted []string, s Scope) bool {
	group, _, _ := strings.Cut(string(s), ":")
	names := []string{"all", string(s), group}
	reads := slices.ContainsFunc(granted, func(g string) bool {
		name, ok := strings.CutSuffix(g, ":read")
		return ok && slices.Contains(names, name)
	})
	return reads && !slices.ContainsFunc(granted, func(g string) bool { return slices.Contains(names, g) })
}

// NextCall is when the API may be called again, after it asked for a rest or was in trouble; zero is at once. Calls before
// it fail without a request.
func (a *API) NextCall() time.Time {
	a.gate.mu.Lock()
	defer a.gate.mu.Unlock()
	return a.gate.until
}
