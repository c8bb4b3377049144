package extension_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
)

// websocket is a connection after its upgrade, with lines in place of frames: nobody on the way reads them.
type websocket struct {
	conn net.Conn
	in   *bufio.Reader
}

func (g *gateway) upgrade(t *testing.T, path string) *websocket {
	t.Helper()
	conn, err := net.Dial("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", path)
	ws := &websocket{conn, bufio.NewReader(conn)}
	resp, err := http.ReadResponse(ws.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%s: %s", path, resp.Status)
	}
	return ws
}

func (ws *websocket) say(line string) (string, error) {
	if _, err := io.WriteString(ws.conn, line); err != nil {
		return "", err
	}
	return ws.in.ReadString('\n')
}
