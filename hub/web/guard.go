package web

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/hub/console"
)

// Operator is who asks.
type Operator struct {
	Name string
	// Admin may act, others look.
	Admin bool
}

// KnownHost reports whether a request's Host is a name of this hub: one of the names, an address, or a name without a dot,
// which nobody but the asker's own resolver knows. A site could else point a name of its own at the hub and act as those who
// visit it (DNS rebinding): a browser would take that for the same origin.
func KnownHost(host string, names []string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if _, err := netip.ParseAddr(host); err == nil || !strings.Contains(host, ".") {
		return true
	}
	return slices.ContainsFunc(names, func(h string) bool { return strings.EqualFold(strings.TrimSuffix(h, "."), host) })
}

// Guard lets those through whom the function knows: all to look, admins to act. A browser is let act only from a page of the
// same origin, and nobody who asks for a host that is none of the hub's names. What is done by whom is logged.
func Guard(who func(*http.Request) (Operator, error), names []string, log *slog.Logger, next http.Handler) http.Handler {
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !KnownHost(r.Host, names) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusMisdirectedRequest)
			_ = json.NewEncoder(w).Encode(operator.Problem{Message: r.Host + " is no name of this hub: ask for it by its address or its name in the tailnet"})
			return
		}
		o, err := who(r)
		if err != nil {
			refuse(w, err)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			if !o.Admin {
				refuse(w, fmt.Errorf(`%w: %s may look, not act: the tailnet's policy file has to give {"role": "admin"}`, operator.ErrForbidden, o.Name))
				return
			}
			log.Info("an operator acts", "operator", o.Name, "method", r.Method, "path", r.URL.Path)
		}
		next.ServeHTTP(w, r.WithContext(console.As(r.Context(), o.Name)))
	})
	return http.NewCrossOriginProtection().Handler(inner)
}

func refuse(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	_ = json.NewEncoder(w).Encode(operator.Problem{Message: err.Error()}) // a client that is gone does not hear it
}
