package probe

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tailgate-project/tailgate/federation"
)

// maxGreeting is the longest greeting that is read, in bytes.
const maxGreeting = 256

// ErrGreeting reports an answer at a probe port that is not the greeting of the expected cluster's ingress.
var ErrGreeting = errors.New("not the greeting of this cluster's ingress")

// Greeting is the line that an ingress host of cluster says at its probe port. The version is Tailgate's and has no
// spaces.
func Greeting(cluster federation.ClusterID, version string) string {
	return fmt.Sprintf("tailgate ingress %s %s\n", cluster, version)
}

// readGreeting returns nil if r begins with a greeting of cluster's ingress.
func readGreeting(r io.Reader, cluster federation.ClusterID) error {
	line, err := bufio.NewReaderSize(io.LimitReader(r, maxGreeting), maxGreeting).ReadString('\n')
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the answer %q is no whole line", ErrGreeting, line)
	case err != nil:
		return fmt.Errorf("read greeting: %w", err)
	}
	if fields := strings.Fields(line); len(fields) != 4 || fields[0] != "tailgate" || fields[1] != "ingress" {
		return fmt.Errorf("%w: %q", ErrGreeting, line)
	} else if fields[2] != string(cluster) {
		return fmt.Errorf("%w: want cluster %s, the host belongs to %s", ErrGreeting, cluster, fields[2])
	}
	return nil
}
