package proxy_test

import (
	"net"
	"os"
	"sync"
	"time"
)

// datagrams is a connected UDP socket without a network, for use in a bubble.
type datagrams struct {
	net.Conn
	in, written chan string
	closed      chan struct{}
	once        sync.Once
	deadline    time.Time
}

func newDatagrams() *datagrams {
	return &datagrams{in: make(chan string), written: make(chan string), closed: make(chan struct{})}
}

func (d *datagrams) Write(b []byte) (int, error) { d.written <- string(b); return len(b), nil }

func (d *datagrams) SetReadDeadline(t time.Time) error { d.deadline = t; return nil }

func (d *datagrams) Read(b []byte) (int, error) {
	select {
	case s := <-d.in:
		return copy(b, s), nil
	case <-time.After(time.Until(d.deadline)):
		return 0, os.ErrDeadlineExceeded
	case <-d.closed:
		return 0, net.ErrClosed
	}
}

func (d *datagrams) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

// packets is an unconnected UDP socket with a single client.
type packets struct {
	net.PacketConn
	*datagrams
}

func newPackets() *packets { return &packets{datagrams: newDatagrams()} }

func (p *packets) LocalAddr() net.Addr { return &net.UDPAddr{} }

func (p *packets) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case s := <-p.in:
		return copy(b, s), &net.UDPAddr{Port: 1234}, nil
	case <-p.closed:
		return 0, nil, net.ErrClosed
	}
}

func (p *packets) WriteTo(b []byte, _ net.Addr) (int, error) { return p.Write(b) }

func (p *packets) Close() error { return p.datagrams.Close() }

func (p *packets) SetDeadline(time.Time) error        { return nil }
func (p *packets) SetReadDeadline(t time.Time) error  { return nil }
func (p *packets) SetWriteDeadline(t time.Time) error { return nil }
