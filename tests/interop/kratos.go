package main

import (
	"context"

	"github.com/go-kratos/kratos/v2"
	kratosgrpc "github.com/go-kratos/kratos/v2/transport/grpc"
	clientv3 "go.etcd.io/etcd/client/v3"

	"tonic-etcd/tests/interop/greeter"
)

// serveKratos runs a kratos application, which registers itself and handles the signals itself.
func serveKratos(ctx context.Context, o *options, serving func(string)) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: o.hosts()})
	if err != nil {
		return err
	}
	defer client.Close()
	server := kratosgrpc.NewServer(kratosgrpc.Address(o.listen))
	greeter.RegisterGreeterServer(server, newGreeter(ctx, o))
	endpoint, err := server.Endpoint() // binds
	if err != nil {
		return err
	}
	return kratos.New(
		kratos.Name(o.service),
		kratos.Version("v1"),
		kratos.Metadata(map[string]string{"weight": "10"}),
		kratos.Server(server),
		kratos.Registrar(&kratosRegistry{client: client, ttl: o.ttl}),
		kratos.AfterStart(func(context.Context) error { // after registration, too
			serving(endpoint.Host)
			return nil
		}),
	).Run()
}

// dialKratos resolves `discovery:///<service>`.
func dialKratos(ctx context.Context, o *options) (*connection, error) {
	client, err := reachEtcd(ctx, o)
	if err != nil {
		return nil, err
	}
	conn, err := kratosgrpc.DialInsecure(ctx,
		kratosgrpc.WithEndpoint("discovery:///"+o.service),
		kratosgrpc.WithDiscovery(&kratosRegistry{client: client}),
		kratosgrpc.WithTimeout(o.timeout))
	if err != nil {
		client.Close()
		return nil, err
	}
	return &connection{conn, func() { client.Close() }}, nil
}
