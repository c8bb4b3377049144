package tailnet

import (
	"context"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
)

const (
	// firstWatch and lastWatch bound the time between two tries to watch a Secret.
	firstWatch = time.Second
	lastWatch  = 5 * time.Minute
)

// secrets watches the Secrets that tailnets name, each by its name, and of each the metadata only: for that, a right on
// this one Secret is enough. What is in it is read when it is needed.
type secrets struct {
	changed chan struct{}
	wake    chan event.GenericEvent

	mu      sync.Mutex
	wanted  map[types.NamespacedName][]string // the tailnets of each
	watched map[types.NamespacedName]bool
}

func newSecrets() *secrets {
	return &secrets{changed: make(chan struct{}, 1), wake: make(chan event.GenericEvent), watched: map[types.NamespacedName]bool{}}
}

// want says which Secrets are to be watched, for which tailnets.
func (s *secrets) want(wanted map[types.NamespacedName][]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = wanted
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// isWatched reports whether a change of a Secret would be noticed.
func (s *secrets) isWatched(key types.NamespacedName) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watched[key]
}

func (s *secrets) set(key types.NamespacedName, watched bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if watched {
		s.watched[key] = true
	} else {
		delete(s.watched, key)
	}
}

// run watches until ctx ends.
func (s *secrets) run(ctx context.Context, c client.WithWatch) error {
	g, ctx := errgroup.WithContext(ctx)
	running := map[types.NamespacedName]context.CancelFunc{}
	defer func() {
		for _, stop := range running {
			stop()
		}
	}()
	for {
		s.mu.Lock()
		wanted := maps.Clone(s.wanted)
		s.mu.Unlock()
		for key, stop := range running {
			if _, ok := wanted[key]; !ok {
				stop()
				delete(running, key)
			}
		}
		for key := range wanted {
			if _, ok := running[key]; ok {
				continue
			}
			one, stop := context.WithCancel(ctx)
			running[key] = stop
			g.Go(func() error { s.follow(one, c, key); return nil })
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			return g.Wait()
		}
	}
}

// follow watches one Secret until ctx ends. A watch that ends is begun again; what happened between shows in its first
// event.
func (s *secrets) follow(ctx context.Context, c client.WithWatch, key types.NamespacedName) {
	wait := firstWatch
	for ctx.Err() == nil {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
		w, err := c.Watch(ctx, list, client.InNamespace(key.Namespace), client.MatchingFields{"metadata.name": key.Name})
		if err != nil {
			log.FromContext(ctx).V(1).Info("the Secret of a tailnet cannot be watched, it is read twice a minute", "secret", key.String(), "err", err.Error())
		} else {
			s.set(key, true)
			s.tell(ctx, key) // also when it is not there: it may have been when it was last read
			if s.pass(ctx, w, key) {
				wait = firstWatch
			}
			w.Stop()
			s.set(key, false)
		}
		timer := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		wait = min(2*wait, lastWatch)
	}
}

// pass tells of a watch's events until it ends, and reports whether it ended well.
func (s *secrets) pass(ctx context.Context, w watch.Interface, key types.NamespacedName) bool {
	for e := range w.ResultChan() {
		switch e.Type {
		case watch.Added, watch.Modified, watch.Deleted:
			s.tell(ctx, key)
		case watch.Error:
			return false
		}
	}
	return true
}

// tell has the tailnets of a Secret looked at.
func (s *secrets) tell(ctx context.Context, key types.NamespacedName) {
	s.mu.Lock()
	names := s.wanted[key]
	s.mu.Unlock()
	for _, name := range names {
		select {
		case s.wake <- event.GenericEvent{Object: &v1alpha1.TailscaleTailnet{ObjectMeta: metav1.ObjectMeta{Name: name}}}:
		case <-ctx.Done():
			return
		}
	}
}
