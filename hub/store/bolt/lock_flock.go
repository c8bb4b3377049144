//go:build linux || darwin || freebsd || netbsd || openbsd

package bolt

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// lockRetry is how often a lock is tried that somebody else has.
const lockRetry = 10 * time.Millisecond

// lock takes the lock that bbolt takes, before bbolt does: whoever has it may read the file and knows that it stands
// still. bbolt then finds that it is ours already.
func lock(f *os.File, wait time.Duration) error {
	for waited := time.Duration(0); ; waited += lockRetry {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("lock: %w", err)
		case waited >= wait:
			return errLocked
		}
		time.Sleep(lockRetry)
	}
}
