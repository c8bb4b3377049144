package tailnet

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"tailscale.com/envknob"
	"tailscale.com/ipn"
	"tailscale.com/ipn/store/mem"
	"tailscale.com/net/netns"
	"tailscale.com/tsnet"
	"tailscale.com/types/logger"
	"tailscale.com/wgengine/netstack"
)

// NodeOptions describe a node of a test's own.
type NodeOptions struct {
	Hostname   string // at least two characters
	AuthKey    string // not needed if Dir has the state of a node that joined
	Tags       []string
	Dir        string // for its state and logs; a t.TempDir()
	ControlURL string // Tailnet.URL
	Ephemeral  bool   // keep no state, and leave the tailnet on Close

	AcceptRoutes bool                 // take routes from peers, which services need
	Logf         func(string, ...any) // default: no logs
}

// prepareProcess keeps Tailscale from talking to its makers, and from binding
// sockets to the default route's interface, which tests don't have.
var prepareProcess = sync.OnceFunc(func() {
	envknob.SetNoLogsNoSupport()
	netns.SetEnabled(false)
})

// Node starts a node and waits until it has joined. The caller closes it.
func Node(ctx context.Context, opts NodeOptions) (*tsnet.Server, error) {
	if opts.Dir == "" {
		return nil, errors.New("node needs a Dir: without one it would write to the user's configuration")
	}
	prepareProcess()
	srv := &tsnet.Server{
		Hostname:      opts.Hostname,
		AuthKey:       opts.AuthKey,
		AdvertiseTags: opts.Tags,
		ControlURL:    opts.ControlURL,
		Dir:           opts.Dir,
		Logf:          opts.Logf,
		UserLogf:      opts.Logf,
	}
	if opts.Logf == nil {
		srv.Logf, srv.UserLogf = logger.Discard, logger.Discard
	}
	if opts.Ephemeral {
		srv.Store, srv.Ephemeral = new(mem.Store), true
	}
	if err := join(ctx, srv, opts.AcceptRoutes); err != nil {
		return nil, errors.Join(fmt.Errorf("node %s: %w", opts.Hostname, err), srv.Close())
	}
	return srv, nil
}

func join(ctx context.Context, srv *tsnet.Server, acceptRoutes bool) error {
	if _, err := srv.Up(ctx); err != nil {
		return err
	}
	stack, ok := srv.Sys().Netstack.Get().(*netstack.Impl)
	if !ok {
		return errors.New("no netstack")
	}
	// A SYN for a connection in TIME_WAIT is lost in netstack, and the
	// client waits a second: test clients reuse ports soon enough for that.
	timeWait := tcpip.TCPTimeWaitTimeoutOption(0)
	if err := stack.SetTransportProtocolOption(tcp.ProtocolNumber, &timeWait); err != nil {
		return fmt.Errorf("set TIME_WAIT: %v", err)
	}
	lc, err := srv.LocalClient()
	if err != nil {
		return err
	}
	_, err = lc.EditPrefs(ctx, &ipn.MaskedPrefs{
		RouteAllSet: true,
		Prefs:       ipn.Prefs{RouteAll: acceptRoutes},
	})
	if err != nil {
		return fmt.Errorf("set whether to accept routes: %w", err)
	}
	return nil
}
