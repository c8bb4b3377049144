package router

import (
	"fmt"
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	prioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/strict"
)

// RetryPolicy says when and where a request is tried again.
type RetryPolicy struct {
	On                map[string]bool // conditions of retry_on
	StatusCodes       []int           // of retriable-status-codes
	Retries           int
	PerTryTimeout     time.Duration // 0: none
	BackoffBase       time.Duration
	BackoffMax        time.Duration
	AvoidHosts        bool // previous_hosts
	HostAttempts      int  // how often another host is looked for
	PriorityFrequency int  // previous_priorities: attempts between updates, 0: off
}

// conditions are the values of retry_on that are honoured.
var conditions = strings.Fields(`5xx gateway-error reset reset-before-request connect-failure refused-stream
	retriable-4xx retriable-status-codes cancelled deadline-exceeded internal resource-exhausted unavailable`)

func compileRetry(in *routev3.RetryPolicy) (*RetryPolicy, error) {
	if in == nil {
		return nil, nil
	}
	p := &RetryPolicy{On: map[string]bool{}, Retries: 1, HostAttempts: 1, BackoffBase: 25 * time.Millisecond}
	for c := range strings.SplitSeq(in.GetRetryOn(), ",") {
		switch c = strings.TrimSpace(c); {
		case c == "":
		case slices.Contains(conditions, c):
			p.On[c] = true
		default:
			return nil, strict.Unsupported("envoy.config.route.v3.RetryPolicy.retry_on=" + c)
		}
	}
	for _, code := range in.GetRetriableStatusCodes() {
		p.StatusCodes = append(p.StatusCodes, int(code))
	}
	if in.GetNumRetries() != nil {
		p.Retries = int(in.GetNumRetries().GetValue())
	}
	p.PerTryTimeout = in.GetPerTryTimeout().AsDuration()
	if in.GetHostSelectionRetryMaxAttempts() > 0 {
		p.HostAttempts = int(in.GetHostSelectionRetryMaxAttempts())
	}
	if b := in.GetRetryBackOff(); b != nil {
		p.BackoffBase = b.GetBaseInterval().AsDuration()
		p.BackoffMax = b.GetMaxInterval().AsDuration()
	}
	if p.BackoffMax == 0 {
		p.BackoffMax = 10 * p.BackoffBase
	}
	p.AvoidHosts = len(in.GetRetryHostPredicate()) > 0 // previous_hosts is the only one that strict lets in
	if rp := in.GetRetryPriority(); rp != nil {
		var cfg prioritiesv3.PreviousPrioritiesConfig
		if err := rp.GetTypedConfig().UnmarshalTo(&cfg); err != nil {
			return nil, fmt.Errorf("retry_priority: %w", err)
		}
		p.PriorityFrequency = int(cfg.GetUpdateFrequency())
	}
	return p, nil
}
