package translate

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
)

// BackendService returns the federated service that a custom backend object stands for: the one in its
// spec.services, or, where it lists none, the service of its own namespace and name.
func BackendService(object []byte, s Snapshot) (federation.ServiceID, error) {
	var o struct {
		Metadata struct{ Namespace, Name string }
		Spec     struct {
			Services []struct{ Namespace, Name string }
		}
	}
	if err := json.Unmarshal(object, &o); err != nil {
		return federation.ServiceID{}, fmt.Errorf("read backend object: %w", err)
	}
	id := federation.Service(o.Metadata.Namespace, o.Metadata.Name)
	if n := len(o.Spec.Services); n > 1 {
		return federation.ServiceID{}, fmt.Errorf("backend %s/%s names %d services: name one, and give the route one backendRef for each",
			o.Metadata.Namespace, o.Metadata.Name, n)
	} else if n == 1 {
		id.Name = o.Spec.Services[0].Name
		if ns := o.Spec.Services[0].Namespace; ns != "" {
			id.Namespace = ns
		}
	}
	if !slices.ContainsFunc(s.Services, func(svc Service) bool { return svc.ID == id }) {
		return federation.ServiceID{}, fmt.Errorf("backend %s/%s: no member exports a service %s/%s",
			o.Metadata.Namespace, o.Metadata.Name, id.Namespace, id.Name)
	}
	return id, nil
}
