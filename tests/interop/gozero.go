package main

import (
	"context"
	"strings"

	"github.com/zeromicro/go-zero/core/conf"
	"github.com/zeromicro/go-zero/core/discov"
	"github.com/zeromicro/go-zero/core/logx"
	"github.com/zeromicro/go-zero/zrpc"
	"google.golang.org/grpc"

	"tonic-etcd/tests/interop/greeter"
)

// serveGoZero runs a zrpc server, which registers itself and handles the signals itself: on
// SIGTERM it revokes its lease at once and stops serving a second later.
func serveGoZero(ctx context.Context, o *options, serving func(string)) error {
	addr, err := freeAddress(o.listen) // it would advertise port 0
	if err != nil {
		return err
	}
	var c zrpc.RpcServerConf
	if err := conf.FillDefault(&c); err != nil {
		return err
	}
	c.Name = o.service
	c.ListenOn = addr
	c.Etcd = goZeroEtcd(o)
	c.Log.Encoding = "plain"
	c.Log.Stat = false
	c.DevServer.Enabled = false // it would listen on a fixed port
	server, err := zrpc.NewServer(c, func(s *grpc.Server) {
		greeter.RegisterGreeterServer(s, newGreeter(ctx, o))
	})
	if err != nil {
		return err
	}
	go func() { // it registers before it listens
		if awaitAccepting(ctx, addr) == nil {
			serving(addr)
		}
	}()
	server.Start() // panics when it cannot register or bind
	server.Stop()
	return nil
}

// dialGoZero has zrpc resolve the service.
func dialGoZero(_ context.Context, o *options) (*connection, error) {
	var c zrpc.RpcClientConf
	if err := conf.FillDefault(&c); err != nil {
		return nil, err
	}
	c.Etcd = goZeroEtcd(o)
	c.NonBlock = true // else dialling waits for a server
	c.Timeout = o.timeout.Milliseconds()
	c.Middlewares.Breaker = false  // it would go on failing calls after a server is back
	c.Middlewares.Duration = false // it logs every call that fails
	logx.DisableStat()
	client, err := zrpc.NewClient(c)
	if err != nil {
		return nil, err
	}
	return &connection{client.Conn(), func() {}}, nil
}

// goZeroEtcd has hosts without a scheme: they become part of a URL.
func goZeroEtcd(o *options) discov.EtcdConf {
	hosts := o.hosts()
	for i, host := range hosts {
		hosts[i] = strings.TrimPrefix(host, "http://")
	}
	return discov.EtcdConf{Hosts: hosts, Key: o.service}
}
