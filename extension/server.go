package extension

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/envoyproxy/gateway/proto/extension"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tailgate-project/tailgate/extension/codec"
	"github.com/tailgate-project/tailgate/extension/translate"
)

// MaxMessage is the largest hook message in bytes, the same on Envoy Gateway's side: a translation takes about 1 KiB
// a route, and gRPC's own 4 MiB end at some four thousand.
const MaxMessage = 64 << 20

// guardTime bounds a hook's work. Envoy Gateway calls hooks without a deadline, one after the other for all
// gateways.
const guardTime = 1500 * time.Millisecond

// Hook names a hook as Envoy Gateway's settings do.
type Hook string

// The hooks that the server answers.
const (
	HookCluster     Hook = "Cluster"
	HookTranslation Hook = "Translation"
)

// Options are what servers of this package need. Listen and TLS are required.
type Options struct {
	// Listen opens the port. It is called when there is something to serve, and not before.
	Listen func(context.Context) (net.Listener, error)
	// TLS must ask for client certificates; see certs.ServerConfig.
	TLS *tls.Config
	Log *slog.Logger
	Now func() time.Time
	// Translate is what the hook server decides by; [translate.Translate] where it is nil.
	Translate func(translate.Resources, []translate.Policy, Snapshot) (translate.Resources, []translate.Note)
}

func (o *Options) complete() error {
	if o.Listen == nil || o.TLS == nil {
		return errors.New("extension options: Listen and TLS are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Translate == nil {
		o.Translate = translate.Translate
	}
	return nil
}

// Server answers Envoy Gateway's hooks from the newest [Snapshot].
//
// No hook ever returns an error: Envoy Gateway would withhold the whole configuration, and not try again. Where the
// newest snapshot cannot be translated, the last good one is; where that cannot either, the input goes back as it
// came, and [Server.Status] says so.
type Server struct {
	pb.UnimplementedEnvoyGatewayExtensionServer

	opts  Options
	now   atomic.Pointer[Snapshot]
	good  atomic.Pointer[Snapshot]
	first chan struct{}
	once  sync.Once

	translate func(translate.Resources, []translate.Policy, Snapshot) (translate.Resources, []translate.Note)

	mu     sync.Mutex
	status Status
	notes  map[string][]translate.Note
}

// NewServer returns a server that answers when [Server.Run] runs and a snapshot was set.
func NewServer(o Options) (*Server, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	return &Server{
		opts: o, first: make(chan struct{}), translate: o.Translate,
		status: Status{Hooks: map[Hook]HookStatus{}, Revisions: map[PolicyKey]Seen{}},
		notes:  map[string][]translate.Note{},
	}, nil
}

// SetSnapshot makes s the state that hooks are answered from. The caller must not change it afterwards. The
// assignments of its services should be set in [EDS] before, or Envoy waits for them.
func (s *Server) SetSnapshot(snap Snapshot) {
	s.now.Store(&snap)
	s.once.Do(func() { close(s.first) })
}

const (
	// window is what a client may send before it is heard, buffer what is read and written at once, in bytes.
	window = 8 << 20
	buffer = 256 << 10
)

// Run waits for the first snapshot, opens the port and answers until ctx ends, which is no error. Until then Envoy
// Gateway finds no server and keeps what it has, which is better than a half answer.
func (s *Server) Run(ctx context.Context) error {
	select {
	case <-s.first:
	case <-ctx.Done():
		return nil
	}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(s.opts.TLS)), grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.StatsHandler(sizes{s}), grpc.ForceServerCodecV2(codec.New()),
		// A translation is one message of some megabytes: its sender is not to wait for leave to send on.
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window), grpc.ReadBufferSize(buffer), grpc.WriteBufferSize(buffer))
	pb.RegisterEnvoyGatewayExtensionServer(g, s)
	s.setServing(true)
	defer s.setServing(false)
	return serve(ctx, g, s.opts, "hook server")
}

// serve runs a gRPC server until ctx ends.
func serve(ctx context.Context, g *grpc.Server, o Options, what string) error {
	l, err := o.Listen(ctx)
	if err != nil {
		return fmt.Errorf("open port of the %s: %w", what, err)
	}
	o.Log.Info("serving", "server", what, "address", l.Addr().String())
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve the %s: %w", what, err)
	}
	return nil
}

// PostTranslateModify puts our routes and clusters into a gateway's resources.
func (s *Server) PostTranslateModify(ctx context.Context, r *pb.PostTranslateModifyRequest) (*pb.PostTranslateModifyResponse, error) {
	in := translate.Resources{Clusters: r.GetClusters(), Routes: r.GetRoutes(), Listeners: r.GetListeners(), Bytes: requestSize(ctx)}
	policies, notes := readPolicies(r.GetPostTranslateContext().GetExtensionResources())
	out := in
	err := s.attempt(func(snap Snapshot) func() {
		res, more := s.translate(in, policies, snap)
		return func() { out, notes = res, append(notes, more...) }
	})
	s.called(HookTranslation, err)
	s.saw(policies, notes, err)
	return &pb.PostTranslateModifyResponse{Clusters: out.Clusters, Secrets: r.GetSecrets(), Listeners: out.Listeners, Routes: out.Routes}, nil
}

// PostClusterModify notes in the cluster of a rule which TailscaleEndpoints it has, for [Server.PostTranslateModify],
// which sees the rule's routes as well. It needs no snapshot.
func (s *Server) PostClusterModify(_ context.Context, r *pb.PostClusterModifyRequest) (*pb.PostClusterModifyResponse, error) {
	var objects [][]byte
	for _, o := range r.GetPostClusterContext().GetBackendExtensionResources() {
		objects = append(objects, o.GetUnstructuredBytes())
	}
	cluster, err := translate.Mark(r.GetCluster(), objects)
	if err != nil {
		cluster = r.GetCluster()
	}
	s.called(HookCluster, err)
	return &pb.PostClusterModifyResponse{Cluster: cluster}, nil
}

func readPolicies(objects []*pb.ExtensionResource) ([]translate.Policy, []translate.Note) {
	var policies []translate.Policy
	var notes []translate.Note
	for _, o := range objects {
		p, err := translate.ParsePolicy(o.GetUnstructuredBytes())
		if err != nil {
			notes = append(notes, translate.Note{Item: "policy", Text: err.Error()})
			continue
		}
		policies = append(policies, p)
	}
	slices.SortFunc(policies, func(a, b translate.Policy) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return policies, notes
}

// attempt does work on the newest snapshot and, where that fails, on the last one that did not. The work must not
// change what others see; what it returns is called, by the caller's goroutine, to keep its result.
func (s *Server) attempt(work func(Snapshot) (keep func())) error {
	newest, good := s.now.Load(), s.good.Load()
	if newest == nil {
		return errors.New("no snapshot was set yet")
	}
	err := s.bounded(work, *newest)
	if err == nil {
		s.good.Store(newest)
		return nil
	}
	if good != nil && good != newest {
		if again := s.bounded(work, *good); again != nil {
			return errors.Join(err, fmt.Errorf("on the last good snapshot: %w", again))
		}
	}
	return err
}

// bounded ends after the guard time and turns a panic into an error. Work that is late goes on without anybody
// reading its result.
func (s *Server) bounded(work func(Snapshot) func(), snap Snapshot) error {
	type result struct {
		keep func()
		err  error
	}
	done := make(chan result, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- result{err: fmt.Errorf("panic: %v", p)}
			}
		}()
		done <- result{keep: work(snap)}
	}()
	timer := time.NewTimer(guardTime)
	defer timer.Stop()
	select {
	case r := <-done:
		if r.err == nil {
			r.keep()
		}
		return r.err
	case <-timer.C:
		return fmt.Errorf("not done after %v", guardTime)
	}
}

// Status says what Envoy Gateway asked and what could not be answered well.
type Status struct {
	// Serving is set while the port is open.
	Serving bool
	// Hooks has an entry for each hook that was called. None after a start means that Envoy Gateway does not know
	// this server.
	Hooks map[Hook]HookStatus
	// Revisions are those of the policies that came with the last translations.
	Revisions map[PolicyKey]Seen
	// Notes say what was left out of the last answers, sorted.
	Notes []translate.Note
}

// HookStatus is about one hook.
type HookStatus struct {
	Calls    uint64
	LastCall time.Time
	// Failures counts the calls that the newest snapshot could not answer.
	Failures  uint64
	LastError string
	// Request and Response are the sizes of the last messages in bytes. Above [MaxMessage] they would be refused.
	Request, Response int
}

// PolicyKey names a policy object.
type PolicyKey struct{ Namespace, Name string }

// Seen is the revision of a policy that a translation came with.
type Seen struct {
	Revision int64
	At       time.Time
	// Answered is false where the input went back as it came, or from an older snapshot.
	Answered bool
}

// Status returns a copy.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.status
	out.Hooks, out.Revisions = maps.Clone(s.status.Hooks), maps.Clone(s.status.Revisions)
	for _, key := range slices.Sorted(maps.Keys(s.notes)) {
		out.Notes = append(out.Notes, s.notes[key]...)
	}
	return out
}

func (s *Server) setServing(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Serving = on
}

func (s *Server) called(h Hook, err error) {
	if err != nil {
		s.opts.Log.Error("hook answered without the newest state", "hook", string(h), "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status.Hooks[h]
	st.Calls++
	st.LastCall = s.opts.Now()
	if err != nil {
		st.Failures++
		st.LastError = err.Error()
	}
	s.status.Hooks[h] = st
}

// saw keeps what a translation showed of the policies.
func (s *Server) saw(policies []translate.Policy, notes []translate.Note, err error) {
	names := []string{"translation"}
	for _, p := range policies {
		names = append(names, p.Namespace+"/"+p.Name)
	}
	s.setNotes(strings.Join(names, " "), notes)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range policies {
		s.status.Revisions[PolicyKey{p.Namespace, p.Name}] = Seen{Revision: p.Revision, At: s.opts.Now(), Answered: err == nil}
	}
}

func (s *Server) setNotes(key string, notes []translate.Note) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(notes) == 0 {
		delete(s.notes, key)
		return
	}
	s.notes[key] = notes
}
