package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
)

const (
	// askTimeout bounds how long an answer of the hub's loop is waited for.
	askTimeout = 10 * time.Second
	// waitTimeout is how long GET /api/v1/changes waits; the asker asks again.
	waitTimeout = 25 * time.Second
	// maxRequest bounds a request's body, in bytes.
	maxRequest = 64 << 10
	// defaultHorizon is how far a forecast looks that names no horizon.
	defaultHorizon = 10 * time.Minute
)

// API serves what [operator.Client] asks for, to whoever reaches it: who may, is the matter of the listener.
//
//	GET  /api/v1/status, vips, services, operations
//	GET  /api/v1/services/KIND/NAMESPACE/NAME
//	GET  /api/v1/services/KIND/NAMESPACE/NAME/endpoints/CONSUMER
//	GET  /api/v1/decisions?after=SEQ&limit=N&newest=true&service=SERVICE&cluster=CLUSTER
//	GET  /api/v1/changes?after=NUMBER     waits for a change
//	POST /api/v1/forecast?horizon=10m     a Wish
//	POST /api/v1/operations               a Wish
//	POST /api/v1/invitations/CLUSTER      answers with a secret
//	POST /api/v1/departures/CLUSTER
func API(api operator.API, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	get := func(path string, answer func(*http.Request) (any, error)) {
		mux.Handle("GET /api/v1/"+path, reply(log, answer))
	}
	post := func(path string, answer func(*http.Request) (any, error)) {
		mux.Handle("POST /api/v1/"+path, reply(log, answer))
	}
	get("status", func(r *http.Request) (any, error) { return api.Status(r.Context()) })
	get("vips", func(r *http.Request) (any, error) { return api.VIPs(r.Context()) })
	get("services", func(r *http.Request) (any, error) { return api.Services(r.Context()) })
	get("operations", func(r *http.Request) (any, error) { return api.Operations(r.Context()) })
	get("services/{kind}/{namespace}/{name}", func(r *http.Request) (any, error) {
		id, err := service(r)
		if err != nil {
			return nil, err
		}
		return api.Service(r.Context(), id)
	})
	get("services/{kind}/{namespace}/{name}/endpoints/{consumer}", func(r *http.Request) (any, error) {
		id, err := service(r)
		if err != nil {
			return nil, err
		}
		return api.Endpoints(r.Context(), id, federation.ClusterID(r.PathValue("consumer")))
	})
	get("decisions", func(r *http.Request) (any, error) {
		q, err := operator.ParseJournalQuery(r.URL.Query())
		if err != nil {
			return nil, err
		}
		return api.Journal(r.Context(), q)
	})
	get("changes", func(r *http.Request) (any, error) { return changes(r, api) })
	post("forecast", func(r *http.Request) (any, error) {
		w, err := wish(r)
		if err != nil {
			return nil, err
		}
		horizon := defaultHorizon
		if v := r.URL.Query().Get("horizon"); v != "" {
			if horizon, err = time.ParseDuration(v); err != nil {
				return nil, fmt.Errorf("%w: horizon: want a duration such as 10m", operator.ErrInvalid)
			}
		}
		return api.Forecast(r.Context(), w, horizon)
	})
	post("operations", func(r *http.Request) (any, error) {
		w, err := wish(r)
		if err != nil {
			return nil, err
		}
		return api.Operate(r.Context(), w)
	})
	post("invitations/{cluster}", func(r *http.Request) (any, error) {
		return api.Invite(r.Context(), federation.ClusterID(r.PathValue("cluster")))
	})
	post("departures/{cluster}", func(r *http.Request) (any, error) {
		return api.Leave(r.Context(), federation.ClusterID(r.PathValue("cluster")))
	})
	return mux
}

// service reads the service that a path names.
func service(r *http.Request) (federation.ServiceID, error) {
	id, err := federation.ParseServiceID(r.PathValue("kind") + "/" + r.PathValue("namespace") + "/" + r.PathValue("name"))
	if err != nil {
		return id, fmt.Errorf("%w: %w", operator.ErrInvalid, err)
	}
	return id, nil
}

// wish reads a Wish that says nothing but what a Wish can say.
func wish(r *http.Request) (w operator.Wish, err error) {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return w, fmt.Errorf("%w: want a wish in JSON: %w", operator.ErrInvalid, err)
	}
	return w, nil
}

// changes waits for a change, but not for ever: what is in between may close a connection that is silent.
func changes(r *http.Request, api operator.API) (any, error) {
	var after uint64
	if v := r.URL.Query().Get("after"); v != "" {
		var err error
		if after, err = strconv.ParseUint(v, 10, 64); err != nil {
			return nil, fmt.Errorf("%w: after: want the number of a change", operator.ErrInvalid)
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), waitTimeout)
	defer cancel()
	n, err := api.Wait(ctx, after)
	if err != nil && ctx.Err() != nil && r.Context().Err() == nil {
		return after, nil
	}
	return n, err
}

// reply answers with what a function returns, or with its error.
func reply(log *slog.Logger, answer func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if r.Pattern != "GET /api/v1/changes" {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, askTimeout)
			defer cancel()
		}
		v, err := answer(r.WithContext(ctx))
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if err != nil {
			code := operator.StatusOf(err)
			switch {
			case r.Context().Err() != nil:
				return // nobody waits for the answer
			case errors.Is(err, context.DeadlineExceeded):
				err = fmt.Errorf("the hub did not answer within %s; its log and /readyz say more", askTimeout)
			case code == http.StatusServiceUnavailable:
				log.Warn("an operator's question was not answered", "path", r.URL.Path, "err", err)
			}
			w.WriteHeader(code)
			v = operator.Problem{Message: err.Error()}
		}
		if err := json.NewEncoder(w).Encode(v); err != nil {
			log.Debug("answer not written", "err", err)
		}
	})
}
