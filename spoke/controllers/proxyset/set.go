package proxyset

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
)

// Key tells sets apart.
type Key struct {
	// Tailnet is the name of the TailscaleTailnet.
	Tailnet string
	// Role is what the set's proxies do.
	Role spoke.Role
}

// String returns the name of the key's StatefulSet and of all objects beside it; a replica and its Secret have the ordinal
// behind it.
func (k Key) String() string {
	prefix := "tailgate-" + string(k.Role) + "-"
	return prefix + shorten(k.Tailnet, maxName-len(prefix))
}

// replica is the name of a pod and of its Secret.
func (k Key) replica(ordinal int32) string { return k.String() + "-" + strconv.Itoa(int(ordinal)) }

// Options are what all sets of a cluster have in common. All are required but ImagePullSecrets, DrainTimeout and LogLevel.
type Options struct {
	// Namespace is the spoke's own, where all objects are.
	Namespace string
	// Image is the one that the spoke itself runs.
	Image string
	// ImagePullSecrets are Secrets of the namespace by which images may be pulled.
	ImagePullSecrets []string
	// Spoke is the host and port at which the proxies reach the spoke.
	Spoke string
	// Cluster is part of the proxies' names in the tailnet.
	Cluster federation.ClusterID
	// DrainTimeout is how long a proxy that was told to end waits for its VIPs to move; 20 seconds where it is 0.
	DrainTimeout time.Duration
	// LogLevel of the proxies; info where it is empty.
	LogLevel string
}

// Set is all that decides what the objects of a set are.
type Set struct {
	Key
	Options
	// Config is what the TailscaleGateways want; the zero value stands for the defaults.
	Config v1alpha1.ProxyConfig
	// Scaler is who else than the TailscaleGateway says how many replicas there are; empty is nobody.
	Scaler string
	// Ordinals is how many replicas have a Secret: those that there should be, and those that are not gone yet.
	Ordinals int32
}

const (
	// maxName is the length of a set's name. It leaves room for what Kubernetes puts behind it in labels, and for the
	// cluster in the proxies' names in the tailnet.
	maxName = 40
	// maxOrdinal is the length of an ordinal, as far as names are concerned.
	maxOrdinal = 2
	// defaultReplicas are two, so that one may be replaced.
	defaultReplicas = 2
	// defaultDrainTimeout is the proxies' own default.
	defaultDrainTimeout = 20 * time.Second
	// hashLen is the length of the hash in a name that was cut.
	hashLen = 8
)

// shorten makes a text a part of a label of at most so many characters. What it changes ends in a hash of the text, so that
// what differed goes on to differ.
func shorten(text string, limit int) string {
	clean := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r == '-', r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, text), "-")
	if clean == text && len(text) <= limit {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	stem := strings.TrimRight(clean[:min(len(clean), limit-hashLen-1)], "-")
	return strings.TrimLeft(stem+"-"+hex.EncodeToString(sum[:])[:hashLen], "-")
}

// tailnetLabel is the tailnet's name, as far as a label can have it.
func tailnetLabel(tailnet string) string {
	if len(validation.IsValidLabelValue(tailnet)) == 0 {
		return tailnet
	}
	return shorten(tailnet, validation.LabelValueMaxLength)
}

// replicas is how many there should be.
func (s Set) replicas() int32 {
	if s.Config.Replicas == nil {
		return defaultReplicas
	}
	return *s.Config.Replicas
}

func (s Set) image() string {
	if s.Config.Image != "" {
		return s.Config.Image
	}
	return s.Image
}

func (s Set) drainTimeout() time.Duration {
	if s.DrainTimeout > 0 {
		return s.DrainTimeout
	}
	return defaultDrainTimeout
}

// hostname is a proxy's name in the tailnet, in which Kubernetes puts the pod's name. It is one label in the end.
func (s Set) hostname() string {
	room := validation.DNS1123LabelMaxLength - len(s.String()) - len("-") - maxOrdinal - len("-")
	return "$(POD_NAME)-" + shorten(string(s.Cluster), room)
}

// The labels of all objects of proxies.
const (
	labelName      = "app.kubernetes.io/name"
	labelComponent = "app.kubernetes.io/component"
	labelPartOf    = "app.kubernetes.io/part-of"
	labelManagedBy = "app.kubernetes.io/managed-by"

	// manager is the value of the label managed-by, and owns the fields that this package writes.
	manager   = "tailgate-spoke"
	component = "proxy"
)

// common are the labels that the objects of all sets have, and by which they are found.
func common() map[string]string {
	return map[string]string{labelManagedBy: manager, labelComponent: component}
}

// mine reports whether an object was made by a spoke for its proxies.
func mine(labels map[string]string) bool {
	for name, value := range common() {
		if labels[name] != value {
			return false
		}
	}
	return true
}

// selector are the labels by which the set's pods are found. They can never change: a StatefulSet's selector cannot.
func (k Key) selector() map[string]string {
	return map[string]string{labelComponent: component, v1alpha1.LabelTailnet: tailnetLabel(k.Tailnet), v1alpha1.LabelProxyRole: string(k.Role)}
}

func (k Key) labels() map[string]string {
	out := k.selector()
	out[labelName], out[labelPartOf], out[labelManagedBy] = "tailgate-proxy", "tailgate", manager
	return out
}
