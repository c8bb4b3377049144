// Package tailnet reads the TailscaleTailnets in the hub's cluster, with the credentials that they name, tries them, and
// gives the admin API of each.
//
// A Secret is watched by its name, so that new credentials take the place of the old ones at once; where the hub may only
// get it, it is read twice a minute. Credentials that work are tried by one small read at a time, those that do not with
// exponential backoff.
package tailnet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/hub/tailnet"
)

var (
	// ErrNoTailnet reports that there is no TailscaleTailnet of a name.
	ErrNoTailnet = errors.New("no such TailscaleTailnet")
	// ErrNotReady reports a tailnet that cannot be managed yet; the object's conditions say more.
	ErrNotReady = errors.New("tailnet is not ready")
)

// DefaultNamespace is where the Secrets of TailscaleTailnets are that name no namespace.
const DefaultNamespace = "tailgate-system"

// DefaultServiceAccount is the one that the hub runs as.
const DefaultServiceAccount = "tailgate-hub"

// Options are what the tailnets need. Client and Reader are required.
type Options struct {
	// Client reads through the cache of the hub's cluster, Reader around it.
	Client client.Client
	Reader client.Reader
	// Namespace is the one that the hub runs in, DefaultNamespace by default. ServiceAccount is what it runs as there, of
	// which it requests tokens for federated identities, DefaultServiceAccount by default.
	Namespace, ServiceAccount string
	// APIURL is the address of the admin API of TailscaleTailnets that name none, Tailscale's by default.
	APIURL string
	// Federation is the id that the VIPs of this federation carry. By default it is the uid of the namespace
	// kube-system of the hub's cluster; a federation that is to survive the loss of that cluster needs one of its own.
	Federation string
	// LookInterval is how often a Secret is read that cannot be watched, and a tailnet that is to be left; 30 s by default.
	LookInterval time.Duration
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// Transport is for tests of the admin API.
	Transport http.RoundTripper
}

// Tailnets gives the admin APIs of the tailnets. It is made by [New] and works once it is given to a manager.
type Tailnets struct {
	Options
	started chan struct{} // closed when all tailnets that are there were read once
	secrets *secrets
	record  func(o *v1alpha1.TailscaleTailnet, c metav1.Condition)

	mu         sync.Mutex
	tailnets   map[string]*entry
	federation string
	// audiences are those that the API server takes itself, nil while they are not known.
	audiences []string
}

// entry is a TailscaleTailnet.
type entry struct {
	// setup is what api was made of.
	setup setup
	// secret is the one with the OAuth client; empty for a federated identity.
	secret types.NamespacedName
	// api is nil while there is no reason to believe that it works.
	api *tailnet.API
	// refused is why api is nil: a condition.
	refused metav1.Condition
	// leaving is set while the object is being deleted.
	leaving bool
	trial   trial
}

// trial is what trying the credentials has shown.
type trial struct {
	// taken is whether the API ever took them.
	taken bool
	// checked is when it last told what info says; zero is never.
	checked time.Time
	info    tailnet.Info
	// err is what went wrong the last time, failures how often in a row.
	err      error
	failures int
	// retry is when they may be tried again, turn whose turn it is then.
	retry time.Time
	turn  int
}

// setup is all that an API is made of. It is compared to find out whether something changed.
type setup struct {
	clientID, clientSecret, audience string
	baseURL, tailnet                 string
	tags                             string
}

// New returns the tailnets.
func New(o Options) *Tailnets {
	if o.Namespace == "" {
		o.Namespace = DefaultNamespace
	}
	if o.ServiceAccount == "" {
		o.ServiceAccount = DefaultServiceAccount
	}
	if o.LookInterval == 0 {
		o.LookInterval = 30 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Tailnets{
		Options: o, started: make(chan struct{}), secrets: newSecrets(), tailnets: map[string]*entry{}, federation: o.Federation,
		record: func(*v1alpha1.TailscaleTailnet, metav1.Condition) {},
	}
}

// Get returns the API of the TailscaleTailnet of that name, or an error that wraps [ErrNoTailnet] or [ErrNotReady].
func (t *Tailnets) Get(name string) (*tailnet.API, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.tailnets[name]
	switch {
	case ok && e.api != nil:
		return e.api, nil
	case ok:
		return nil, fmt.Errorf("%w: %s: %s", ErrNotReady, name, e.refused.Message)
	}
	select {
	case <-t.started:
		return nil, fmt.Errorf("%w: %s", ErrNoTailnet, name)
	default:
		return nil, fmt.Errorf("%w: %s: the TailscaleTailnets are not read yet", ErrNotReady, name)
	}
}

// ControlURL returns the control server that the TailscaleTailnet of that name gives, which may be none.
func (t *Tailnets) ControlURL(ctx context.Context, name string) (string, error) {
	var object v1alpha1.TailscaleTailnet
	if err := t.Client.Get(ctx, types.NamespacedName{Name: name}, &object); err != nil {
		return "", fmt.Errorf("get the TailscaleTailnet: %w", err)
	}
	return object.Spec.ControlURL, nil
}

// Names returns the names of all TailscaleTailnets, sorted. It waits until they were read once.
func (t *Tailnets) Names(ctx context.Context) ([]string, error) {
	select {
	case <-t.started:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the TailscaleTailnets: %w", ctx.Err())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(maps.Keys(t.tailnets)), nil
}

// begin reads all tailnets once, without calling their APIs, so that Get and Names know them.
func (t *Tailnets) begin(ctx context.Context) error {
	var list v1alpha1.TailscaleTailnetList
	if err := t.Client.List(ctx, &list); err != nil {
		return fmt.Errorf("list the TailscaleTailnets: %w", err)
	}
	for i := range list.Items {
		if _, err := t.load(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	close(t.started)
	return nil
}

// load brings the entry of a tailnet in line with its object and credentials, and returns a copy of it. What the user got
// wrong becomes part of the entry, not the error.
func (t *Tailnets) load(ctx context.Context, object *v1alpha1.TailscaleTailnet) (entry, error) {
	federation, err := t.federationID(ctx)
	if err != nil {
		return entry{}, err
	}
	s, refused, err := t.read(ctx, object)
	if err != nil {
		return entry{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.tailnets[object.Name]
	if old != nil && old.api != nil {
		old.leaving = !object.DeletionTimestamp.IsZero()
		// A Secret that is deleted along with its tailnet still serves to clean up.
		if refused == nil && old.setup == s || refused != nil && old.leaving {
			return *old, nil
		}
	}
	e := &entry{setup: s, secret: t.secretOf(object), leaving: !object.DeletionTimestamp.IsZero()}
	e.trial.taken = old == nil && tookBefore(object)
	if refused == nil {
		o := tailnet.APIOptions{
			BaseURL: s.baseURL, Tailnet: s.tailnet, ClientID: s.clientID, ClientSecret: s.clientSecret,
			Federation: federation, Tags: tagsOf(object), Now: t.Now, Transport: t.Transport,
		}
		if s.audience != "" {
			o.IdentityToken = func(ctx context.Context) (string, error) { return t.identityToken(ctx, s.audience) }
		}
		if e.api, err = tailnet.NewAPI(o); err != nil {
			refused = refuse(v1alpha1.ReasonInvalid, err.Error())
		}
	}
	if refused != nil {
		e.refused = *refused
	}
	t.tailnets[object.Name] = e
	t.watchSecretsLocked()
	return *e, nil
}

// watchSecretsLocked has the Secrets watched that the tailnets name.
func (t *Tailnets) watchSecretsLocked() {
	wanted := map[types.NamespacedName][]string{}
	for name, e := range t.tailnets {
		if e.secret.Name != "" {
			wanted[e.secret] = append(wanted[e.secret], name)
		}
	}
	t.secrets.want(wanted)
}

func (t *Tailnets) forget(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tailnets, name)
	t.watchSecretsLocked()
}

// federationID returns the federation's id.
func (t *Tailnets) federationID(ctx context.Context) (string, error) {
	t.mu.Lock()
	id := t.federation
	t.mu.Unlock()
	if id != "" {
		return id, nil
	}
	system := &metav1.PartialObjectMetadata{}
	system.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := t.Reader.Get(ctx, types.NamespacedName{Name: metav1.NamespaceSystem}, system); err != nil {
		return "", fmt.Errorf("read the uid of the namespace %s, which is the federation's id: %w", metav1.NamespaceSystem, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.federation = string(system.UID)
	return t.federation, nil
}
