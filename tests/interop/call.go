package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"tonic-etcd/tests/interop/greeter"
)

// retryPause is between two attempts at anything that has failed.
const retryPause = 200 * time.Millisecond

// connection is what an ecosystem's dial returns.
type connection struct {
	conn *grpc.ClientConn
	// also is closed with conn.
	also func()
}

// dialled is a connection that may not be there yet. Dialling is separate from calling because some
// libraries block in it while etcd is unreachable.
type dialled struct {
	lock sync.Mutex
	conn *grpc.ClientConn
	err  error
}

func (d *dialled) keepTrying(ctx context.Context, o *options, chosen ecosystem) {
	for ctx.Err() == nil {
		made, err := chosen.dial(ctx, o)
		d.lock.Lock()
		if err == nil {
			d.conn = made.conn
			d.lock.Unlock()
			<-ctx.Done()
			made.conn.Close()
			made.also()
			return
		}
		d.err = err
		d.lock.Unlock()
		log.Println("dial:", err)
		pause(ctx, retryPause)
	}
}

func (d *dialled) get() (*grpc.ClientConn, error) {
	d.lock.Lock()
	defer d.lock.Unlock()
	return d.conn, d.err
}

// call calls SayHello until ctx is done.
func call(ctx context.Context, o *options, chosen ecosystem, events *events) {
	target := &dialled{err: errors.New("dialling")}
	go target.keepTrying(ctx, o, chosen)
	for ctx.Err() == nil {
		message, from, err := callOnce(ctx, o, target)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			events.emit(answeredEvent{"call", true, message, from})
		} else {
			events.emit(failedEvent{"call", false, status.Code(err).String(), status.Convert(err).Message()})
		}
		pause(ctx, o.interval)
	}
}

func callOnce(ctx context.Context, o *options, target *dialled) (message, from string, err error) {
	conn, err := target.get()
	if conn == nil {
		return "", "", status.Error(codes.Unavailable, fmt.Sprintf("not dialled: %v", err))
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	var who peer.Peer
	reply, err := greeter.NewGreeterClient(conn).SayHello(ctx, &greeter.HelloRequest{Name: o.kind}, grpc.Peer(&who))
	if err != nil {
		return "", "", err
	}
	if who.Addr != nil {
		from = who.Addr.String()
	}
	return reply.GetMessage(), from, nil
}

func pause(ctx context.Context, span time.Duration) {
	select {
	case <-time.After(span):
	case <-ctx.Done():
	}
}
