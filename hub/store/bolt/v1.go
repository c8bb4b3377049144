package bolt

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

// schemaJSON is the first schema: JSON objects, no head, and in the meta bucket the schema and the epoch, 8 bytes each.
const schemaJSON = 1

// What follows are the objects of that schema. They never change.
type (
	jsonService struct {
		Kind            federation.Kind
		Namespace, Name string
	}
	jsonKey struct {
		Cluster federation.ClusterID
		Service jsonService
	}
	jsonPort struct {
		Name     string
		Port     uint16
		Protocol federation.Protocol
	}
	jsonVIP struct {
		Owner                                  jsonKey
		Name, ServiceName, Tailnet, TailnetRef string
		Addrs                                  []netip.Addr
		Ports                                  []jsonPort
		ReleasedAt                             time.Time
	}
	jsonExport struct {
		Export struct {
			Key                 jsonKey
			Tailnet, TailnetRef string
			Ports               []jsonPort
			Ready               int
		}
		Down []struct {
			Consumer         federation.ClusterID
			Reason           failover.Reason
			Since, GoodSince time.Time
		}
	}
	jsonMember struct {
		Cluster  federation.ClusterID
		Locality struct{ Region, Zone string }
		Ingress  []struct{ NodeID, Addr string }
		Interest struct {
			All      bool
			Services []jsonService
		}
	}
	jsonDecision struct {
		At       time.Time
		Export   jsonKey
		Consumer federation.ClusterID
		From, To federation.Health
		Reason   failover.Reason
		Inputs   struct {
			Ready             int
			LinkLost, APILost time.Duration
			Votes             []jsonVote
		}
	}
	jsonVote struct {
		Observer            federation.ClusterID
		Reachable, Doubtful bool
	}
)

// migrated returns the head of the store, after it was brought to the present schema.
func migrated(tx *bbolt.Tx) (head, error) {
	meta := tx.Bucket(metaBucket)
	if meta == nil || codec.Sequence(meta.Get([]byte("schema"))) != schemaJSON {
		return readHead(tx)
	}
	state, err := loadJSON(tx)
	if err != nil {
		return head{}, err
	}
	records, last, err := journalJSON(tx)
	if err != nil {
		return head{}, err
	}
	epoch := codec.Sequence(meta.Get([]byte("epoch")))
	objects, err := codec.Objects(state)
	if err != nil {
		return head{}, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	for _, name := range []string{"meta", "vips", "exports", "members", "journal"} {
		if err := tx.DeleteBucket([]byte(name)); err != nil {
			return head{}, fmt.Errorf("migrate bucket %s: %w", name, err)
		}
	}
	h, err := layOut(tx, epoch, last-uint64(len(records)))
	if err != nil {
		return head{}, err
	}
	if err := h.putAll(tx, objects); err != nil {
		return head{}, err
	}
	return h, h.append(tx, records)
}

// eachJSON decodes all values of a bucket.
func eachJSON[T any](tx *bbolt.Tx, name string, do func(key []byte, v T) error) error {
	b := tx.Bucket([]byte(name))
	if b == nil {
		return fmt.Errorf("%w: bucket %s is missing", store.ErrCorrupt, name)
	}
	return b.ForEach(func(k, v []byte) error {
		var t T
		err := json.Unmarshal(v, &t)
		if err == nil {
			err = do(k, t)
		}
		if err != nil {
			return fmt.Errorf("%w: %s %q: %w", store.ErrCorrupt, name, k, err)
		}
		return nil
	})
}

func loadJSON(tx *bbolt.Tx) (ledger.State, error) {
	var s ledger.State
	err := eachJSON(tx, "vips", func(_ []byte, v jsonVIP) error {
		s.VIPs = append(s.VIPs, v.entry())
		return nil
	})
	if err != nil {
		return s, err
	}
	err = eachJSON(tx, "exports", func(_ []byte, x jsonExport) error {
		s.Exports = append(s.Exports, x.saved())
		return nil
	})
	if err != nil {
		return s, err
	}
	err = eachJSON(tx, "members", func(_ []byte, m jsonMember) error {
		s.Members = append(s.Members, m.member())
		return nil
	})
	return s, err
}

// journalJSON returns the decisions and the number of the last one that was ever taken.
func journalJSON(tx *bbolt.Tx) (out []failover.Decision, last uint64, err error) {
	err = eachJSON(tx, "journal", func(key []byte, d jsonDecision) error {
		seq := codec.Sequence(key)
		if seq == 0 || len(out) > 0 && seq != last+1 {
			return fmt.Errorf("its number is not the next of %d", last)
		}
		last = seq
		out = append(out, d.decision())
		return nil
	})
	if err == nil && len(out) == 0 {
		last = tx.Bucket([]byte("journal")).Sequence()
	}
	return out, last, err
}

func (s jsonService) id() federation.ServiceID {
	return federation.ServiceID{Kind: s.Kind, Namespace: s.Namespace, Name: s.Name}
}

func (k jsonKey) key() federation.ExportKey {
	return federation.ExportKey{Cluster: k.Cluster, Service: k.Service.id()}
}

func ports(in []jsonPort) []federation.Port {
	var out []federation.Port
	for _, p := range in {
		out = append(out, federation.Port{Name: p.Name, Port: p.Port, Protocol: p.Protocol})
	}
	return out
}

func (v jsonVIP) entry() vip.Entry {
	return vip.Entry{VIP: federation.VIP{
		Owner: v.Owner.key(), Name: v.Name, ServiceName: v.ServiceName, Tailnet: v.Tailnet, TailnetRef: v.TailnetRef, Addrs: v.Addrs, Ports: ports(v.Ports),
	}, ReleasedAt: v.ReleasedAt}
}

// saved says of the cells that they are everybody's or a consumer's, as before; those that were not kept are at rest.
func (x jsonExport) saved() failover.Saved {
	s := failover.Saved{Export: federation.Export{
		Key: x.Export.Key.key(), Tailnet: x.Export.Tailnet, TailnetRef: x.Export.TailnetRef, Ports: ports(x.Export.Ports), Ready: x.Export.Ready,
	}}
	for _, d := range x.Down {
		s.Cells = append(s.Cells, failover.SavedCell{Consumer: d.Consumer, Cell: failover.Cell{Down: true, Reason: d.Reason, Since: d.Since, GoodSince: d.GoodSince}})
	}
	return s
}

// member says of an interest in anything that it was heard, which was not kept, and of the store that it is complete: a
// hub of that schema took what it had kept for all there is.
func (m jsonMember) member() ledger.Member {
	out := ledger.Member{
		Cluster: m.Cluster, Locality: federation.Locality{Region: m.Locality.Region, Zone: m.Locality.Zone}, Interest: federation.Interest{All: m.Interest.All},
	}
	for _, h := range m.Ingress {
		out.Ingress = append(out.Ingress, ledger.Host{NodeID: h.NodeID, Addr: h.Addr})
	}
	for _, s := range m.Interest.Services {
		out.Interest.Services = append(out.Interest.Services, s.id())
	}
	out.Heard, out.Complete = m.Interest.All || len(m.Interest.Services) > 0, true
	slices.SortFunc(out.Interest.Services, federation.ServiceID.Compare)
	out.Interest.Services = slices.Compact(out.Interest.Services)
	return out
}

// maxNamed is how many failing observers a decision names.
const maxNamed = 8

// decision counts the votes, which were listed one by one.
func (d jsonDecision) decision() failover.Decision {
	out := failover.Decision{
		At: d.At, Subject: federation.Target{Cluster: d.Export.Cluster, Service: d.Export.Service.id()}, Consumer: d.Consumer,
		From: d.From, To: d.To, Reason: d.Reason,
		Inputs: failover.Inputs{Ready: d.Inputs.Ready, LinkLost: d.Inputs.LinkLost, APILost: d.Inputs.APILost},
	}
	votes := &out.Inputs.Votes
	for _, v := range d.Inputs.Votes {
		switch {
		case v.Reachable:
			votes.Reach++
			continue
		case v.Doubtful:
			votes.Doubted++
		default:
			votes.Fail++
		}
		votes.Failing = append(votes.Failing, v.Observer)
	}
	slices.Sort(votes.Failing)
	votes.Failing = votes.Failing[:min(len(votes.Failing), maxNamed)]
	return out
}
