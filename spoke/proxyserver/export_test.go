package proxyserver

import (
	"time"

	"github.com/tailgate-project/tailgate/spoke"
)

// ToConfig converts the configuration for one proxy.
var ToConfig = toConfig

// Pacer is how proxies are kept from asking too often.
type Pacer struct{ *pacer }

// NewPacer returns one with a clock.
func NewPacer(now func() time.Time) Pacer { return Pacer{newPacer(now)} }

// Begin lets a replica ask, or says why it may not.
func (p Pacer) Begin(replica uint32) (end func(), err error) {
	return p.begin(spoke.ProxyID{Role: "ingress", Replica: replica})
}
