package codec

import (
	"fmt"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/tailgate-project/tailgate/api/store"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/policy"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// done seals a message, or returns why its object cannot be stored.
func (w *writer) done(kind Kind, key string, m proto.Message) (Object, error) {
	if w.err != nil {
		return Object{}, fmt.Errorf("encode %s: %w", Object{Kind: kind, Key: []byte(key)}, w.err)
	}
	return seal(kind, key, m)
}

// done returns what is wrong with an object that was read, whose content has the key.
func (r *reader) done(o Object, key string) error {
	if r.err != nil {
		return o.wrong(r.err)
	}
	return o.named(key)
}

func encodeVIP(e vip.Entry) (Object, error) {
	var w writer
	kind, namespace, name := w.serviceParts(e.Owner.Service)
	m := &pb.VIP{
		Cluster: w.anyCluster(e.Owner.Cluster), Kind: kind, Namespace: namespace, Name: name,
		RegistryName: e.Name, ServiceName: e.ServiceName, Tailnet: e.Tailnet, TailnetRef: e.TailnetRef,
		Addrs: w.addrs(e.Addrs), Ports: w.ports(e.Ports), ReleasedAt: w.time(e.ReleasedAt), Epoch: e.Epoch,
	}
	return w.done(VIP, e.ServiceName, m)
}

func decodeVIP(o Object, known words) (vip.Entry, error) {
	var m pb.VIP
	if err := o.unseal(&m); err != nil {
		return vip.Entry{}, err
	}
	r := reader{words: known}
	e := vip.Entry{
		VIP: federation.VIP{
			Owner: federation.ExportKey{Cluster: r.anyCluster(m.GetCluster()), Service: r.serviceParts(m.GetKind(), m.GetNamespace(), m.GetName())},
			Name:  m.GetRegistryName(), ServiceName: m.GetServiceName(),
			Tailnet: r.share(m.GetTailnet()), TailnetRef: r.share(m.GetTailnetRef()),
			Addrs: r.addrs(m.GetAddrs()), Ports: r.ports(m.GetPorts()),
		},
		ReleasedAt: r.time(m.ReleasedAt), Epoch: m.GetEpoch(),
	}
	return e, r.done(o, e.ServiceName)
}

func encodeExport(s failover.Saved) (Object, error) {
	var w writer
	x := s.Export
	kind, namespace, name := w.serviceParts(x.Key.Service)
	m := &pb.Export{
		Cluster: w.cluster(x.Key.Cluster), Kind: kind, Namespace: namespace, Name: name, Tailnet: x.Tailnet, TailnetRef: x.TailnetRef,
		Ports: w.ports(x.Ports), Ready: int64(x.Ready), Desired: int64(x.Desired), Labels: w.labels(x.Labels), Federated: x.Federated,
		Subject: w.subject(s.SavedSubject), Weight: x.Weight, ClusterPinned: x.ClusterPinned,
	}
	return w.done(Export, x.Key.String(), m)
}

func decodeExport(o Object, known words) (failover.Saved, error) {
	var m pb.Export
	if err := o.unseal(&m); err != nil {
		return failover.Saved{}, err
	}
	r := reader{words: known}
	s := failover.Saved{
		Export: federation.Export{
			Key:     federation.ExportKey{Cluster: r.cluster(m.GetCluster()), Service: r.serviceParts(m.GetKind(), m.GetNamespace(), m.GetName())},
			Tailnet: r.share(m.GetTailnet()), TailnetRef: r.share(m.GetTailnetRef()), Ports: r.ports(m.GetPorts()),
			Ready: int(m.GetReady()), Desired: int(m.GetDesired()), Labels: r.labels(m.GetLabels()), Federated: m.GetFederated(),
			Weight: m.GetWeight(), ClusterPinned: m.GetClusterPinned(),
		},
		SavedSubject: r.subject(m.GetSubject()),
	}
	return s, r.done(o, s.Export.Key.String())
}

// labels are keys and values in turn: that takes a third of the time of a map.
func (w *writer) labels(labels map[string]string) []string {
	if len(labels) == 0 {
		return nil
	}
	keys := make([]string, 0, len(labels))
	for k := range labels {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]string, 0, 2*len(labels))
	for _, k := range keys {
		out = append(out, k, labels[k])
	}
	return out
}

func (r *reader) labels(words []string) map[string]string {
	if len(words) == 0 {
		return nil
	}
	if len(words)%2 != 0 {
		fail(&r.err, fmt.Errorf("label %q has no value", words[len(words)-1]))
		return nil
	}
	out := make(map[string]string, len(words)/2)
	for pair := range slices.Chunk(words, 2) {
		if _, twice := out[pair[0]]; twice {
			fail(&r.err, fmt.Errorf("label %q has two values", pair[0]))
		}
		out[r.share(pair[0])] = r.share(pair[1])
	}
	return out
}

// subject is nil for one at rest.
func (w *writer) subject(s failover.SavedSubject) *pb.Subject {
	if len(s.Cells) == 0 && s.Mode == failover.Normal && s.ModeSince.IsZero() && s.ModeRamp == 0 {
		return nil
	}
	m := &pb.Subject{Mode: written(w, modes, s.Mode), ModeSince: w.time(s.ModeSince), ModeRamp: int64(s.ModeRamp)}
	for _, c := range s.Cells {
		m.Cells = append(m.Cells, w.cell(c))
	}
	return m
}

func (r *reader) subject(m *pb.Subject) failover.SavedSubject {
	if m == nil {
		return failover.SavedSubject{}
	}
	s := failover.SavedSubject{Mode: read(r, modes, m.GetMode()), ModeSince: r.time(m.ModeSince), ModeRamp: time.Duration(m.GetModeRamp())}
	for _, c := range m.GetCells() {
		s.Cells = append(s.Cells, r.cell(c))
	}
	return s
}

func (w *writer) cell(c failover.SavedCell) *pb.Cell {
	return &pb.Cell{
		Consumer: w.anyCluster(c.Consumer), Down: c.Down, Reason: w.reason(c.Reason),
		Since: w.time(c.Since), GoodSince: w.time(c.GoodSince), Returned: w.time(c.Returned),
	}
}

func (r *reader) cell(m *pb.Cell) failover.SavedCell {
	if m == nil {
		return failover.SavedCell{}
	}
	return failover.SavedCell{Consumer: r.anyCluster(m.GetConsumer()), Cell: failover.Cell{
		Down: m.GetDown(), Reason: r.reason(m.GetReason()), Since: r.time(m.Since), GoodSince: r.time(m.GoodSince), Returned: r.time(m.Returned),
	}}
}

func encodeCluster(s failover.SavedCluster) (Object, error) {
	var w writer
	m := &pb.Cluster{Cluster: w.cluster(s.Cluster), Subject: w.subject(s.SavedSubject)}
	return w.done(Cluster, string(s.Cluster), m)
}

func decodeCluster(o Object, known words) (failover.SavedCluster, error) {
	var m pb.Cluster
	if err := o.unseal(&m); err != nil {
		return failover.SavedCluster{}, err
	}
	r := reader{words: known}
	s := failover.SavedCluster{Cluster: r.cluster(m.GetCluster()), SavedSubject: r.subject(m.GetSubject())}
	return s, r.done(o, string(s.Cluster))
}

func encodeMember(x ledger.Member) (Object, error) {
	var w writer
	m := &pb.Member{
		Cluster: w.cluster(x.Cluster), Region: x.Locality.Region, Zone: x.Locality.Zone, InterestAll: x.Interest.All,
		Heard: x.Heard, Complete: x.Complete,
	}
	for _, h := range x.Ingress {
		m.Ingress = append(m.Ingress, &pb.Host{NodeId: h.NodeID, Addr: h.Addr})
	}
	for _, id := range x.Interest.Services {
		m.Interest = append(m.Interest, w.service(id))
	}
	return w.done(Member, string(x.Cluster), m)
}

func decodeMember(o Object, known words) (ledger.Member, error) {
	var m pb.Member
	if err := o.unseal(&m); err != nil {
		return ledger.Member{}, err
	}
	r := reader{words: known}
	x := ledger.Member{
		Cluster: r.cluster(m.GetCluster()), Locality: federation.Locality{Region: m.GetRegion(), Zone: m.GetZone()},
		Interest: federation.Interest{All: m.GetInterestAll()}, Heard: m.GetHeard(), Complete: m.GetComplete(),
	}
	for _, h := range m.GetIngress() {
		x.Ingress = append(x.Ingress, ledger.Host{NodeID: h.GetNodeId(), Addr: h.GetAddr()})
	}
	for _, id := range m.GetInterest() {
		x.Interest.Services = append(x.Interest.Services, r.service(id))
	}
	return x, r.done(o, string(x.Cluster))
}

// policyKey is the key of a policy. The slash, which stands in no name, makes it a key for the default one too.
func policyKey(name string) string { return "/" + name }

func encodePolicy(p policy.Policy) (Object, error) {
	var w writer
	m := &pb.Policy{
		Name: p.Name, Namespaces: p.Select.Namespaces, Names: p.Select.Names, Labels: w.labels(p.Select.Labels), Consumers: w.clusters(p.Select.Consumers),
		MinHealthy: uint32(p.MinHealthy), Times: fromTimes(p.Times),
	}
	for _, place := range p.Order {
		m.Order = append(m.Order, w.place(place))
	}
	for _, weight := range p.Weights {
		m.Weights = append(m.Weights, &pb.Weight{Place: w.place(weight.Place), Weight: weight.Weight})
	}
	return w.done(Policy, policyKey(p.Name), m)
}

func decodePolicy(o Object, known words) (policy.Policy, error) {
	var m pb.Policy
	if err := o.unseal(&m); err != nil {
		return policy.Policy{}, err
	}
	r := reader{words: known}
	if m.GetMinHealthy() > math.MaxUint8 {
		fail(&r.err, fmt.Errorf("min healthy of %d %%", m.GetMinHealthy()))
	}
	p := policy.Policy{
		Name:       m.GetName(),
		Select:     policy.Selector{Namespaces: m.GetNamespaces(), Names: m.GetNames(), Labels: r.labels(m.GetLabels()), Consumers: r.clusters(m.GetConsumers())},
		MinHealthy: uint8(m.GetMinHealthy()), Times: toTimes(m.GetTimes()),
	}
	for _, place := range m.GetOrder() {
		p.Order = append(p.Order, r.place(place))
	}
	for _, weight := range m.GetWeights() {
		p.Weights = append(p.Weights, policy.Weight{Place: r.place(weight.GetPlace()), Weight: weight.GetWeight()})
	}
	return p, r.done(o, policyKey(p.Name))
}

func (w *writer) place(p policy.Place) *pb.Place {
	return &pb.Place{Cluster: w.anyCluster(p.Cluster), Region: p.Region, Zone: p.Zone}
}

func (r *reader) place(m *pb.Place) policy.Place {
	return policy.Place{Cluster: r.anyCluster(m.GetCluster()), Region: m.GetRegion(), Zone: m.GetZone()}
}

func fromTimes(t policy.Times) *pb.Times {
	if t == (policy.Times{}) {
		return nil
	}
	return &pb.Times{Grace: int64(t.Grace), FailbackDelay: int64(t.FailbackDelay), Hold: int64(t.Hold), Ramp: int64(t.Ramp)}
}

func toTimes(m *pb.Times) policy.Times {
	return policy.Times{
		Grace: time.Duration(m.GetGrace()), FailbackDelay: time.Duration(m.GetFailbackDelay()), Hold: time.Duration(m.GetHold()), Ramp: time.Duration(m.GetRamp()),
	}
}
