package tailscalegateway

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// statusPause is the shortest time between two writings of a status whose conditions stay as they are. It names each
// service, and would otherwise be written, and read by all who watch it, for each of a thousand that get their VIPs.
const statusPause = 2 * time.Second

// pace remembers when the status of each object was last written. One goroutine uses it.
type pace struct {
	last map[types.NamespacedName]time.Time
}

func (p *pace) note(name types.NamespacedName, now time.Time) {
	if p.last == nil {
		p.last = map[types.NamespacedName]time.Time{}
	}
	p.last[name] = now
}

func (p *pace) forget(name types.NamespacedName) { delete(p.last, name) }

// wait returns how long the status is to be left alone; zero is not at all.
func (p *pace) wait(name types.NamespacedName, now time.Time) time.Duration {
	last, ok := p.last[name]
	if !ok {
		return 0
	}
	return max(0, last.Add(statusPause).Sub(now))
}
