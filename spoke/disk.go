package spoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// diskFormat is the version of the files' format.
const diskFormat = 1

// keepInterval is the shortest time between two writings of the snapshot.
const keepInterval = 250 * time.Millisecond

// snapshotFile is the hub's state on disk.
type snapshotFile struct {
	Format         int
	Cluster        federation.ClusterID
	Epoch, Version uint64
	Resources      []linkstate.Resource
}

// portsFile is the egress ports on disk.
type portsFile struct {
	Format int
	Leases []portLease
}

func (s *Spoke) snapshotPath() string { return filepath.Join(s.cfg.StateDir, "snapshot.json") }
func (s *Spoke) portsPath() string    { return filepath.Join(s.cfg.StateDir, "egress-ports.json") }

// load reads both files as far as they can be read.
func (s *Spoke) load() {
	s.ports = newPortTable(s.cfg.EgressPorts)
	s.problem("last snapshot", s.loadSnapshot())
	s.problem("last egress ports", s.loadPorts())
}

func (s *Spoke) loadSnapshot() error {
	var f snapshotFile
	if err := readFile(s.snapshotPath(), &f, func() int { return f.Format }); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	if f.Cluster != s.cfg.Cluster {
		return fmt.Errorf("%s is of cluster %q, this is %q: started without it", s.snapshotPath(), f.Cluster, s.cfg.Cluster)
	}
	state, err := linkstate.Restore(f.Epoch, f.Version, f.Resources)
	if err != nil {
		return fmt.Errorf("%s: %w: started without it", s.snapshotPath(), err)
	}
	s.link = state
	return nil
}

func (s *Spoke) loadPorts() error {
	var f portsFile
	if err := readFile(s.portsPath(), &f, func() int { return f.Format }); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	s.ports.restore(f.Leases)
	return nil
}

func (s *Spoke) savePorts() error {
	return writeFile(s.portsPath(), portsFile{Format: diskFormat, Leases: s.ports.list()})
}

// keep writes the snapshot whenever it has changed. What cannot be written shows in the status and is tried again
// with the next change.
func (s *Spoke) keep(ctx context.Context) error {
	for {
		state, changed := s.kept.get()
		if state.Version() > 0 {
			err := writeFile(s.snapshotPath(), snapshotFile{
				Format: diskFormat, Cluster: s.cfg.Cluster, Epoch: state.Epoch(), Version: state.Version(), Resources: state.Resources(),
			})
			if s.do(ctx, func(time.Time) { s.problem("save snapshot", err) }) != nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(keepInterval):
		}
	}
}

// readFile reads JSON of the format that this version writes.
func readFile(path string, into any, format func() int) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read what was kept: %w", err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s cannot be read: %w: started without it, it will be written anew", path, err)
	}
	if format() != diskFormat {
		return fmt.Errorf("%s has format %d, this version reads %d: started without it, it will be written anew", path, format(), diskFormat)
	}
	return nil
}

// writeFile replaces the file at once: a reader finds the old or the new content, also after a crash.
func writeFile(path string, v any) (err error) {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(tmp.Name())))
		}
	}()
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
