// Package tailnet reads the TailscaleTailnets in the hub's cluster, with the Secrets that they name, and gives the admin
// API of each.
//
// A Secret is read by its name whenever its tailnet is looked at, twice a minute: to watch Secrets the hub would need
// the right to read all of them. New credentials take the place of the old ones then.
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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// Options are what the tailnets need. Client and Reader are required.
type Options struct {
	// Client reads through the cache of the hub's cluster, Reader around it.
	Client client.Client
	Reader client.Reader
	// Namespace is the one that the hub runs in, DefaultNamespace by default.
	Namespace string
	// Federation is the id that the VIPs of this federation carry. By default it is the uid of the namespace
	// kube-system of the hub's cluster; a federation that is to survive the loss of that cluster needs one of its own.
	Federation string
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// Transport is for tests of the admin API.
	Transport http.RoundTripper
}

// Tailnets gives the admin APIs of the tailnets. It is made by [New] and works once it is given to a manager.
type Tailnets struct {
	Options
	started chan struct{} // closed when all tailnets that are there were read once

	mu         sync.Mutex
	tailnets   map[string]*entry
	federation string
}

// entry is a TailscaleTailnet.
type entry struct {
	// setup is what api was made of.
	setup setup
	// api is nil while there is no reason to believe that it works.
	api *tailnet.API
	// refused is why api is nil: a condition.
	refused metav1.Condition
	// checked is when the credentials were last tried, with what result.
	checked time.Time
	info    tailnet.Info
	err     error
	// retry is when they may be tried again.
	retry time.Time
}

// setup is all that an API is made of. It is compared to find out whether something changed.
type setup struct {
	clientID, clientSecret string
	baseURL, tailnet       string
	tags                   string
}

// New returns the tailnets.
func New(o Options) *Tailnets {
	if o.Namespace == "" {
		o.Namespace = DefaultNamespace
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Tailnets{Options: o, started: make(chan struct{}), tailnets: map[string]*entry{}, federation: o.Federation}
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

// load brings the entry of a tailnet in line with its object and Secret, and returns a copy of it. What the user got
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
	if old != nil && old.api != nil && refused == nil && old.setup == s {
		return *old, nil
	}
	e := &entry{setup: s}
	if refused == nil {
		e.api, err = tailnet.NewAPI(tailnet.APIOptions{
			BaseURL: s.baseURL, Tailnet: s.tailnet, ClientID: s.clientID, ClientSecret: s.clientSecret,
			Federation: federation, Tags: tagsOf(object), Now: t.Now, Transport: t.Transport,
		})
		if err != nil {
			refused = refuse(v1alpha1.ReasonInvalid, err.Error())
		}
	}
	if refused != nil {
		e.refused = *refused
	}
	t.tailnets[object.Name] = e
	return *e, nil
}

func (t *Tailnets) forget(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tailnets, name)
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

// read reads the credentials. What the user has to mend is a condition.
func (t *Tailnets) read(ctx context.Context, object *v1alpha1.TailscaleTailnet) (setup, *metav1.Condition, error) {
	key := types.NamespacedName{Namespace: object.Spec.OAuthSecretNamespace, Name: object.Spec.OAuthSecretName}
	if key.Namespace == "" {
		key.Namespace = t.Namespace
	}
	secret := &corev1.Secret{}
	switch err := t.Reader.Get(ctx, key, secret); {
	case apierrors.IsNotFound(err):
		return setup{}, refuse(v1alpha1.ReasonSecretNotFound, fmt.Sprintf("there is no Secret %s: make it with the keys %s and %s of an OAuth client",
			key, v1alpha1.SecretKeyClientID, v1alpha1.SecretKeyClientSecret)), nil
	case apierrors.IsForbidden(err):
		return setup{}, refuse(v1alpha1.ReasonSecretNotFound, fmt.Sprintf("the hub may not read the Secret %s: put it into the namespace %s, or let the hub's "+
			"ServiceAccount get it", key, t.Namespace)), nil
	case err != nil:
		return setup{}, nil, fmt.Errorf("read the Secret %s: %w", key, err)
	}
	s := setup{
		clientID: string(secret.Data[v1alpha1.SecretKeyClientID]), clientSecret: string(secret.Data[v1alpha1.SecretKeyClientSecret]),
		baseURL: object.Spec.APIURL, tailnet: object.Spec.Tailnet, tags: fmt.Sprint(tagsOf(object)),
	}
	for _, k := range []string{v1alpha1.SecretKeyClientID, v1alpha1.SecretKeyClientSecret} {
		if len(secret.Data[k]) == 0 {
			return setup{}, refuse(v1alpha1.ReasonSecretInvalid, fmt.Sprintf("the Secret %s has no %s, or an empty one", key, k)), nil
		}
	}
	return s, nil, nil
}

func tagsOf(object *v1alpha1.TailscaleTailnet) []string {
	var tags []string
	for _, tag := range object.Spec.Tags {
		tags = append(tags, string(tag))
	}
	return tags
}

func refuse(reason, message string) *metav1.Condition {
	return &metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse, Reason: reason, Message: message}
}
