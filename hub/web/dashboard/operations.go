package dashboard

import (
	"net/http"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// eager is after how many seconds a page that shows a drain is asked for again: the share falls while nothing is decided.
const eager = 2

// operationsPage is the content of the operations' page.
type operationsPage struct {
	Headline string
	Rows     []operation
}

// operation is a wish that stands, as tables show it.
type operation struct {
	operator.Operation
	Sign sign
	// Key names its row in the page, and in links to it.
	Key string
	// Gone is the percentage of a drain that is done.
	Gone uint8
}

func (d *dashboard) operations(r *http.Request, _ Viewer) (answer, error) {
	ctx, cancel, s, err := d.status(r)
	defer cancel()
	if err != nil {
		return answer{}, err
	}
	all, err := d.API.Operations(ctx)
	if err != nil {
		return answer{}, err
	}
	p := operationsPage{}
	running := 0
	for _, o := range all {
		p.Rows = append(p.Rows, operationOf(o))
		if !o.Done {
			running++
		}
	}
	switch {
	case len(all) == 0:
		p.Headline = "Nothing is drained, cordoned or pinned"
	case running > 0:
		p.Headline = count(running, "drain") + " under way"
	default:
		p.Headline = count(len(all), "wish") + " in force"
		if len(all) > 1 {
			p.Headline = number(len(all)) + " wishes in force"
		}
	}
	a := answer{template: "operations", title: "Operations", section: "operations", status: &s, content: p}
	a.every = hurry(all, func(operator.Operation) bool { return true })
	return a, nil
}

func operationOf(o operator.Operation) operation {
	return operation{o, modeSign(o.Mode), operationKey(o.Wish), 100 - min(o.Share, 100)}
}

// operationKey names a wish's row: the subject, which has one wish at the most.
func operationKey(w operator.Wish) string {
	if w.Service.IsZero() {
		return "op-" + string(w.Cluster)
	}
	return "op-" + string(w.Cluster) + "-" + w.Service.String()
}

// operationOn finds the wish for an export.
func operationOn(all []operator.Operation, cluster federation.ClusterID, service operator.ServiceID) *operation {
	for _, o := range all {
		if o.Cluster == cluster && o.Service == service {
			return new(operationOf(o))
		}
	}
	return nil
}

// hurry returns after how many seconds a page wants to be asked for again: soon if it shows a drain that goes on.
func hurry(all []operator.Operation, shown func(operator.Operation) bool) int {
	for _, o := range all {
		if o.Mode == failover.Drain && !o.Done && shown(o) {
			return eager
		}
	}
	return 0
}
