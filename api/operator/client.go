package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// maxAnswer bounds what a client reads of an answer, in bytes: a federation of 250 clusters fits many times.
const maxAnswer = 1 << 28

// Client asks a hub over HTTP. It implements [API].
type Client struct {
	// Base is the hub's URL, without /api/v1.
	Base *url.URL
	// HTTP sends the requests; http.DefaultClient if nil.
	HTTP *http.Client
}

// Problem is the body of an answer that is an error.
type Problem struct {
	Message string `json:"message"`
}

// Statuses of HTTP that stand for errors.
var statuses = map[int]error{
	http.StatusNotFound: ErrNotFound, http.StatusBadRequest: ErrInvalid, http.StatusForbidden: ErrForbidden,
}

// StatusOf returns the status of HTTP for an error of an [API].
func StatusOf(err error) int {
	for code, is := range statuses {
		if errors.Is(err, is) {
			return code
		}
	}
	return http.StatusServiceUnavailable
}

// call makes a request to a path below /api/v1 and reads its answer.
func call[T any](ctx context.Context, c *Client, method string, body any, query url.Values, path ...string) (out T, err error) {
	u := c.Base.JoinPath(append([]string{"api", "v1"}, path...)...)
	u.RawQuery = query.Encode()
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return out, fmt.Errorf("write the request: %w", err)
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), payload)
	if err != nil {
		return out, fmt.Errorf("ask the hub: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return out, fmt.Errorf("ask the hub: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return out, fmt.Errorf("read the hub's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return out, problem(resp.StatusCode, data)
	}
	if err := json.Unmarshal(data, &out); err != nil {
		return out, fmt.Errorf("read the hub's answer to %s: %w; is this tool as new as the hub?", u.Path, err)
	}
	return out, nil
}

// problem is the error that an answer stands for. Its message is the hub's.
func problem(code int, data []byte) error {
	var p Problem
	if json.Unmarshal(data, &p) != nil || p.Message == "" {
		p.Message = fmt.Sprintf("%d %s", code, http.StatusText(code))
	}
	is, ok := statuses[code]
	if !ok {
		return fmt.Errorf("the hub: %s", p.Message)
	}
	return refusal{p.Message, is}
}

// refusal has the hub's words, which say already what they are.
type refusal struct {
	message string
	is      error
}

func (r refusal) Error() string { return r.message }
func (r refusal) Unwrap() error { return r.is }

// servicePath are the elements of a service's path. A listener's name has a slash, which has to be one element.
func servicePath(id federation.ServiceID, more ...string) []string {
	return append([]string{"services", string(id.Kind), id.Namespace, url.PathEscape(id.Name)}, more...)
}

// Status asks for the hub and its members.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, nil, nil, "status")
}

// VIPs asks for the registry.
func (c *Client) VIPs(ctx context.Context) ([]VIP, error) {
	return call[[]VIP](ctx, c, http.MethodGet, nil, nil, "vips")
}

// Services asks for all services.
func (c *Client) Services(ctx context.Context) ([]Service, error) {
	return call[[]Service](ctx, c, http.MethodGet, nil, nil, "services")
}

// Service asks for one service.
func (c *Client) Service(ctx context.Context, id federation.ServiceID) (Service, error) {
	return call[Service](ctx, c, http.MethodGet, nil, nil, servicePath(id)...)
}

// Endpoints asks for what a consumer is told of a service.
func (c *Client) Endpoints(ctx context.Context, id federation.ServiceID, consumer federation.ClusterID) (EndpointSet, error) {
	return call[EndpointSet](ctx, c, http.MethodGet, nil, nil, servicePath(id, "endpoints", string(consumer))...)
}

// Journal asks for decisions.
func (c *Client) Journal(ctx context.Context, q JournalQuery) ([]Record, error) {
	return call[[]Record](ctx, c, http.MethodGet, nil, q.values(), "decisions")
}

// Operations asks for the wishes that stand.
func (c *Client) Operations(ctx context.Context) ([]Operation, error) {
	return call[[]Operation](ctx, c, http.MethodGet, nil, nil, "operations")
}

// Forecast asks what a wish would do.
func (c *Client) Forecast(ctx context.Context, w Wish, horizon time.Duration) (Forecast, error) {
	return call[Forecast](ctx, c, http.MethodPost, w, url.Values{"horizon": {horizon.String()}}, "forecast")
}

// Operate gives the hub a wish.
func (c *Client) Operate(ctx context.Context, w Wish) (Operation, error) {
	return call[Operation](ctx, c, http.MethodPost, w, nil, "operations")
}

// Invite asks for what a new member needs.
func (c *Client) Invite(ctx context.Context, cluster federation.ClusterID) (Invitation, error) {
	return call[Invitation](ctx, c, http.MethodPost, nil, nil, "invitations", string(cluster))
}

// Leave takes a cluster out of the federation for good.
func (c *Client) Leave(ctx context.Context, cluster federation.ClusterID) (Departure, error) {
	return call[Departure](ctx, c, http.MethodPost, nil, nil, "departures", string(cluster))
}

// Wait waits for a change.
func (c *Client) Wait(ctx context.Context, after uint64) (uint64, error) {
	return call[uint64](ctx, c, http.MethodGet, nil, url.Values{"after": {strconv.FormatUint(after, 10)}}, "changes")
}

func (q JournalQuery) values() url.Values {
	v := url.Values{}
	set := func(key, value string, is bool) {
		if is {
			v.Set(key, value)
		}
	}
	set("after", strconv.FormatUint(q.After, 10), q.After > 0)
	set("before", strconv.FormatUint(q.Before, 10), q.Before > 0)
	set("limit", strconv.Itoa(q.Limit), q.Limit > 0)
	set("newest", "true", q.Newest)
	set("service", q.Service.String(), q.Service != federation.ServiceID{})
	set("cluster", string(q.Cluster), q.Cluster != "")
	return v
}

// ParseJournalQuery reads what a client asks for. Its errors wrap [ErrInvalid].
func ParseJournalQuery(v url.Values) (q JournalQuery, err error) {
	for key, bound := range map[string]*uint64{"after": &q.After, "before": &q.Before} {
		if s := v.Get(key); s != "" {
			if *bound, err = strconv.ParseUint(s, 10, 64); err != nil {
				return q, fmt.Errorf("%w: %s: want the number of a record", ErrInvalid, key)
			}
		}
	}
	if s := v.Get("limit"); s != "" {
		if q.Limit, err = strconv.Atoi(s); err != nil || q.Limit < 1 {
			return q, fmt.Errorf("%w: limit: want a number of records, at least 1", ErrInvalid)
		}
	}
	if s := v.Get("newest"); s != "" {
		if q.Newest, err = strconv.ParseBool(s); err != nil {
			return q, fmt.Errorf("%w: newest: want true or false", ErrInvalid)
		}
	}
	if s := v.Get("service"); s != "" {
		if q.Service, err = federation.ParseServiceID(s); err != nil {
			return q, fmt.Errorf("%w: service: %w", ErrInvalid, err)
		}
	}
	q.Cluster = federation.ClusterID(v.Get("cluster"))
	if q.Cluster != "" {
		if err := q.Cluster.Validate(); err != nil {
			return q, fmt.Errorf("%w: cluster: %w", ErrInvalid, err)
		}
	}
	return q, nil
}
