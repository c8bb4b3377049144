package clusters

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

// newClient returns the HTTP client of a member: plain HTTP/2 over WireGuard, one connection for everything.
//
// Never HTTP/1.1: a watch over it stays silent for ever after the spoke's process was replaced, because the hub sends
// nothing and so never learns that the connection is dead. The pings are what notices. And never a timeout of the
// client: it would cut the watches.
func (p *Provider) newClient(m Member) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				if addr != m.Addr.String() {
					return nil, errors.New("a member's client dials nobody but the member")
				}
				ctx, cancel := context.WithTimeout(ctx, p.DialTimeout)
				defer cancel()
				return p.Dial(ctx, m)
			},
			Protocols: protocols,
			HTTP2: &http.HTTP2Config{
				SendPingTimeout:  p.Ping,
				PingTimeout:      p.PingTimeout,
				WriteByteTimeout: 10 * time.Second,
			},
			ResponseHeaderTimeout: 30 * time.Second,
			IdleConnTimeout:       90 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
