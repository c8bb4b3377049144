package machine

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// rootConfig is what a process with a root of its own is told.
type rootConfig struct {
	Binds map[string]string // where it appears → what appears
	Path  string
	Args  []string // with the name of the program first
	Env   []string
	Dir   string
}

// checkBinds refuses what runRoot cannot do, with the reason.
func checkBinds(binds map[string]string) error {
	for to, from := range binds {
		if !filepath.IsAbs(to) || !filepath.IsAbs(from) || filepath.Clean(to) != to || to == "/" {
			return fmt.Errorf("bind %q to %q: both must be absolute and clean paths, and not the root itself", from, to)
		}
		if _, err := os.Stat(from); err != nil {
			return fmt.Errorf("bind to %s: %w", to, err)
		}
		if _, err := os.Stat(to); err != nil && !topLevel(to) {
			return fmt.Errorf("bind to %s: it must be an existing path or an entry of the root: %w", to, err)
		}
	}
	return nil
}

// source is a copy of a file or directory with all that is mounted below it, attached to nothing yet, so that it can be
// mounted elsewhere when its path is covered.
type source struct {
	fd  int
	dir bool
}

func openSource(path string) (source, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return source{}, fmt.Errorf("open %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return source{}, fmt.Errorf("stat %s: %w", path, err)
	}
	return source{fd: fd, dir: st.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
}

// place makes what the source can be mounted on.
func (s source) place(at string) error {
	if s.dir {
		return os.Mkdir(at, 0o755)
	}
	return os.WriteFile(at, nil, 0o644)
}

// mount mounts the source at a place, once.
func (s source) mount(at string) error {
	if err := unix.MoveMount(s.fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", at, err)
	}
	return nil
}

// runRoot gives this process a root directory of its own, which shows the real root's entries and the binds, and becomes the
// program. It returns only an error.
func runRoot(config *os.File) error {
	var c rootConfig
	if err := readConfig(config, &c); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// All is opened before anything is mounted: the new root covers a directory.
	binds := map[string]source{}
	for to, from := range c.Binds {
		s, err := openSource(from)
		if err != nil {
			return err
		}
		binds[to] = s
	}
	if err := enterRoot(binds); err != nil {
		return err
	}
	// From inside the new root, so that links on the way to a bind lead where the program will see them lead; outer ones
	// first.
	for _, to := range slices.Sorted(maps.Keys(binds)) {
		if err := binds[to].mount(to); err != nil {
			return err
		}
	}
	if err := unix.Chdir(c.Dir); err != nil {
		return fmt.Errorf("change to %s: %w", c.Dir, err)
	}
	if err := unix.Exec(c.Path, c.Args, lastWins(c.Env)); err != nil {
		return fmt.Errorf("start %s: %w", c.Path, err)
	}
	return nil
}

// enterRoot makes a root of the present one's entries and of places for the binds, and changes to it.
func enterRoot(binds map[string]source) error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return fmt.Errorf("read the root: %w", err)
	}
	kept, links, places := map[string]source{}, map[string]string{}, map[string]source{}
	for _, e := range entries {
		path := "/" + e.Name()
		switch _, replaced := binds[path]; {
		case replaced:
		case e.Type()&fs.ModeSymlink != 0:
			links[path], err = os.Readlink(path)
		default:
			kept[path], err = openSource(path)
		}
		if err != nil {
			return fmt.Errorf("root entry %s: %w", path, err)
		}
	}
	maps.Copy(places, kept)
	for to, s := range binds {
		if topLevel(to) {
			places[to] = s
		}
	}
	// Any directory will do to put it on, for nobody else sees it there.
	root := "/dev"
	if err := unix.Mount("root", root, "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return fmt.Errorf("mount a root: %w", err)
	}
	for path, target := range links {
		if err := os.Symlink(target, root+path); err != nil {
			return err
		}
	}
	for path, s := range places {
		if err := s.place(root + path); err != nil {
			return err
		}
	}
	for path, s := range kept {
		if err := s.mount(root + path); err != nil {
			return err
		}
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return nil
}

func topLevel(path string) bool { return strings.LastIndexByte(path, '/') == 0 }
