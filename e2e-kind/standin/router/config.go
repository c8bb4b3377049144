// Package router compiles Envoy route configurations and answers by them: which virtual host and route a request
// takes, and how path, host and headers are rewritten. Everything in it is immutable once compiled. Test equipment,
// never part of the product.
package router

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/strict"
)

// DefaultTimeout is Envoy's time limit for a route that sets none.
const DefaultTimeout = 15 * time.Second

// Config is a compiled RouteConfiguration.
type Config struct {
	Name              string
	hosts             []*VirtualHost
	byDomain          map[string]*VirtualHost
	ignorePort        bool
	mostSpecificFirst bool // the most specific header mutation is applied last and wins
	mutations         Mutations
}

// VirtualHost is a compiled virtual host.
type VirtualHost struct {
	Name          string
	AttemptCount  bool // tell the upstream the number of the attempt
	ResponseCount bool // tell the client the number of attempts
	routes        []*Route
	retry         *RetryPolicy
	mutations     Mutations
}

// Route is a compiled route. Exactly one of Redirect, Direct and Forward is set.
type Route struct {
	Name      string
	Redirect  *Redirect
	Direct    *Direct
	Forward   *Forward
	match     func(*http.Request) bool
	prefix    string // what prefix_rewrite replaces
	mutations Mutations
}

// Direct is a response that the proxy gives by itself.
type Direct struct {
	Status      int
	ContentType string
	body        template
}

// Body returns the response's body for a request.
func (d *Direct) Body(r *http.Request) string { return d.body.expand(r) }

// Forward sends the request to a cluster.
type Forward struct {
	NotFound    int           // the status if the cluster does not exist
	Timeout     time.Duration // 0: none
	IdleTimeout *time.Duration
	// MaxDuration bounds a whole stream; 0: not. GRPCTimeout is set where the deadline of grpc-timeout does so in its
	// place, and MaxGRPCTimeout is the longest that counts; 0: any.
	MaxDuration    time.Duration
	GRPCTimeout    bool
	MaxGRPCTimeout time.Duration
	Retry          *RetryPolicy
	Upgrades       map[string]bool // by lower-case protocol name: allowed or not
	AutoHost       bool            // the chosen endpoint's hostname becomes the Host
	Rewrite        PathRewrite

	clusters           []weighted
	total              uint32
	specify            specifier // in the place of clusters
	hostLiteral        string
	hostHeader         string
	appendOriginalHost bool
}

type weighted struct {
	name        string
	weight      uint32
	hostLiteral string
	mutations   Mutations
}

// Choice is what a request's route decided.
type Choice struct {
	Config  *Config
	VHost   *VirtualHost
	Route   *Route
	Cluster string // empty unless the route forwards
	target  *weighted
}

// Compile compiles a route configuration. Unsupported settings are named in the error.
func Compile(in *routev3.RouteConfiguration) (*Config, error) {
	if err := strict.Check(in); err != nil {
		return nil, err
	}
	c := &Config{
		Name: in.GetName(), byDomain: map[string]*VirtualHost{}, ignorePort: in.GetIgnorePortInHostMatching(),
		mostSpecificFirst: in.GetMostSpecificHeaderMutationsWins(),
	}
	var err error
	if c.mutations, err = compileMutations(in); err != nil {
		return nil, err
	}
	specifiers, err := compileSpecifiers(in)
	if err != nil {
		return nil, err
	}
	for _, v := range in.GetVirtualHosts() {
		host, err := compileHost(v, specifiers)
		if err != nil {
			return nil, fmt.Errorf("virtual host %s: %w", v.GetName(), err)
		}
		c.hosts = append(c.hosts, host)
		for _, d := range v.GetDomains() {
			d = strings.ToLower(d)
			if c.byDomain[d] != nil {
				return nil, fmt.Errorf("only unique values for domains are permitted: duplicate entry of domain %s in route configuration %s", d, in.GetName())
			}
			c.byDomain[d] = host
		}
	}
	return c, nil
}

func compileHost(in *routev3.VirtualHost, specifiers map[string]specifier) (*VirtualHost, error) {
	h := &VirtualHost{Name: in.GetName(), AttemptCount: in.GetIncludeRequestAttemptCount(), ResponseCount: in.GetIncludeAttemptCountInResponse()}
	var err error
	if h.mutations, err = compileMutations(in); err != nil {
		return nil, err
	}
	if h.retry, err = compileRetry(in.GetRetryPolicy()); err != nil {
		return nil, err
	}
	for i, r := range in.GetRoutes() {
		route, err := compileRoute(r, specifiers)
		if err != nil {
			return nil, fmt.Errorf("route %d %s: %w", i, r.GetName(), err)
		}
		if route.Forward != nil && route.Forward.Retry == nil {
			route.Forward.Retry = h.retry
		}
		h.routes = append(h.routes, route)
	}
	return h, nil
}

func compileRoute(in *routev3.Route, specifiers map[string]specifier) (*Route, error) {
	r := &Route{Name: in.GetName()}
	var err error
	if r.match, r.prefix, err = compileMatch(in.GetMatch()); err != nil {
		return nil, err
	}
	if r.mutations, err = compileMutations(in); err != nil {
		return nil, err
	}
	switch a := in.GetAction().(type) {
	case *routev3.Route_Route:
		r.Forward, err = compileForward(a.Route, specifiers)
	case *routev3.Route_Redirect:
		r.Redirect, err = compileRedirect(a.Redirect)
	case *routev3.Route_DirectResponse:
		r.Direct, err = compileDirect(a.DirectResponse)
	default:
		err = fmt.Errorf("the route has no action that is supported: %T", a)
	}
	return r, err
}

func compileForward(in *routev3.RouteAction, specifiers map[string]specifier) (*Forward, error) {
	f := &Forward{
		NotFound: http.StatusServiceUnavailable, Timeout: DefaultTimeout, AutoHost: in.GetAutoHostRewrite().GetValue(),
		hostLiteral: in.GetHostRewriteLiteral(), hostHeader: in.GetHostRewriteHeader(),
		appendOriginalHost: in.GetAppendXForwardedHost(), Upgrades: map[string]bool{},
	}
	switch in.GetClusterNotFoundResponseCode() {
	case routev3.RouteAction_NOT_FOUND:
		f.NotFound = http.StatusNotFound
	case routev3.RouteAction_INTERNAL_SERVER_ERROR:
		f.NotFound = http.StatusInternalServerError
	}
	if in.GetTimeout() != nil {
		f.Timeout = in.GetTimeout().AsDuration()
	}
	if in.GetIdleTimeout() != nil {
		d := in.GetIdleTimeout().AsDuration()
		f.IdleTimeout = &d
	}
	f.MaxDuration = in.GetMaxStreamDuration().GetMaxStreamDuration().AsDuration()
	f.GRPCTimeout = in.GetMaxStreamDuration().GetGrpcTimeoutHeaderMax() != nil
	f.MaxGRPCTimeout = in.GetMaxStreamDuration().GetGrpcTimeoutHeaderMax().AsDuration()
	for _, u := range in.GetUpgradeConfigs() {
		if strings.EqualFold(u.GetUpgradeType(), "CONNECT") {
			return nil, strict.Unsupported("envoy.config.route.v3.RouteAction.UpgradeConfig.upgrade_type=CONNECT")
		}
		f.Upgrades[strings.ToLower(u.GetUpgradeType())] = u.GetEnabled() == nil || u.GetEnabled().GetValue()
	}
	if err := f.compileTargets(in, specifiers); err != nil {
		return nil, err
	}
	var err error
	if f.Rewrite, err = compilePathRewrite(in.GetPrefixRewrite(), in.GetRegexRewrite()); err != nil {
		return nil, err
	}
	f.Retry, err = compileRetry(in.GetRetryPolicy())
	return f, err
}

func (f *Forward) compileTargets(in *routev3.RouteAction, specifiers map[string]specifier) error {
	if name := in.GetClusterSpecifierPlugin(); name != "" {
		if f.specify = specifiers[name]; f.specify == nil {
			return fmt.Errorf("unknown cluster specifier plugin name: %s", name)
		}
		return nil
	}
	if name := in.GetCluster(); name != "" {
		f.clusters, f.total = []weighted{{name: name, weight: 1}}, 1
		return nil
	}
	for _, w := range in.GetWeightedClusters().GetClusters() {
		m, err := compileMutations(w)
		if err != nil {
			return err
		}
		f.clusters = append(f.clusters, weighted{
			name: w.GetName(), weight: w.GetWeight().GetValue(), hostLiteral: w.GetHostRewriteLiteral(), mutations: m,
		})
		f.total += w.GetWeight().GetValue()
	}
	if f.total == 0 {
		return fmt.Errorf("the weights of weighted_clusters add up to 0")
	}
	return nil
}

// Route chooses the route for a request, or returns nil if there is none.
func (c *Config) Route(r *http.Request) *Choice {
	host := c.host(r.Host)
	if host == nil {
		return nil
	}
	for _, route := range host.routes {
		if !route.match(r) {
			continue
		}
		ch := &Choice{Config: c, VHost: host, Route: route}
		if route.Forward != nil {
			ch.target = route.Forward.target(r)
			ch.Cluster = ch.target.name
		}
		return ch
	}
	return nil
}

// target returns where a request goes.
func (f *Forward) target(r *http.Request) *weighted {
	if f.specify != nil {
		return &weighted{name: f.specify(r)}
	}
	return f.pick(rand.Uint32N(f.total))
}

// pick returns the cluster in whose share of the weights the number n falls.
func (f *Forward) pick(n uint32) *weighted {
	for i := range f.clusters {
		if n < f.clusters[i].weight {
			return &f.clusters[i]
		}
		n -= f.clusters[i].weight
	}
	return &f.clusters[len(f.clusters)-1]
}

// host finds the virtual host in Envoy's order: exact, longest *suffix, longest prefix*, then "*".
func (c *Config) host(name string) *VirtualHost {
	name = strings.ToLower(name)
	if c.ignorePort {
		name = stripPort(name)
	}
	if h := c.byDomain[name]; h != nil {
		return h
	}
	for i := 1; i < len(name); i++ {
		if h := c.byDomain["*"+name[i:]]; h != nil {
			return h
		}
	}
	for i := len(name) - 1; i > 0; i-- {
		if h := c.byDomain[name[:i]+"*"]; h != nil {
			return h
		}
	}
	return c.byDomain["*"]
}

// stripPort removes a port from a host, keeping the brackets of an IPv6 address.
func stripPort(host string) string {
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.HasSuffix(host, "]") || (strings.Count(host, ":") > 1 && host[0] != '[') {
		return host
	}
	return host[:i]
}
