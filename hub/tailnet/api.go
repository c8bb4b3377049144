package tailnet

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/time/rate"
	tsapi "tailscale.com/client/tailscale/v2"
)

// DefaultBaseURL is Tailscale's own API.
const DefaultBaseURL = "https://api.tailscale.com"

const (
	callTimeout = time.Minute
	// callsPerSecond and callBurst bound what a hub asks for. Tailscale does not say what it allows; where it is less, its 429
	// counts.
	callsPerSecond = 30
	callBurst      = 60
)

// APIOptions say which tailnet is managed, by whom. ClientID and Federation are required, and one of ClientSecret and
// IdentityToken.
type APIOptions struct {
	// BaseURL is DefaultBaseURL by default.
	BaseURL string
	// Tailnet is the tailnet's name in calls. The default "-" is the one of the credentials.
	Tailnet string
	// ClientID is the OAuth client's, or the federated identity's.
	ClientID string
	// ClientSecret is the OAuth client's. It is never logged and part of no error.
	ClientSecret string
	// IdentityToken returns a token by which the federated identity knows the hub.
	IdentityToken func(context.Context) (string, error)
	// Federation tells the VIPs of this federation from those of others on the same tailnet. It must not change.
	Federation string
	// Tags are what every VIP and every node that joins by one of the API's keys gets.
	Tags []string
	// Transport is for tests; the default is a transport of the API's own that honours the proxy of the environment.
	Transport http.RoundTripper
	// Now is the clock, Sleep waits on it; the defaults are the real ones.
	Now   func() time.Time
	Sleep func(context.Context, time.Duration) error
}

// API manages a tailnet by Tailscale's admin API. Its methods may be called concurrently; their errors wrap the kinds
// in this package.
type API struct {
	options APIOptions
	base    *url.URL
	http    *http.Client
	client  *tsapi.Client
	gate    *gate
	reads   reads
	writing holds
	// mute is set once the API would not tell about the credentials themselves.
	mute atomic.Bool
}

// NewAPI returns an API. It makes no call.
func NewAPI(o APIOptions) (*API, error) {
	if o.ClientID == "" || (o.ClientSecret == "") == (o.IdentityToken == nil) || o.Federation == "" {
		return nil, errors.New("the admin API needs the federation's id, and either an OAuth client's id and secret or a federated identity's id and tokens")
	}
	o.BaseURL = cmp.Or(strings.TrimRight(o.BaseURL, "/"), DefaultBaseURL)
	o.Tailnet = cmp.Or(o.Tailnet, "-")
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Transport == nil {
		o.Transport = newTransport()
	}
	base, err := url.Parse(o.BaseURL)
	if err != nil || base.Host == "" || base.User != nil || base.Scheme != "http" && base.Scheme != "https" {
		return nil, errors.New("the address of the admin API must be an http or https URL without a user, such as " + DefaultBaseURL)
	}
	polite := &politeTransport{
		base: boundedTransport{o.Transport}, limiter: rate.NewLimiter(callsPerSecond, callBurst), now: o.Now, sleep: o.Sleep,
	}
	a := &API{options: o, base: base, gate: &polite.gate}
	a.http = &http.Client{
		Timeout: callTimeout,
		// An answer that redirects is an error: credentials go nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &authTransport{
			base: polite, now: o.Now, locked: make(chan struct{}, 1), source: newSource(o, base),
		},
	}
	a.client = &tsapi.Client{BaseURL: base, Tailnet: o.Tailnet, HTTP: a.http, UserAgent: "tailgate-hub"}
	a.reads.client = a.client
	return a, nil
}

func newSource(o APIOptions, base *url.URL) tokenSource {
	if o.IdentityToken != nil {
		return &federatedIdentity{clientID: o.ClientID, baseURL: o.BaseURL, identity: o.IdentityToken}
	}
	return &oauthClient{clientcredentials.Config{
		ClientID: o.ClientID, ClientSecret: o.ClientSecret, TokenURL: base.JoinPath("api/v2/oauth/token").String(),
		AuthStyle: oauth2.AuthStyleInParams, // as documented; to find it out would cost a refused call
	}}
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       90 * time.Second,
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// said returns err as the API's own error with what was being done, without the URL that net/http adds.
func said(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
		if _, ok := errors.AsType[*Error](err); !ok && e.Timeout() {
			err = &Error{Kind: ErrTimeout}
		}
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// KeyOptions say what an auth key allows.
type KeyOptions struct {
	// Tags are what the node will have, besides the API's own. A key without tags is refused.
	Tags []string
	// Ephemeral nodes vanish when they are gone.
	Ephemeral bool
	// Expiry is until when the key can be used, rounded up to seconds.
	Expiry time.Duration
	// Description is shown in the admin console. It is cut to what the API allows.
	Description string
}

// maxDescription is how many characters the API allows in a description.
const maxDescription = 50

// MintKey makes an auth key for one node and returns its secret.
func (a *API) MintKey(ctx context.Context, o KeyOptions) (string, error) {
	tags := sorted(slices.Concat(o.Tags, a.options.Tags))
	if len(tags) == 0 || o.Expiry <= 0 {
		return "", errors.New("mint an auth key: tags and an expiry are required")
	}
	req := tsapi.CreateKeyRequest{ExpirySeconds: int64((o.Expiry + time.Second - 1) / time.Second), Description: description(o.Description)}
	req.Capabilities.Devices.Create.Tags = tags
	req.Capabilities.Devices.Create.Ephemeral = o.Ephemeral
	req.Capabilities.Devices.Create.Preauthorized = true
	key, err := a.client.Keys().CreateAuthKey(ctx, req)
	if err != nil {
		return "", said(err, "mint an auth key with %v", tags)
	}
	if key.Key == "" {
		return "", errors.New("mint an auth key: the Tailscale API answered without one")
	}
	return key.Key, nil
}

// ErrForeignDevice reports a device that does not carry the tag it should.
var ErrForeignDevice = errors.New("not a device of this federation")

// DeleteDevice deletes the device with a stable node id, if it carries one of the tags. One that is gone is no error; one
// without them is left alone, and the error wraps [ErrForeignDevice].
func (a *API) DeleteDevice(ctx context.Context, nodeID string, tags ...string) error {
	device, err := a.client.Devices().Get(ctx, nodeID)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return said(err, "read the device %s", nodeID)
	}
	if !slices.ContainsFunc(device.Tags, func(t string) bool { return slices.Contains(tags, t) }) {
		return fmt.Errorf("delete the device %s (%s): %w: it carries none of %v", nodeID, device.Name, ErrForeignDevice, tags)
	}
	if err := a.client.Devices().Delete(ctx, nodeID); err != nil && !errors.Is(err, ErrNotFound) {
		return said(err, "delete the device %s (%s)", nodeID, device.Name)
	}
	return nil
}

// description keeps what the API allows: letters, digits, '-' and spaces.
func description(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, s)
	return s[:min(len(s), maxDescription)]
}

// ApproveHost lets a node host a VIP. The policy file's autoApprovers do the same beforehand.
func (a *API) ApproveHost(ctx context.Context, serviceName, nodeID string) (err error) {
	if serviceName == "" || nodeID == "" {
		return errors.New("approve a host: the names of the VIP and of the node are required")
	}
	target := a.base.JoinPath("api/v2/tailnet", url.PathEscape(a.options.Tailnet), "services", url.PathEscape("svc:"+serviceName),
		"device", url.PathEscape(nodeID), "approved")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader([]byte(`{"approved":true}`)))
	if err != nil {
		return fmt.Errorf("approve %s as host of %s: %w", nodeID, serviceName, err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := a.http.Do(req)
	if err != nil {
		return said(err, "approve %s as host of %s", nodeID, serviceName)
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	var answer struct {
		Approved bool `json:"approved"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return fmt.Errorf("approve %s as host of %s: read the answer: %w", nodeID, serviceName, err)
	}
	if !answer.Approved {
		return fmt.Errorf("approve %s as host of %s: the API took it and still does not approve", nodeID, serviceName)
	}
	return nil
}

// parseAddrs returns the addresses of a service, IPv4 first.
func parseAddrs(s tsapi.VIPService) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, text := range s.Addrs {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("%s has the address %q: %w", s.Name, text, err)
		}
		addrs = append(addrs, addr)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs, nil
}
