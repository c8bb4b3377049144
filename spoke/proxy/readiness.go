package proxy

import (
	"errors"
	"fmt"
	"sync"
)

// Readiness tells whether a proxy does its work: whether it is in its tailnet, has applied a configuration, and, if it is an
// ingress, offers its VIPs. The zero value is that of a proxy that has not begun.
type Readiness struct {
	mu      sync.Mutex
	begun   bool
	why     error
	leaving bool
}

var (
	errStarting = errors.New("the proxy has just started")
	errDraining = errors.New("the proxy was told to end and is draining")
	errWaiting  = errors.New("waiting for the spoke's first configuration")
)

// Err returns why the proxy does not do its work, nil if it does.
func (r *Readiness) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.leaving:
		return errDraining
	case !r.begun:
		return errStarting
	}
	return r.why
}

// set says why the proxy does not do its work, nil if it does.
func (r *Readiness) set(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun, r.why = true, why
}

// applied says what could not be applied of a configuration. Single VIPs and addresses that cannot be had are told to the
// spoke; they are no reason to take all others away.
func (r *Readiness) applied(problems map[string]string) {
	if problem, ok := problems[problemHosting]; ok {
		r.set(fmt.Errorf("the VIPs are not offered: %s", problem))
		return
	}
	r.set(nil)
}

// drains says that the proxy ends, and will not be ready any more.
func (r *Readiness) drains() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaving = true
}
