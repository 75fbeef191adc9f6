package main

import (
	"context"
	"log"
	"net"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"tonic-etcd/tests/interop/greeter"
)

// requestTimeout is for one request to etcd.
const requestTimeout = 2 * time.Second

// serveEtcd registers by etcd's own naming library, the one of grpc-go. It has no keepalive of its
// own: the loop here is what its users write.
func serveEtcd(ctx context.Context, o *options, serving func(string)) error {
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	greeter.RegisterGreeterServer(server, newGreeter(ctx, o))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer drain(server)

	client, err := clientv3.New(clientv3.Config{Endpoints: o.hosts()})
	if err != nil {
		return err
	}
	defer client.Close()
	manager, err := endpoints.NewManager(client, o.service)
	if err != nil {
		return err
	}
	addr := listener.Addr().String()
	key := o.service + "/" + addr

	for said := false; ctx.Err() == nil; {
		lease, err := registerEtcd(ctx, o, client, manager, key, addr)
		if err != nil {
			log.Println("register:", err)
			pause(ctx, retryPause)
			continue
		}
		if !said {
			serving(addr)
			said = true
		}
		renewals, err := client.KeepAlive(ctx, lease)
		if err == nil {
			for range renewals { // closed when the lease is lost, or ctx done
			}
		}
		if ctx.Err() == nil {
			log.Println("lease lost, registering again")
			continue
		}
		leaving, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()
		if err := manager.DeleteEndpoint(leaving, key); err != nil {
			log.Println("deregister:", err)
		}
		if _, err := client.Revoke(leaving, lease); err != nil {
			log.Println("revoke:", err)
		}
	}
	select {
	case err := <-served:
		return err
	default:
		return nil
	}
}

func registerEtcd(ctx context.Context, o *options, client *clientv3.Client, manager endpoints.Manager, key, addr string) (clientv3.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	lease, err := client.Grant(ctx, int64(o.ttl.Seconds()))
	if err != nil {
		return clientv3.NoLease, err
	}
	return lease.ID, manager.AddEndpoint(ctx, key, endpoints.Endpoint{Addr: addr}, clientv3.WithLease(lease.ID))
}

// dialEtcd resolves `etcd:///<service>`.
func dialEtcd(ctx context.Context, o *options) (*connection, error) {
	client, err := reachEtcd(ctx, o)
	if err != nil {
		return nil, err
	}
	builder, err := resolver.NewBuilder(client)
	if err != nil {
		client.Close()
		return nil, err
	}
	conn, err := grpc.NewClient("etcd:///"+o.service,
		grpc.WithResolvers(builder),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	if err != nil {
		client.Close()
		return nil, err
	}
	conn.Connect() // builds the resolver, which asks etcd with no time limit: not in a call
	return &connection{conn, func() { client.Close() }}, nil
}

// reachEtcd returns a client of an etcd that has answered: a resolver that is built while etcd is
// unreachable fails, and grpc does not build it again.
func reachEtcd(ctx context.Context, o *options) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: o.hosts()})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := client.Get(ctx, o.service); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}
