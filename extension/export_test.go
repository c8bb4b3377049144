package extension

import "github.com/tailgate-project/tailgate/extension/translate"

// FailOn makes translations of the snapshots that bad names panic.
func (s *Server) FailOn(bad func(Snapshot) bool) {
	s.translate = func(in translate.Resources, ps []translate.Policy, snap Snapshot) (translate.Resources, []translate.Note) {
		if bad(snap) {
			panic("bad snapshot")
		}
		return translate.Translate(in, ps, snap)
	}
}

// Hang makes all translations wait for the channel.
func (s *Server) Hang(until <-chan struct{}) {
	s.translate = func(in translate.Resources, _ []translate.Policy, _ Snapshot) (translate.Resources, []translate.Note) {
		<-until
		return in, nil
	}
}

// LoadAssignment is what Envoy is sent.
var LoadAssignment = loadAssignment
