package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	pb "github.com/tailgate-project/tailgate/api/store"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
)

// SequenceKey is the key of the journal's record with the number. Keys are ordered as the numbers are.
func SequenceKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// Sequence returns the number of a record's key, 0 for what is no such key.
func Sequence(key []byte) uint64 {
	if len(key) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key)
}

// Decision returns a decision as the object that is the journal's record with the number, 1 or greater.
func Decision(seq uint64, d failover.Decision) (Object, error) {
	var w writer
	if seq == 0 {
		fail(&w.err, errors.New("the journal counts from 1"))
	}
	m := &pb.Decision{
		At: w.time(d.At), Cluster: w.cluster(d.Subject.Cluster), Consumer: w.anyCluster(d.Consumer),
		From: written(&w, healths, d.From), To: written(&w, healths, d.To), Reason: w.reason(d.Reason), Inputs: w.inputs(d.Inputs),
	}
	if d.Subject.Service != (federation.ServiceID{}) {
		m.Service = w.service(d.Subject.Service)
	}
	return w.done(Journal, string(SequenceKey(seq)), m)
}

// Record decodes a record of the journal.
func Record(o Object) (ledger.Record, error) {
	var m pb.Decision
	if err := o.unseal(&m); err != nil {
		return ledger.Record{}, err
	}
	var r reader
	out := ledger.Record{Seq: Sequence(o.Key), Decision: failover.Decision{
		At: r.time(m.At), Subject: federation.Target{Cluster: r.cluster(m.GetCluster())}, Consumer: r.anyCluster(m.GetConsumer()),
		From: read(&r, healths, m.GetFrom()), To: read(&r, healths, m.GetTo()), Reason: r.reason(m.GetReason()), Inputs: r.inputs(m.GetInputs()),
	}}
	if m.GetService() != nil {
		out.Subject.Service = r.service(m.GetService())
	}
	if o.Kind != Journal || out.Seq == 0 {
		fail(&r.err, fmt.Errorf("%q is no number of the journal", o.Key))
	}
	if r.err != nil {
		return ledger.Record{}, o.wrong(r.err)
	}
	return out, nil
}

// About reports whether a record belongs to the journal of a service: it is about an export of it or about a whole
// cluster. Every record belongs to the journal of the zero service.
func About(r ledger.Record, id federation.ServiceID) bool {
	none := federation.ServiceID{}
	return id == none || r.Subject.Service == none || r.Subject.Service == id
}

func (w *writer) inputs(in failover.Inputs) *pb.Inputs {
	return &pb.Inputs{
		Ready: int64(in.Ready), LinkLost: int64(in.LinkLost), ApiLost: int64(in.APILost), Votes: w.votes(in.Votes),
		Reached: in.Reached, Blind: in.Blind, Mode: written(w, modes, in.Mode), ModeFor: int64(in.ModeFor), Ramp: int64(in.Ramp),
		Times: fromTimes(in.Times), Policy: in.Policy, Operated: in.Operated, New: in.New, Waits: in.Waits,
		Before: w.before(in.Before),
	}
}

// before is nil for the zero cell.
func (w *writer) before(c failover.Cell) *pb.Cell {
	if c == (failover.Cell{}) {
		return nil
	}
	return w.cell(failover.SavedCell{Cell: c})
}

func (r *reader) inputs(m *pb.Inputs) failover.Inputs {
	return failover.Inputs{
		Ready: int(m.GetReady()), LinkLost: time.Duration(m.GetLinkLost()), APILost: time.Duration(m.GetApiLost()), Votes: r.votes(m.GetVotes()),
		Reached: m.GetReached(), Blind: m.GetBlind(), Mode: read(r, modes, m.GetMode()),
		ModeFor: time.Duration(m.GetModeFor()), Ramp: time.Duration(m.GetRamp()),
		Times: toTimes(m.GetTimes()), Policy: m.GetPolicy(), Operated: m.GetOperated(), New: m.GetNew(), Waits: m.GetWaits(),
		Before: r.cell(m.GetBefore()).Cell,
	}
}

// votes is nil if nobody voted.
func (w *writer) votes(v failover.Votes) *pb.Votes {
	if v.Reach == 0 && v.Fail == 0 && v.Doubted == 0 && len(v.Failing) == 0 {
		return nil
	}
	return &pb.Votes{Reach: int64(v.Reach), Fail: int64(v.Fail), Doubted: int64(v.Doubted), Failing: w.clusters(v.Failing)}
}

func (r *reader) votes(m *pb.Votes) failover.Votes {
	return failover.Votes{Reach: int(m.GetReach()), Fail: int(m.GetFail()), Doubted: int(m.GetDoubted()), Failing: r.clusters(m.GetFailing())}
}
