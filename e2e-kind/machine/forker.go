package machine

import (
	"os/exec"
	"runtime"
	"sync"
)

// start starts cmd from an OS thread that lives as long as the process. The kernel sends a child its parent-death signal
// when the thread that forked it ends, and the Go runtime ends a thread when a goroutine locked to it returns: a child
// started from just any thread could be killed while the process lives on.
func start(cmd *exec.Cmd) error {
	errc := make(chan error, 1)
	forks() <- func() { errc <- cmd.Start() }
	return <-errc
}

var forks = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for fork := range c {
			fork()
		}
	}()
	return c
})
