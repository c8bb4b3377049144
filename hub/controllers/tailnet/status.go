package tailnet

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/hub/tailnet"
)

// describe returns the status of a tailnet.
func describe(object *v1alpha1.TailscaleTailnet, e entry, now time.Time) v1alpha1.TailscaleTailnetStatus {
	status := *object.Status.DeepCopy()
	status.ObservedGeneration = object.Generation
	for _, c := range conditions(object, e) {
		if c.Status == "" {
			meta.RemoveStatusCondition(&status.Conditions, c.Type)
			continue
		}
		c.ObservedGeneration = object.Generation
		c.LastTransitionTime = metav1.NewTime(now)
		meta.SetStatusCondition(&status.Conditions, c)
	}
	if e.api == nil {
		return status
	}
	status.Credentials = credentials(e)
	if e.trial.checked.IsZero() {
		if old := object.Status.Credentials; old != nil && old.ClientID == e.setup.clientID {
			status.Credentials.ExpiresAt = old.ExpiresAt
		}
		return status
	}
	info := e.trial.info
	devices, vips := int32(info.Devices), int32(len(info.VIPs))
	status.TailnetInfo = &v1alpha1.TailnetInfo{Name: nameOf(object, e), MagicDNSSuffix: info.MagicDNSSuffix}
	status.DeviceCount, status.VIPCount = &devices, &vips
	if status.LastSyncTime == nil || e.trial.err == nil && !equality.Semantic.DeepEqual(status, object.Status) {
		at := metav1.NewTime(e.trial.checked.Truncate(time.Second)) // the API keeps no fractions
		status.LastSyncTime = &at
	}
	return status
}

func credentials(e entry) *v1alpha1.TailnetCredentials {
	c := &v1alpha1.TailnetCredentials{Type: v1alpha1.CredentialsOAuthClient, ClientID: e.setup.clientID}
	if e.setup.audience != "" {
		c.Type = v1alpha1.CredentialsWorkloadIdentity
	}
	if at := e.trial.info.Expires; !at.IsZero() {
		c.ExpiresAt = &metav1.Time{Time: at.Truncate(time.Second)}
	}
	return c
}

// nameOf is the tailnet's name: the one in the spec or, where that means the credentials' own, what its nodes' names end
// in.
func nameOf(object *v1alpha1.TailscaleTailnet, e entry) string {
	if n := object.Spec.Tailnet; n != "" && n != "-" {
		return n
	}
	return e.trial.info.MagicDNSSuffix
}

// conditions says what is known of a tailnet. One without a status is not known any more.
func conditions(object *v1alpha1.TailscaleTailnet, e entry) []metav1.Condition {
	if e.api == nil {
		return []metav1.Condition{
			e.refused, {Type: v1alpha1.ConditionAuthenticated}, {Type: v1alpha1.ConditionValidated}, notReady(e.refused),
		}
	}
	accepted := metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAccepted}
	accepted.Message = "the Secret has an OAuth client"
	if e.setup.audience != "" {
		accepted.Message = "the object names a federated identity"
	}
	authenticated := authentication(object, e.trial)
	validated := validation(e.trial, authenticated)
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, Message: "the hub can manage the tailnet"}
	switch {
	case authenticated.Status != metav1.ConditionTrue:
		ready = notReady(authenticated)
	case validated.Status != metav1.ConditionTrue:
		ready = notReady(validated)
	}
	return []metav1.Condition{accepted, authenticated, validated, ready}
}

// notReady is the sum of conditions of which one is not True.
func notReady(because metav1.Condition) metav1.Condition {
	because.Type, because.Status = v1alpha1.ConditionReady, metav1.ConditionFalse
	return because
}

// outages are the errors that say nothing of the credentials, with what to do.
var outages = []struct {
	kind           error
	reason, advice string
}{
	{tailnet.ErrIdentityToken, v1alpha1.ReasonIdentityTokenFailed, ""},
	{tailnet.ErrUnavailable, v1alpha1.ReasonAPIError, "what exists goes on working, changes wait; see status.tailscale.com if it lasts"},
	{tailnet.ErrTimeout, v1alpha1.ReasonAPITimeout, "what exists goes on working, changes wait; see that the hub's network and proxy let it through"},
	{tailnet.ErrNameNotResolved, v1alpha1.ReasonNameNotResolved, "what exists goes on working, changes wait; check spec.apiURL and the DNS of the hub's pod"},
	{tailnet.ErrUnreachable, v1alpha1.ReasonAPIUnreachable, "what exists goes on working, changes wait; check spec.apiURL and the network policies of the hub's pod"},
	{tailnet.ErrNotFound, v1alpha1.ReasonUnexpectedAnswer, "check spec.apiURL and spec.tailnet"},
	{tailnet.ErrRejected, v1alpha1.ReasonUnexpectedAnswer, "check spec.apiURL and spec.tailnet"},
}

// authentication says whether the API took the credentials the last time.
func authentication(object *v1alpha1.TailscaleTailnet, t trial) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionAuthenticated, Status: metav1.ConditionUnknown}
	switch err := t.err; {
	case err == nil, errors.Is(err, tailnet.ErrForbidden), errors.Is(err, errTags):
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonAuthenticated, "the Tailscale API takes the credentials"
	case errors.Is(err, tailnet.ErrUnauthorized) && t.taken:
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonRevoked
		c.Message = err.Error() + "; it took them before, so they were revoked or have expired: " + renew(object)
	case errors.Is(err, tailnet.ErrUnauthorized):
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonUnauthorized
		c.Message = err.Error() + ": " + renew(object)
	case errors.Is(err, tailnet.ErrRateLimited):
		c.Reason = v1alpha1.ReasonRateLimited
		c.Message = err.Error() + "; the next call is due at " + t.retry.UTC().Format(time.RFC3339)
	default:
		c.Reason, c.Message = v1alpha1.ReasonAPIUnreachable, err.Error()
		for _, o := range outages {
			if errors.Is(err, o.kind) {
				c.Reason = o.reason
				if o.advice != "" {
					c.Message += "; " + o.advice
				}
				break
			}
		}
	}
	return c
}

// renew says how the user gets credentials that work.
func renew(object *v1alpha1.TailscaleTailnet) string {
	if object.Spec.WorkloadIdentity != nil {
		return "compare clientID and audience of spec.workloadIdentity, and the issuer and subject of the hub's ServiceAccount, with the federated identity in the admin console"
	}
	return fmt.Sprintf("put the id and the secret of a valid OAuth client into the Secret %s", object.Spec.OAuthSecretName)
}

// errTags reports tags that the VIPs of a tailnet cannot be given.
var errTags = errors.New("the VIPs cannot be given the tags of spec.tags")

// validation says whether the credentials may do what the hub needs.
func validation(t trial, authenticated metav1.Condition) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionValidated, Status: metav1.ConditionFalse}
	missing, isMissing := errors.AsType[*tailnet.MissingScopesError](t.err)
	switch {
	case t.err == nil:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonValidated, "the credentials have the scopes that the hub needs"
	case isMissing:
		c.Reason, c.Message = v1alpha1.ReasonMissingScope, advise(missing)
	case errors.Is(t.err, errTags):
		c.Reason = v1alpha1.ReasonForbidden
		c.Message = t.err.Error() + "; define the tags in the policy file, and let the OAuth client or federated identity own them"
	case errors.Is(t.err, tailnet.ErrForbidden):
		c.Reason, c.Message = v1alpha1.ReasonForbidden, t.err.Error()
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, authenticated.Reason, "the credentials could not be tried; see the condition "+authenticated.Type
	}
	return c
}

// advise says which scopes to give, and where.
func advise(missing *tailnet.MissingScopesError) string {
	var parts []string
	for _, p := range []struct {
		scopes []tailnet.Scope
		what   string
	}{{missing.Scopes, "the credentials lack the scope %s"}, {missing.ReadOnly, "the credentials may only read in the scope %s"}} {
		var names []string
		for _, s := range p.scopes {
			names = append(names, string(s))
		}
		if len(names) > 0 {
			parts = append(parts, fmt.Sprintf(p.what, strings.Join(names, ", ")))
		}
	}
	return strings.Join(parts, "; ") + ": give it to them, with write access, in the admin console under Settings, Trust credentials"
}

// tookBefore reports whether an earlier run of the hub saw the API take the credentials of an object.
func tookBefore(object *v1alpha1.TailscaleTailnet) bool {
	c := meta.FindStatusCondition(object.Status.Conditions, v1alpha1.ConditionAuthenticated)
	return c != nil && object.Status.TailnetInfo != nil && (c.Status != metav1.ConditionFalse || c.Reason == v1alpha1.ReasonRevoked)
}

// namedVIPs is how many VIPs a message names.
const namedVIPs = 5

// inUse is the condition of an object that is deleted while its tailnet has these VIPs, or may have some: err is why they
// cannot be listed, lost whether that needs the user.
func inUse(object *v1alpha1.TailscaleTailnet, vips []string, err error, lost bool) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonInUse}
	if err != nil {
		c.Message = fmt.Sprintf("the tailnet had %d VIPs of this federation, and the hub cannot see whether they are gone: %v", count(object), err)
		if lost {
			c.Message += ". Mend the credentials; or delete the Tailscale Services in the admin console and remove the finalizer " + Finalizer
		}
		return c
	}
	named := strings.Join(vips[:min(len(vips), namedVIPs)], ", ")
	if more := len(vips) - namedVIPs; more > 0 {
		named += fmt.Sprintf(" and %d more", more)
	}
	c.Message = fmt.Sprintf("the tailnet still has %d VIPs of this federation: %s. They are deleted once no TailscaleGateway of a member exports to this tailnet "+
		"and the time for which the hub keeps the VIPs of ended exports is over", len(vips), named)
	return c
}

// count is how many VIPs the tailnet had when they were last read.
func count(object *v1alpha1.TailscaleTailnet) int {
	if object.Status.VIPCount == nil {
		return 0
	}
	return int(*object.Status.VIPCount)
}
