// Package downstream is the stand-in's side towards the clients: listeners, filter chains and the HTTP connection
// manager, which routes each request by the route configuration of the moment. Test equipment, never part of the
// product.
package downstream

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	healthv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/health_check/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/router"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/strict"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/tlsctx"
)

// Spec is a compiled Listener.
type Spec struct {
	Name    string
	Address string   // host:port; port 0 binds any
	Routes  []string // route configurations that it needs by xDS
	Secrets []string // SDS secrets that it needs by xDS
	Proto   *listenerv3.Listener
	chains  []*chainSpec
}

type chainSpec struct {
	name        string
	serverNames []string
	isDefault   bool
	tls         *tlsv3.DownstreamTlsContext // nil: plain text
	handshake   time.Duration
	hcm         *hcm
}

// hcm is a compiled HttpConnectionManager.
type hcm struct {
	statPrefix                                string
	rds                                       string         // empty: inline
	inline                                    *router.Config // nil: by xDS
	http1, http2                              bool
	useRemoteAddress, skipXFF                 bool
	via, serverName                           string
	server                                    hcmv3.HttpConnectionManager_ServerHeaderTransformation
	normalize, mergeSlashes                   bool
	escapedSlashes                            hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction
	underscores                               corev3.HttpProtocolOptions_HeadersWithUnderscoresAction
	generateID, preserveID, returnID          bool
	stripMatchingPort, stripAnyPort, stripDot bool
	idleTimeout, streamIdle, headersTimeout   time.Duration
	upgrades                                  map[string]bool
	port                                      string
	suppressHeaders                           bool
	health                                    []func(*http.Request) bool
}

// Compile compiles a listener. Unsupported settings are named in the error.
func Compile(in *listenerv3.Listener) (*Spec, error) {
	if err := strict.Check(in); err != nil {
		return nil, err
	}
	sa := in.GetAddress().GetSocketAddress()
	if sa.GetProtocol() != corev3.SocketAddress_TCP {
		return nil, strict.Unsupported("envoy.config.core.v3.SocketAddress.protocol=" + sa.GetProtocol().String())
	}
	s := &Spec{Name: in.GetName(), Address: net.JoinHostPort(sa.GetAddress(), strconv.Itoa(int(sa.GetPortValue()))), Proto: in}
	for _, fc := range in.GetFilterChains() {
		if err := s.add(fc, false); err != nil {
			return nil, fmt.Errorf("filter chain %s: %w", fc.GetName(), err)
		}
	}
	if fc := in.GetDefaultFilterChain(); fc != nil {
		if err := s.add(fc, true); err != nil {
			return nil, fmt.Errorf("default filter chain: %w", err)
		}
	}
	if len(s.chains) == 0 {
		return nil, errors.New("the listener has no filter chain")
	}
	for _, c := range s.chains[1:] {
		if (c.tls == nil) != (s.chains[0].tls == nil) {
			return nil, strict.Unsupported("envoy.config.listener.v3.Listener.filter_chains with TLS and plain text mixed")
		}
	}
	return s, nil
}

func (s *Spec) add(fc *listenerv3.FilterChain, isDefault bool) error {
	c := &chainSpec{
		name: fc.GetName(), isDefault: isDefault, handshake: 15 * time.Second,
		serverNames: fc.GetFilterChainMatch().GetServerNames(),
	}
	if d := fc.GetTransportSocketConnectTimeout(); d != nil {
		c.handshake = d.AsDuration()
	}
	if packed := fc.GetTransportSocket().GetTypedConfig(); packed != nil {
		m, err := packed.UnmarshalNew()
		if err != nil {
			return fmt.Errorf("transport socket: %w", err)
		}
		if ctx, ok := m.(*tlsv3.DownstreamTlsContext); ok {
			if _, err := tlsctx.Server(ctx, nil); err != nil {
				return err
			}
			c.tls = ctx
			s.Secrets = append(s.Secrets, tlsctx.Wanted(ctx.GetCommonTlsContext())...)
		}
	}
	if len(fc.GetFilters()) != 1 {
		return fmt.Errorf("the chain has %d filters; exactly one HTTP connection manager is supported", len(fc.GetFilters()))
	}
	var in hcmv3.HttpConnectionManager
	if err := fc.GetFilters()[0].GetTypedConfig().UnmarshalTo(&in); err != nil {
		return fmt.Errorf("filter %s: %w", fc.GetFilters()[0].GetName(), err)
	}
	var err error
	if c.hcm, err = compileHCM(&in); err != nil {
		return err
	}
	_, c.hcm.port, _ = net.SplitHostPort(s.Address)
	if c.hcm.rds != "" {
		s.Routes = append(s.Routes, c.hcm.rds)
	}
	s.chains = append(s.chains, c)
	return nil
}

func compileHCM(in *hcmv3.HttpConnectionManager) (*hcm, error) {
	common := in.GetCommonHttpProtocolOptions()
	h := &hcm{
		statPrefix: in.GetStatPrefix(), useRemoteAddress: in.GetUseRemoteAddress().GetValue(), skipXFF: in.GetSkipXffAppend(),
		via: in.GetVia(), serverName: in.GetServerName(), server: in.GetServerHeaderTransformation(),
		normalize: in.GetNormalizePath().GetValue(), mergeSlashes: in.GetMergeSlashes(),
		escapedSlashes: in.GetPathWithEscapedSlashesAction(), underscores: common.GetHeadersWithUnderscoresAction(),
		generateID: in.GetGenerateRequestId() == nil || in.GetGenerateRequestId().GetValue(),
		preserveID: in.GetPreserveExternalRequestId(), returnID: in.GetAlwaysSetRequestIdInResponse(),
		stripMatchingPort: in.GetStripMatchingHostPort(), stripAnyPort: in.GetStripAnyHostPort(), stripDot: in.GetStripTrailingHostDot(),
		idleTimeout: time.Hour, streamIdle: 5 * time.Minute, headersTimeout: in.GetRequestHeadersTimeout().AsDuration(),
		upgrades: map[string]bool{},
	}
	if common.GetIdleTimeout() != nil {
		h.idleTimeout = common.GetIdleTimeout().AsDuration()
	}
	if in.GetStreamIdleTimeout() != nil {
		h.streamIdle = in.GetStreamIdleTimeout().AsDuration()
	}
	switch in.GetCodecType() {
	case hcmv3.HttpConnectionManager_AUTO:
		h.http1, h.http2 = true, true
	case hcmv3.HttpConnectionManager_HTTP1:
		h.http1 = true
	case hcmv3.HttpConnectionManager_HTTP2:
		h.http2 = true
	default:
		return nil, strict.Unsupported("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.codec_type=" + in.GetCodecType().String())
	}
	for _, u := range in.GetUpgradeConfigs() {
		h.upgrades[strings.ToLower(u.GetUpgradeType())] = u.GetEnabled() == nil || u.GetEnabled().GetValue()
	}
	if err := h.compileRoutes(in); err != nil {
		return nil, err
	}
	return h, h.compileFilters(in.GetHttpFilters())
}

func (h *hcm) compileRoutes(in *hcmv3.HttpConnectionManager) error {
	if rds := in.GetRds(); rds != nil {
		if rds.GetConfigSource().GetAds() == nil {
			return strict.Unsupported("envoy.config.core.v3.ConfigSource other than ads in rds")
		}
		h.rds = rds.GetRouteConfigName()
		return nil
	}
	var err error
	h.inline, err = router.Compile(in.GetRouteConfig())
	return err
}

// compileFilters compiles the filters; the last one must be the router, as Envoy demands.
func (h *hcm) compileFilters(filters []*hcmv3.HttpFilter) error {
	terminal := false
	for _, f := range filters {
		if terminal {
			return fmt.Errorf("filter %s stands behind the router", f.GetName())
		}
		m, err := f.GetTypedConfig().UnmarshalNew()
		if err != nil {
			return fmt.Errorf("filter %s: %w", f.GetName(), err)
		}
		switch cfg := m.(type) {
		case *routerv3.Router:
			terminal, h.suppressHeaders = true, cfg.GetSuppressEnvoyHeaders()
		case *healthv3.HealthCheck:
			if cfg.GetPassThroughMode().GetValue() {
				return strict.Unsupported("envoy.extensions.filters.http.health_check.v3.HealthCheck.pass_through_mode=true")
			}
			matchers := []func(*http.Request) bool{}
			for _, hm := range cfg.GetHeaders() {
				match, err := router.CompileHeader(hm)
				if err != nil {
					return fmt.Errorf("filter %s: %w", f.GetName(), err)
				}
				matchers = append(matchers, match)
			}
			h.health = append(h.health, func(r *http.Request) bool {
				for _, match := range matchers {
					if !match(r) {
						return false
					}
				}
				return true
			})
		default:
			return strict.Unsupported(string(m.ProtoReflect().Descriptor().FullName()) + " as an HTTP filter")
		}
	}
	if !terminal {
		return errors.New("the last HTTP filter is not the router")
	}
	return nil
}
