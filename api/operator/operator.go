// Package operator is the API by which people and their tools see the federation and say what they want of it: its
// words, and a client that speaks them over HTTP. The hub is on the other side.
package operator

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

var (
	// ErrNotFound reports a cluster or a service that the hub does not know. The message names those that it may have
	// been meant for.
	ErrNotFound = errors.New("not found")
	// ErrInvalid reports a wish or a question that makes no sense, and says what would.
	ErrInvalid = errors.New("invalid")
	// ErrForbidden reports that the asker may look but not act.
	ErrForbidden = errors.New("forbidden")
)

// API is what the hub answers. Its errors wrap those above where they are the asker's.
type API interface {
	// Status is the hub and its members.
	Status(ctx context.Context) (Status, error)
	// VIPs are those of the registry, sorted by ServiceName.
	VIPs(ctx context.Context) ([]VIP, error)
	// Services are the federated services, sorted by id.
	Services(ctx context.Context) ([]Service, error)
	// Service is one of them.
	Service(ctx context.Context, id federation.ServiceID) (Service, error)
	// Endpoints is what a consumer is told of a service.
	Endpoints(ctx context.Context, id federation.ServiceID, consumer federation.ClusterID) (EndpointSet, error)
	// Journal returns decisions, oldest first.
	Journal(ctx context.Context, q JournalQuery) ([]Record, error)
	// Operations are what operators want of clusters and exports, and how far it is, sorted by subject.
	Operations(ctx context.Context) ([]Operation, error)
	// Forecast says what a wish would do, from now until the horizon has passed. It changes nothing.
	Forecast(ctx context.Context, w Wish, horizon time.Duration) (Forecast, error)
	// Operate takes a wish. It returns once the hub has stored it.
	Operate(ctx context.Context, w Wish) (Operation, error)
	// Invite readies the federation for a new member and returns what its spoke needs. The answer holds a secret.
	Invite(ctx context.Context, cluster federation.ClusterID) (Invitation, error)
	// Leave takes a cluster out of the federation for good, and its VIPs and devices out of the tailnets. Said again, it does
	// what could not be done the first time.
	Leave(ctx context.Context, cluster federation.ClusterID) (Departure, error)
	// Wait returns the number of the newest change once it is more than after. It may return earlier with the same number.
	Wait(ctx context.Context, after uint64) (uint64, error)
}

// ServiceID is a federation.ServiceID that is written as text: Kind/namespace/name, nothing for the zero one.
type ServiceID struct{ federation.ServiceID }

// IsZero reports whether it names no service.
func (s ServiceID) IsZero() bool { return s.ServiceID == federation.ServiceID{} }

// String returns Kind/namespace/name, nothing for the zero one.
func (s ServiceID) String() string {
	if s.IsZero() {
		return ""
	}
	return s.ServiceID.String()
}

// MarshalText writes it.
func (s ServiceID) MarshalText() ([]byte, error) {
	return []byte(s.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (s *ServiceID) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*s = ServiceID{}
		return nil
	}
	id, err := federation.ParseServiceID(string(text))
	s.ServiceID = id
	return err
}

// Port is a port of a VIP.
type Port struct {
	Name     string              `json:"name,omitempty"`
	Port     uint16              `json:"port"`
	Protocol federation.Protocol `json:"protocol"`
	// App is what is spoken there, as users write an appProtocol; empty if it is unknown.
	App string `json:"appProtocol,omitempty"`
}

// Ports returns ports of the federation as they are written here.
func Ports(in []federation.Port) []Port {
	out := make([]Port, 0, len(in))
	for _, p := range in {
		out = append(out, Port{Name: p.Name, Port: p.Port, Protocol: p.Protocol, App: p.App.String()})
	}
	return out
}

// String returns number/protocol, with the name where there is one.
func (p Port) String() string {
	s := strconv.Itoa(int(p.Port)) + "/" + string(p.Protocol)
	if p.Name != "" {
		s += " " + p.Name
	}
	return s
}

// Status is the hub and its members as the hub sees them at a moment.
type Status struct {
	// Now is the hub's time of the answer; all other times are to be read against it.
	Now time.Time `json:"now"`
	// Version is the hub's build, Epoch its fencing epoch.
	Version string `json:"version"`
	Epoch   uint64 `json:"epoch"`
	// Rebuilding is set while a hub that has lost its store learns what there is, and says nothing to its members.
	Rebuilding bool `json:"rebuilding"`
	// VIPs counts those of the registry by their state; Tasks is how many the tailnets are still to be asked for.
	VIPs  map[string]int `json:"vips"`
	Tasks int            `json:"tasks"`
	// Clusters are sorted by id, Probes by observer and target. A pair that is not among them does not probe.
	Clusters []Cluster `json:"clusters"`
	Probes   []Probe   `json:"probes"`
}

// Cluster is a member.
type Cluster struct {
	ID     federation.ClusterID `json:"id"`
	Region string               `json:"region,omitempty"`
	Zone   string               `json:"zone,omitempty"`
	// Link is the spoke's link, API the member's API server as the hub reaches it.
	Link Signal `json:"link"`
	API  Signal `json:"api"`
	// Applied is what the spoke said that it has, Newest what the hub has for it.
	Applied Position `json:"applied"`
	Newest  Position `json:"newest"`
	// Exports counts what it offers; Ingress are the probe ports of its ingress hosts.
	Exports  int      `json:"exports"`
	Ingress  []string `json:"ingress,omitempty"`
	Versions Versions `json:"versions"`
	Verdict  Verdict  `json:"verdict"`
	// Mode is what an operator wants of it, since ModeSince.
	Mode      failover.Mode `json:"mode,omitempty"`
	ModeSince time.Time     `json:"modeSince,omitzero"`
}

// Signal is one way by which the hub hears of a member.
type Signal struct {
	Up bool `json:"up"`
	// Since is when it last changed, zero if it never was up under this hub.
	Since  time.Time `json:"since,omitzero"`
	Reason string    `json:"reason,omitempty"`
}

// Position is a version of what a member is told. Versions count within an epoch.
type Position struct {
	Epoch   uint64 `json:"epoch"`
	Version uint64 `json:"version"`
}

// Versions are those that a member's spoke reports; what it does not know is empty.
type Versions struct {
	Spoke        string `json:"spoke,omitempty"`
	Kubernetes   string `json:"kubernetes,omitempty"`
	EnvoyGateway string `json:"envoyGateway,omitempty"`
}

// Verdict is what the hub thinks of a cluster or an export, for a consumer or for everybody.
type Verdict struct {
	Health federation.Health `json:"health"`
	Reason failover.Reason   `json:"reason"`
	// Stale is set while the control view is lost and nothing else says that it is down.
	Stale bool `json:"stale,omitempty"`
	// Share is the percentage of its weight that it takes, 0 to 100.
	Share uint8 `json:"share"`
	// Since is when Health last changed, zero if it never did.
	Since time.Time `json:"since,omitzero"`
}

// Probe is the newest result of a member's probe of another one's ingress.
type Probe struct {
	Observer  federation.ClusterID `json:"observer"`
	Target    federation.ClusterID `json:"target"`
	Reachable bool                 `json:"reachable"`
	At        time.Time            `json:"at"`
	// RTT is how long the probe took, in nanoseconds; 0 if it failed.
	RTT time.Duration `json:"rtt"`
	// Error is why it failed, as the observer tells it.
	Error string `json:"error,omitempty"`
}

// VIP is an entry of the registry.
type VIP struct {
	// ServiceName is the Tailscale Service, without svc:. Name is the registry name.
	ServiceName string `json:"serviceName"`
	Name        string `json:"name"`
	// Service is what it leads to, Cluster where; a federated VIP has no cluster.
	Service   ServiceID            `json:"service"`
	Cluster   federation.ClusterID `json:"cluster,omitempty"`
	Federated bool                 `json:"federated,omitempty"`
	// Tailnet is the member's name for the TailscaleTailnet TailnetRef.
	Tailnet    string       `json:"tailnet"`
	TailnetRef string       `json:"tailnetRef"`
	Addresses  []netip.Addr `json:"addresses"`
	Ports      []Port       `json:"ports"`
	// State is assigned, pending or released. A released one is kept for an export that went away at ReleasedAt.
	State      string    `json:"state"`
	ReleasedAt time.Time `json:"releasedAt,omitzero"`
	// Advertisers are the clusters that should serve a federated VIP now.
	Advertisers []federation.ClusterID `json:"advertisers,omitempty"`
}

// Service is a federated service with its exports, sorted by cluster.
type Service struct {
	ID      ServiceID `json:"id"`
	Exports []Export  `json:"exports"`
	// Policy is the FailoverPolicy that rules it for each consumer, empty for the built-in one.
	Policy map[federation.ClusterID]string `json:"policy,omitempty"`
}

// Export is one cluster's copy of a service.
type Export struct {
	Cluster   federation.ClusterID `json:"cluster"`
	Ready     int                  `json:"ready"`
	Desired   int                  `json:"desired"`
	Ports     []Port               `json:"ports"`
	Addresses []netip.Addr         `json:"addresses"`
	Federated bool                 `json:"federated,omitempty"`
	Weight    uint32               `json:"weight,omitempty"`
	// ClusterPinned: who names this cluster for the service gets this export and no other.
	ClusterPinned bool    `json:"clusterPinned,omitempty"`
	Verdict       Verdict `json:"verdict"`
	// Mode is what an operator wants of the export itself, since ModeSince.
	Mode      failover.Mode `json:"mode,omitempty"`
	ModeSince time.Time     `json:"modeSince,omitzero"`
}

// EndpointSet is what one consumer is told of one service, in the order of its priorities.
type EndpointSet struct {
	Consumer federation.ClusterID `json:"consumer"`
	Service  ServiceID            `json:"service"`
	// Policy is the FailoverPolicy that made it, empty for the built-in one.
	Policy    string     `json:"policy,omitempty"`
	Endpoints []Endpoint `json:"endpoints"`
	// Unreferenced is set if the consumer does not refer to the service, and so is told nothing of it.
	Unreferenced bool `json:"unreferenced,omitempty"`
}

// Endpoint is one cluster's VIP in an endpoint set.
type Endpoint struct {
	Cluster  federation.ClusterID `json:"cluster"`
	Address  netip.Addr           `json:"address"`
	Ports    []Port               `json:"ports"`
	Priority uint32               `json:"priority"`
	Weight   uint32               `json:"weight"`
	Health   federation.Health    `json:"health"`
	Reason   string               `json:"reason"`
	Stale    bool                 `json:"stale,omitempty"`
}

// MaxRecords is how many records one answer of [API.Journal] has at the most.
const MaxRecords = 1000

// JournalQuery says which decisions are wanted.
type JournalQuery struct {
	// After and Before are numbers of records, of which those between are wanted; a Before of 0 is no bound.
	After, Before uint64
	// Limit is how many records are wanted at the most: 0, and what is above [MaxRecords], mean that.
	Limit int
	// Newest asks for the last Limit records, and not for the first.
	Newest bool
	// Service restricts it to one service, and what is said of whole clusters, if it is not zero; Cluster to one cluster.
	Service federation.ServiceID
	Cluster federation.ClusterID
}

// Newest returns the last n of the decisions that a query wants, oldest first, by as many questions as that takes.
func Newest(ctx context.Context, api API, q JournalQuery, n int) ([]Record, error) {
	q.Newest = true
	var out []Record
	for len(out) < n {
		q.Limit = min(n-len(out), MaxRecords)
		records, err := api.Journal(ctx, q)
		if err != nil {
			return nil, err
		}
		out = slices.Concat(records, out)
		if len(records) < q.Limit {
			break
		}
		q.Before = records[0].Seq
	}
	return out, nil
}

// Record is a decision in the journal.
type Record struct {
	// Seq counts from 1 without gaps.
	Seq     uint64               `json:"seq"`
	At      time.Time            `json:"at"`
	Cluster federation.ClusterID `json:"cluster"`
	// Service is zero if the decision is about the whole cluster.
	Service ServiceID `json:"service,omitzero"`
	// Consumer is empty for all consumers.
	Consumer federation.ClusterID `json:"consumer,omitempty"`
	From     federation.Health    `json:"from"`
	To       federation.Health    `json:"to"`
	Reason   failover.Reason      `json:"reason"`
	// Because says in a sentence what it was taken on; Inputs says the same in full.
	Because string          `json:"because"`
	Inputs  failover.Inputs `json:"inputs"`
}

// Wish is what an operator wants of a cluster, or of its export of one service.
type Wish struct {
	Cluster federation.ClusterID `json:"cluster"`
	// Service is zero for the whole cluster. Only an export can be pinned.
	Service ServiceID `json:"service,omitzero"`
	// Mode is Drain, Cordon, Pin, or empty to take a wish back.
	Mode failover.Mode `json:"mode"`
	// Ramp is how long a drain takes, in nanoseconds; negative for the policy's.
	Ramp time.Duration `json:"ramp"`
}

// Operation is a wish that stands.
type Operation struct {
	Wish
	Since time.Time `json:"since,omitzero"`
	// Share is the percentage of its weight that the subject still takes. A drain is Done when that is 0; all others are at
	// once.
	Share uint8 `json:"share"`
	Done  bool  `json:"done"`
	// By is who wanted it, where the hub knows.
	By string `json:"by,omitempty"`
}

// Forecast is what a wish would do.
type Forecast struct {
	Decisions []Record `json:"decisions"`
	// Changed are the endpoint sets that would be other than they are: Before as they are, After as they would be, in the
	// same order, by consumer and service.
	Before []EndpointSet `json:"before"`
	After  []EndpointSet `json:"after"`
	// Orphans are the services that no healthy cluster would be left for.
	Orphans []ServiceID `json:"orphans,omitempty"`
}

// Invitation is what the spoke of a new member needs. AuthKey is a secret that lets a node join the tailnet once.
type Invitation struct {
	Cluster federation.ClusterID `json:"cluster"`
	AuthKey string               `json:"authKey"`
	// Expires is when the key loses its worth.
	Expires time.Time `json:"expires,omitzero"`
	// Hub is the host:port of the hub's link on the tailnet, HubTag the tag that its node carries.
	Hub    string `json:"hub"`
	HubTag string `json:"hubTag"`
	// ControlURL is the tailnet's control server, empty for Tailscale's.
	ControlURL string `json:"controlURL,omitempty"`
	// Tailnet is the TailscaleTailnet that hub and spokes are on.
	Tailnet string `json:"tailnet"`
}

// Departure is what became of a member that left.
type Departure struct {
	Cluster federation.ClusterID `json:"cluster"`
	// VIPs are the Tailscale Services that were its own. They are deleted from the tailnets now or, with Resting, once the hub's
	// quarantine is over: a proxy whose device is still there may come back with the address that it had.
	VIPs    []string `json:"vips"`
	Resting bool     `json:"resting,omitempty"`
	// Devices counts its nodes that were deleted, Left says which ones were not, and why.
	Devices int      `json:"devices"`
	Left    []string `json:"left,omitempty"`
}
