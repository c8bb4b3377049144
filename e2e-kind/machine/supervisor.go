package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Supervisor runs the processes of one machine, or of one test. Each is the leader of a process group of its own and gets
// SIGKILL when this program dies. The zero value is ready for use.
type Supervisor struct {
	// Log, if set before the first Start, hears of restarts.
	Log *slog.Logger

	mu    sync.Mutex
	order []*Running // in the order of their start
}

// Running is a process that a supervisor started.
type Running struct {
	process Process
	quit    chan struct{} // closed to make the end final
	once    sync.Once
	done    chan struct{} // closed when it has ended for good
	err     error         // how; set before done is closed

	mu       sync.Mutex
	pid      int
	stopping bool
}

// Start starts a process and returns when it is ready. ctx bounds that wait and nothing else: the process runs until
// [Running.Stop] or [Supervisor.Stop]. If it ends before it is ready, or is not in time, it is stopped and the error has the
// end of its log.
func (s *Supervisor) Start(ctx context.Context, p Process) (*Running, error) {
	if err := p.complete(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	r := &Running{process: p, quit: make(chan struct{}), done: make(chan struct{})}
	if err := s.enter(r); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	exited, err := r.spawn()
	if err != nil {
		s.leave(r)
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	go func() {
		r.err = s.keep(r, exited)
		s.leave(r)
		close(r.done)
	}()
	if err := r.waitReady(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start %w", err), r.Stop())
	}
	return r, nil
}

// Run blocks until ctx ends or a process ends by itself for good, and then stops all processes, the last one first. The
// error is that of the process that ended, or nil.
func (s *Supervisor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, r := range s.running() {
		go func() {
			select {
			case <-r.done:
				cancel(errEnded{r.err})
			case <-ctx.Done():
			}
		}()
	}
	<-ctx.Done()
	if ended, ok := errors.AsType[errEnded](context.Cause(ctx)); ok {
		return errors.Join(ended.error, s.Stop())
	}
	return s.Stop()
}

// errEnded is the cause of the end of Run's context if that is a process.
type errEnded struct{ error }

// Stop stops all processes, the last started first, one after the other.
func (s *Supervisor) Stop() error {
	var errs []error
	for _, r := range slices.Backward(s.running()) {
		errs = append(errs, r.Stop())
	}
	return errors.Join(errs...)
}

func (s *Supervisor) running() []*Running {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

func (s *Supervisor) enter(r *Running) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.order {
		if other.process.Name == r.process.Name {
			return errors.New("a process of that name runs already")
		}
	}
	s.order = append(s.order, r)
	return nil
}

func (s *Supervisor) leave(r *Running) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order = slices.DeleteFunc(s.order, func(other *Running) bool { return other == r })
}

// keep waits for the process's end and starts it again where it should. It returns how it ended for good: nil if it was
// asked to.
func (s *Supervisor) keep(r *Running, exited <-chan error) error {
	delay := firstRestartDelay
	for {
		started := time.Now()
		ended := <-exited
		if r.isStopping() {
			return nil
		}
		err := r.process.ended(ended)
		if !r.process.Restart {
			return err
		}
		if time.Since(started) > maxRestartDelay {
			delay = firstRestartDelay
		}
		if s.Log != nil {
			s.Log.Warn("process ended, starting it again", "process", r.process.Name, "after", delay, "error", err)
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-r.quit:
			timer.Stop()
			return nil
		}
		delay = min(2*delay, maxRestartDelay)
		if exited, err = r.spawn(); err != nil {
			return fmt.Errorf("start %s again: %w", r.process.Name, err)
		}
	}
}

// spawn starts the process and returns a channel with how it ended, once it has. A stop that came meanwhile ends it at once.
func (r *Running) spawn() (<-chan error, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	exited := make(chan error, 1)
	if r.stopping {
		exited <- nil
		return exited, nil
	}
	cmd, err := r.process.spawn()
	if err != nil {
		return nil, err
	}
	r.pid = cmd.Process.Pid
	go func() { exited <- cmd.Wait() }()
	return exited, nil
}

func (r *Running) waitReady(ctx context.Context) error {
	if r.process.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.process.ReadyTimeout)
	defer cancel()
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		err := r.process.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-r.done:
			return r.err
		case <-ctx.Done():
			return fmt.Errorf("%s: not ready: %w (%w); the end of %s:\n%s", r.process.Name, err, ctx.Err(), r.process.LogFile, r.process.logTail())
		}
	}
}

// Name is that of the process.
func (r *Running) Name() string { return r.process.Name }

// PID is the id of the process, or of its last incarnation.
func (r *Running) PID() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pid
}

// Done is closed when the process has ended for good.
func (r *Running) Done() <-chan struct{} { return r.done }

// Err says, after Done, how the process ended: nil if it was stopped, else with the end of its log.
func (r *Running) Err() error {
	select {
	case <-r.done:
		return r.err
	default:
		return nil
	}
}

// Kill sends SIGKILL to the process and its group, as a crash would. It is not a stop: Done closes and Err tells of it, or
// the process is started again if it is to be.
func (r *Running) Kill() error {
	select {
	case <-r.done:
		return nil
	default:
	}
	if err := signalGroup(r.PID(), unix.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", r.process.Name, err)
	}
	return nil
}

// Stop ends the process for good, by SIGTERM and, when that takes too long, SIGKILL, and returns when it is gone. It does
// nothing to one that has ended.
func (r *Running) Stop() error {
	r.mu.Lock()
	r.stopping = true
	pid := r.pid
	r.mu.Unlock()
	r.once.Do(func() { close(r.quit) })
	select {
	case <-r.done:
		return nil
	default:
	}
	if err := signalGroup(pid, unix.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", r.process.Name, err)
	}
	timer := time.NewTimer(r.process.StopTimeout)
	defer timer.Stop()
	select {
	case <-r.done:
		return nil
	case <-timer.C:
	}
	if err := signalGroup(pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", r.process.Name, err)
	}
	<-r.done
	return nil
}

func (r *Running) isStopping() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopping
}

// signalGroup signals a process group; one that is gone already is no error.
func signalGroup(pid int, sig unix.Signal) error {
	if err := unix.Kill(-pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}
