package lab

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

const managementObjects = `
apiVersion: v1
kind: Namespace
metadata: {name: tailgate-system}
---
apiVersion: v1
kind: Secret
metadata: {name: tailscale-oauth, namespace: tailgate-system}
stringData: {client_id: %q, client_secret: %q}
---
apiVersion: gateway.tailscale.com/v1alpha1
kind: TailscaleTailnet
metadata: {name: production-tailnet}
spec:
  oauthSecretName: tailscale-oauth
  oauthSecretNamespace: tailgate-system
  apiURL: %q
  controlURL: %q
  tags: ["tag:tailgate-proxy"]
`

// memberObject accepts a member before it joins, by its name.
const memberObject = `
---
apiVersion: gateway.tailscale.com/v1alpha1
kind: MemberCluster
metadata: {name: %s}
spec: {accepted: true}
`

// management makes the machine the management cluster: an API server, and the hub.
func (n *node) management(ctx context.Context) error {
	if err := n.controlPlane(ctx); err != nil {
		return err
	}
	return n.hub(ctx)
}

// hub starts the hub on the machine's own API server, with the objects that an administrator makes for it.
func (n *node) hub(ctx context.Context) error {
	var objects strings.Builder
	if !n.Bare {
		fmt.Fprintf(&objects, managementObjects, n.OAuthID, n.OAuthSecret, n.ControlURL, n.ControlURL)
	}
	for _, m := range n.Members {
		fmt.Fprintf(&objects, memberObject, m)
	}
	if err := n.plane.ApplyYAML(ctx, []byte(objects.String())); err != nil {
		return err
	}
	status := netip.AddrPortFrom(n.IP, HubStatusPort)
	_, err := n.supervisor.Start(ctx, machine.Process{
		Name: "hub", Path: n.Programs.Hub, LogFile: n.path("hub.log"), Restart: true,
		Args: []string{
			"run", "--kubeconfig", n.plane.AdminKubeconfig(), "--state-dir", n.path("hub"), "--control-url", n.ControlURL, "--api-url", n.ControlURL,
			"--tailnet", "production-tailnet", "--status-addr", status.String(), "--failback-delay", n.FailbackDelay.String(),
		},
		Env:   environ("TAILGATE_JOIN_KEY=" + n.HubKey),
		Ready: ready(status),
	})
	if err != nil {
		return err
	}
	n.done("hub")
	return nil
}
