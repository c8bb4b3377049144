package verify

import (
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
)

// Picture is what an installation looks like.
type Picture struct {
	Hub     Hub
	Members []Member
}

// Reading is what a clock elsewhere said, between two looks at the own one.
type Reading struct {
	Before, Said, After time.Time
	// Unit is how finely the clock was told.
	Unit time.Duration
}

// Hub is the hub and what its cluster says.
type Hub struct {
	// Err is why the hub does not answer.
	Err      error
	Status   operator.Status
	Services []operator.Service
	Clock    Reading
	// Objects are nil where the management cluster is not to be seen, but only the hub.
	Objects *HubObjects
}

// HubObjects are the hub's own objects in its cluster.
type HubObjects struct {
	Err      error
	Clock    Reading
	Tailnets []v1alpha1.TailscaleTailnet
	Members  []v1alpha1.MemberCluster
}

// Member is a member cluster, seen with the rights of whoever looks.
type Member struct {
	// Context is the name by which the looker calls it.
	Context string
	// Err is why its API server does not answer. Nothing else is known then.
	Err     error
	Version string
	Clock   Reading
	// MissingKinds are those that the API server does not serve, as kind.group.
	MissingKinds []string
	EnvoyGateway EnvoyGateway
	Spoke        Spoke
	Gateways     []v1alpha1.TailscaleGateway
	GatewaysErr  error
	// Requests are those that were sent through its gateways.
	Requests []Request
	// Unasked is why no request could be sent.
	Unasked error
}

// EnvoyGateway is a member's Envoy Gateway.
type EnvoyGateway struct {
	Err error
	// Found says whether there is any; Namespace where.
	Found     bool
	Namespace string
	// Version is empty where neither label nor image says one.
	Version string
	// Ready and Replicas count its pods.
	Ready, Replicas int32
	// Hooks is the host to which it is configured to send its hooks, empty if to none; HooksErr why that is not known.
	Hooks    string
	HooksErr error
	// Started is when the first of its containers started, KindMade when the cluster got the kind TailscaleEndpoints; zero where that is
	// not known, because of AgesErr if there is one.
	Started, KindMade time.Time
	AgesErr           error
}

// Spoke is a member's spoke.
type Spoke struct {
	Err error
	// Namespace is where it was looked for. Pod is the name of its pod, empty if there is none.
	Namespace, Pod string
	Ready          bool
	// Waiting is why its container does not run, Ended what its last end said.
	Waiting, Ended string
	// Hub is the chart's hub.address.
	Hub string
	// Status is what it tells of itself, nil if it does not, because of StatusErr.
	Status    *SpokeStatus
	StatusErr error
	Clock     Reading
}

// SpokeStatus is what is read of the JSON that a spoke answers to /status.
type SpokeStatus struct {
	Cluster federation.ClusterID `json:"cluster"`
	Now     time.Time            `json:"now"`
	Link    struct {
		Up      bool      `json:"up"`
		Reason  string    `json:"reason"`
		Message string    `json:"message"`
		Since   time.Time `json:"since"`
	} `json:"link"`
	Problems       map[string]string `json:"problems"`
	IngressReady   bool              `json:"ingressReady"`
	EgressReady    bool              `json:"egressReady"`
	IngressProblem string            `json:"ingressProblem"`
	EgressProblem  string            `json:"egressProblem"`
}

// Request is one that was sent to an Envoy of a gateway.
type Request struct {
	// Gateway is namespace/name.
	Gateway, Path string
	// Err is why there was no answer. Status is the answer's.
	Err    error
	Status int
	// NoRoute says that it was answered like a path that no route leads to.
	NoRoute bool

	body string
}
