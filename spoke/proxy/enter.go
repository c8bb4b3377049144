package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"tailscale.com/ipn"

	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

// The pause between two questions for an auth key grows from minAsk to maxAsk. The spoke keeps a pace of its own.
const (
	minAsk = time.Second
	maxAsk = 30 * time.Second
)

const (
	// identityFile is where a node without a store of its own keeps its identity.
	identityFile = "tailscaled.state"
	// controlFile and controlKey are where the control server is kept that the identity is from.
	controlFile = "control-url"
	controlKey  = ipn.StateKey("tailgate-control-url")
)

// joinedBefore reports whether the node has an identity in the tailnet, which the tailnet may have forgotten.
func (o Options) joinedBefore() (bool, error) {
	if o.Store == nil {
		_, err := os.Stat(filepath.Join(o.StateDir, identityFile))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	profile, err := o.Store.ReadState(ipn.CurrentProfileStateKey)
	if errors.Is(err, ipn.ErrStateNotExist) {
		return false, nil
	}
	return len(profile) > 0, err
}

// keepControl keeps which control server the spoke named: the identity is worth nothing with another one.
func (o Options) keepControl(url string) error {
	if o.Store != nil {
		return o.Store.WriteState(controlKey, []byte(url))
	}
	return os.WriteFile(filepath.Join(o.StateDir, controlFile), []byte(url), 0o600)
}

// keptControl returns what was kept; nothing where nobody named one.
func (o Options) keptControl() (string, error) {
	read := func() ([]byte, error) { return os.ReadFile(filepath.Join(o.StateDir, controlFile)) }
	if o.Store != nil {
		read = func() ([]byte, error) { return o.Store.ReadState(controlKey) }
	}
	url, err := read()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ipn.ErrStateNotExist) {
		return "", nil
	}
	return string(url), err
}

// enter joins the tailnet: with the identity that there is, or by a key. Where none was given it asks the spoke for one, as
// often as it takes, and so it does when the tailnet no longer knows the node.
func enter(ctx context.Context, o Options, spoke proxyapi.SpokeClient) (*node, error) {
	known, err := o.joinedBefore()
	if err != nil {
		return nil, fmt.Errorf("look for the node's identity: %w", err)
	}
	if o.ControlURL == "" {
		if o.ControlURL, err = o.keptControl(); err != nil {
			return nil, fmt.Errorf("look for the node's control server: %w", err)
		}
	}
	given := o.AuthKey != ""
	for pause := minAsk; ; pause = min(2*pause, maxAsk) {
		if !known && !given {
			if err := o.askKey(ctx, spoke); err != nil {
				return nil, err
			}
		}
		o.Ready.set(fmt.Errorf("joining the tailnet of %s as %s", controlName(o.ControlURL), o.Hostname))
		o.Logger.Info("joining the tailnet", "control", controlName(o.ControlURL), "hostname", o.Hostname)
		n, err := join(ctx, o)
		if given || ctx.Err() != nil || !errors.Is(err, errAuthKey) {
			return n, err
		}
		o.Logger.Warn("the tailnet does not take this node, asking the spoke for another key", "knew", known, "pause", pause, "error", err)
		o.Ready.set(err)
		known = false
		if !wait(ctx, pause) {
			return nil, ctx.Err()
		}
	}
}

// askKey asks the spoke for a key until it gives one.
func (o *Options) askKey(ctx context.Context, spoke proxyapi.SpokeClient) error {
	request := &proxyapi.AuthKeyRequest{Role: string(o.Role), Replica: o.Replica, Tailnet: o.Tailnet}
	o.Ready.set(errors.New("asking the spoke for an auth key"))
	for pause := minAsk; ; pause = min(2*pause, maxAsk) {
		key, err := spoke.AuthKey(ctx, request, grpc.WaitForReady(true))
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case status.Code(err) == codes.Unimplemented:
			return fmt.Errorf("%w: the spoke gives none", errAuthKey)
		case err == nil:
			o.AuthKey, o.Tags = key.GetKey(), key.GetTags()
			if key.GetControlUrl() == "" {
				return nil
			}
			o.ControlURL = key.GetControlUrl()
			if err := o.keepControl(o.ControlURL); err != nil {
				return fmt.Errorf("keep the node's control server: %w", err)
			}
			return nil
		}
		o.Ready.set(fmt.Errorf("asking the spoke for an auth key: %w", err))
		o.Logger.Warn("the spoke gave no auth key, asking again", "pause", pause, "error", err)
		if !wait(ctx, pause) {
			return ctx.Err()
		}
	}
}

// wait reports whether the time has passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
