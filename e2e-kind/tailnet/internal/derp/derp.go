// Package derp is test equipment: a DERP relay and a STUN server on one address,
// as the only region of a test tailnet.
package derp

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// Server is the relay. Make it with [Listen].
type Server struct {
	relay  net.Listener
	stun   *net.UDPConn
	cert   tls.Certificate
	logger *slog.Logger
}

// Listen opens the sockets of a relay on addr, on any free ports.
func Listen(addr netip.Addr, log *slog.Logger) (*Server, error) {
	cert, err := selfSigned(addr)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	relay, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return nil, fmt.Errorf("listen for DERP: %w", err)
	}
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for STUN: %w", err), relay.Close())
	}
	return &Server{relay: relay, stun: udp, cert: cert, logger: log}, nil
}

// Close closes the sockets of a server that isn't run.
func (s *Server) Close() error { return errors.Join(s.relay.Close(), s.stun.Close()) }

// Map returns the DERP map that names the relay.
func (s *Server) Map() *tailcfg.DERPMap {
	relay := s.relay.Addr().(*net.TCPAddr).AddrPort()
	ip := relay.Addr().Unmap().String()
	return &tailcfg.DERPMap{
		OmitDefaultRegions: true,
		Regions: map[int]*tailcfg.DERPRegion{1: {
			RegionID:   1,
			RegionCode: "test",
			RegionName: "Test",
			Nodes: []*tailcfg.DERPNode{{
				Name:             "1a",
				RegionID:         1,
				HostName:         ip,
				IPv4:             ip,
				IPv6:             "none",
				DERPPort:         int(relay.Port()),
				STUNPort:         s.stun.LocalAddr().(*net.UDPAddr).Port,
				STUNTestIP:       ip,
				InsecureForTests: true,
			}},
		}},
	}
}

// Run serves until ctx ends, and closes the sockets.
func (s *Server) Run(ctx context.Context) error {
	relay := derpserver.New(key.NewNode(), logger.Discard)
	server := &http.Server{
		Handler:  derpserver.Handler(relay),
		ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
		// DERP takes connections over, which HTTP/2 has none of.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		TLSConfig:    &tls.Config{Certificates: []tls.Certificate{s.cert}},
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.ServeTLS(s.relay, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve DERP: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		if err := s.answerSTUN(); !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("serve STUN: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return errors.Join(server.Close(), relay.Close(), s.stun.Close())
	})
	return g.Wait()
}

func (s *Server) answerSTUN() error {
	var buf [1500]byte
	for {
		n, from, err := s.stun.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			return err
		}
		id, err := stun.ParseBindingRequest(buf[:n])
		if err != nil {
			continue // not for us; STUN servers keep silent then
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if _, err := s.stun.WriteToUDPAddrPort(stun.Response(id, from), from); err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			s.logger.Debug("STUN answer not sent", "to", from, "error", err)
		}
	}
}

func selfSigned(addr netip.Addr) (tls.Certificate, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: addr.String()},
		IPAddresses:  []net.IP{addr.AsSlice()},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, nil
}
