package tailscalegateway

import (
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/proxyset"
)

// Facts are what a status is made of, besides the spoke's own.
type Facts struct {
	ExtensionPort uint16
	// Sets are nil where the proxies are no pods.
	Sets proxyset.Statuses
}

// Judge returns the status of an object that is not refused.
func Judge(t *v1alpha1.TailscaleGateway, now spoke.Status, f Facts) v1alpha1.TailscaleGatewayStatus {
	next, _ := judge(t, refusal{}, facts{Status: now, extensionPort: f.ExtensionPort, pods: f.Sets != nil, sets: f.Sets})
	return next
}

// Convert returns what the TailscaleGateway says of the Gateway.
var Convert = convert
