package web

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/hub/console"
)

// Operator is who asks.
type Operator struct {
	Name string
	// Admin may act, others look.
	Admin bool
}

// Guard lets those through whom the function knows: all to look, admins to act. A browser is let act only from a page of the
// same origin. What is done by whom is logged.
func Guard(who func(*http.Request) (Operator, error), log *slog.Logger, next http.Handler) http.Handler {
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
