package tailnet

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
)

// identityTokenLife is how long an identity token is valid, in seconds: the shortest that an API server gives. It is
// exchanged at once.
const identityTokenLife = 600

// read reads the credentials. What the user has to mend is a condition.
func (t *Tailnets) read(ctx context.Context, object *v1alpha1.TailscaleTailnet) (setup, *metav1.Condition, error) {
	s := setup{baseURL: cmp.Or(object.Spec.APIURL, t.APIURL), tailnet: object.Spec.Tailnet, tags: fmt.Sprint(tagsOf(object))}
	if w := object.Spec.WorkloadIdentity; w != nil {
		s.clientID, s.audience = w.ClientID, w.Audience
		return s, nil, nil
	}
	key := t.secretOf(object)
	secret := &corev1.Secret{}
	switch err := t.Reader.Get(ctx, key, secret); {
	case apierrors.IsNotFound(err):
		return setup{}, refuse(v1alpha1.ReasonSecretNotFound, fmt.Sprintf("there is no Secret %s: make it with the keys %s and %s of an OAuth client",
			key, v1alpha1.SecretKeyClientID, v1alpha1.SecretKeyClientSecret)), nil
	case apierrors.IsForbidden(err):
		return setup{}, refuse(v1alpha1.ReasonSecretForbidden, fmt.Sprintf("the hub may not read the Secret %s: put it into the namespace %s, or let the "+
			"ServiceAccount %s/%s get and watch it", key, t.Namespace, t.Namespace, t.ServiceAccount)), nil
	case err != nil:
		return setup{}, nil, fmt.Errorf("read the Secret %s: %w", key, err)
	}
	for _, k := range []string{v1alpha1.SecretKeyClientID, v1alpha1.SecretKeyClientSecret} {
		if len(secret.Data[k]) == 0 {
			return setup{}, refuse(v1alpha1.ReasonSecretInvalid, fmt.Sprintf("the Secret %s has no %s, or an empty one: set it to that of the OAuth client", key, k)), nil
		}
	}
	s.clientID, s.clientSecret = string(secret.Data[v1alpha1.SecretKeyClientID]), string(secret.Data[v1alpha1.SecretKeyClientSecret])
	return s, nil, nil
}

// secretOf names the Secret of a tailnet; it is empty where there is none to read.
func (t *Tailnets) secretOf(object *v1alpha1.TailscaleTailnet) types.NamespacedName {
	if object.Spec.OAuthSecretName == "" {
		return types.NamespacedName{}
	}
	key := types.NamespacedName{Namespace: object.Spec.OAuthSecretNamespace, Name: object.Spec.OAuthSecretName}
	if key.Namespace == "" {
		key.Namespace = t.Namespace
	}
	return key
}

// identityToken requests a token of the hub's own ServiceAccount for a federated identity. It never returns one that the
// API server would take: it goes to an address that the TailscaleTailnet names, where it could be used against the cluster.
func (t *Tailnets) identityToken(ctx context.Context, audience string) (string, error) {
	own, err := t.serverAudiences(ctx)
	if err != nil {
		return "", err
	}
	if slices.Contains(own, audience) {
		return "", fmt.Errorf("the audience %q is that of the cluster's own API server: set workloadIdentity.audience to the one of the federated identity", audience)
	}
	token, err := t.requestToken(ctx, audience)
	if err != nil {
		return "", err
	}
	return token.Status.Token, nil
}

// serverAudiences returns the audiences that the API server takes, which a request for no particular one shows.
func (t *Tailnets) serverAudiences(ctx context.Context) ([]string, error) {
	t.mu.Lock()
	known := t.audiences
	t.mu.Unlock()
	if known != nil {
		return known, nil
	}
	token, err := t.requestToken(ctx)
	if err != nil {
		return nil, err
	}
	if len(token.Spec.Audiences) == 0 {
		return nil, fmt.Errorf("the API server does not say which audiences it takes")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.audiences = token.Spec.Audiences
	return t.audiences, nil
}

func (t *Tailnets) requestToken(ctx context.Context, audiences ...string) (*authenticationv1.TokenRequest, error) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: t.Namespace, Name: t.ServiceAccount}}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: new(int64(identityTokenLife))}}
	switch err := t.Client.SubResource("token").Create(ctx, account, request); {
	case apierrors.IsForbidden(err):
		return nil, fmt.Errorf("the hub may not request tokens of the ServiceAccount %s/%s: let it create serviceaccounts/token of that one", t.Namespace, t.ServiceAccount)
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("there is no ServiceAccount %s/%s: run the hub as one, and name it in the hub's settings", t.Namespace, t.ServiceAccount)
	case err != nil:
		return nil, fmt.Errorf("request a token of the ServiceAccount %s/%s: %w", t.Namespace, t.ServiceAccount, err)
	}
	return request, nil
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
