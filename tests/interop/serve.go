package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"

	"tonic-etcd/tests/interop/greeter"
)

// drainTime is how long requests in flight may take after deregistration.
const drainTime = 5 * time.Second

// greeterServer is the service, the same for every ecosystem.
type greeterServer struct {
	greeter.UnimplementedGreeterServer
	answer string
	// stopping ends streams that would never end.
	stopping <-chan struct{}
}

func newGreeter(ctx context.Context, o *options) *greeterServer {
	return &greeterServer{answer: o.answer, stopping: ctx.Done()}
}

func (g *greeterServer) SayHello(_ context.Context, in *greeter.HelloRequest) (*greeter.HelloReply, error) {
	return &greeter.HelloReply{Message: fmt.Sprintf("Hello %s! %s", in.GetName(), g.answer)}, nil
}

func (g *greeterServer) StreamHellos(in *greeter.StreamRequest, out grpc.ServerStreamingServer[greeter.HelloReply]) error {
	for n := uint32(0); in.GetCount() == 0 || n < in.GetCount(); n++ {
		if err := out.Send(&greeter.HelloReply{Message: fmt.Sprintf("Hello %s, %d! %s", in.GetName(), n, g.answer)}); err != nil {
			return err
		}
		select {
		case <-time.After(time.Duration(in.GetIntervalMs()) * time.Millisecond):
		case <-g.stopping:
			return nil
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
	return nil
}

// drain stops a server as gently as drainTime allows.
func drain(server *grpc.Server) {
	hard := time.AfterFunc(drainTime, server.Stop)
	defer hard.Stop()
	server.GracefulStop()
}

// freeAddress replaces port 0 by a port that is free now, for libraries that advertise what they
// were told to bind.
func freeAddress(listen string) (string, error) {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// awaitAccepting waits until something accepts connections at addr.
func awaitAccepting(ctx context.Context, addr string) error {
	for ctx.Err() == nil {
		if conn, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			return conn.Close()
		}
		pause(ctx, 5*time.Millisecond)
	}
	return ctx.Err()
}
