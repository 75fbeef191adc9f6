package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"time"

	"github.com/go-kratos/kratos/v2/registry"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// kratosRegistry stands in for kratos' own etcd registry, a module apart from kratos that the
// module proxy these tests build with does not serve. It is written here, for kratos' interfaces:
// it writes kratos' own type in kratos' own encoding. The keys, and when a client lists again, are
// this file's own. README.md says what was compared with the real registry.
type kratosRegistry struct {
	client *clientv3.Client
	ttl    time.Duration
	stop   context.CancelFunc
	ended  chan struct{}
}

var (
	_ registry.Registrar = (*kratosRegistry)(nil)
	_ registry.Discovery = (*kratosRegistry)(nil)
)

const kratosNamespace = "/microservices"

// Register puts the instance under a lease, and again whenever the lease is lost.
func (r *kratosRegistry) Register(ctx context.Context, instance *registry.ServiceInstance) error {
	lease, err := r.put(ctx, instance)
	if err != nil {
		return err
	}
	living, stop := context.WithCancel(context.Background())
	r.stop, r.ended = stop, make(chan struct{})
	go func() {
		defer close(r.ended)
		for living.Err() == nil {
			if renewals, err := r.client.KeepAlive(living, lease); err == nil {
				for range renewals { // closed when the lease is lost, or living done
				}
			}
			for living.Err() == nil {
				if lease, err = r.put(living, instance); err == nil {
					break
				}
				log.Println("register:", err)
				pause(living, retryPause)
			}
		}
	}()
	return nil
}

func (r *kratosRegistry) put(ctx context.Context, instance *registry.ServiceInstance) (clientv3.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	value, err := json.Marshal(instance)
	if err != nil {
		return clientv3.NoLease, err
	}
	lease, err := r.client.Grant(ctx, int64(r.ttl.Seconds()))
	if err != nil {
		return clientv3.NoLease, err
	}
	_, err = r.client.Put(ctx, kratosKey(instance), string(value), clientv3.WithLease(lease.ID))
	return lease.ID, err
}

func kratosKey(instance *registry.ServiceInstance) string {
	return kratosNamespace + "/" + instance.Name + "/" + instance.ID
}

// Deregister deletes the key; the lease expires by itself, as with kratos' own registry.
func (r *kratosRegistry) Deregister(ctx context.Context, instance *registry.ServiceInstance) error {
	if r.stop != nil {
		r.stop()
		<-r.ended
	}
	_, err := r.client.Delete(ctx, kratosKey(instance))
	return err
}

// GetService lists the instances. One value that cannot be read fails the list, and an instance of
// another name is left out: the prefix has no slash at its end.
func (r *kratosRegistry) GetService(ctx context.Context, service string) ([]*registry.ServiceInstance, error) {
	found, err := r.client.Get(ctx, kratosNamespace+"/"+service, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	instances := make([]*registry.ServiceInstance, 0, found.Count)
	for _, kv := range found.Kvs {
		instance := new(registry.ServiceInstance)
		if err := json.Unmarshal(kv.Value, instance); err != nil {
			return nil, fmt.Errorf("%s: %w", kv.Key, err)
		}
		if instance.Name == service {
			instances = append(instances, instance)
		}
	}
	return instances, nil
}

// Watch lists at once, and again after every event.
func (r *kratosRegistry) Watch(ctx context.Context, service string) (registry.Watcher, error) {
	ctx, stop := context.WithCancel(ctx)
	w := &kratosWatcher{registry: r, service: service, ctx: ctx, stop: stop}
	w.watch()
	return w, nil
}

type kratosWatcher struct {
	registry *kratosRegistry
	service  string
	ctx      context.Context
	stop     context.CancelFunc
	changes  clientv3.WatchChan
	listed   bool
}

// watch starts at the current revision, before the first list.
func (w *kratosWatcher) watch() {
	w.changes = w.registry.client.Watch(w.ctx, kratosNamespace+"/"+w.service,
		clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithCreatedNotify())
}

// Next is called again by kratos after an error.
func (w *kratosWatcher) Next() ([]*registry.ServiceInstance, error) {
	if !w.listed {
		w.listed = true
		return w.registry.GetService(w.ctx, w.service)
	}
	select {
	case <-w.ctx.Done():
		return nil, w.ctx.Err()
	case change, ok := <-w.changes:
		if !ok || change.Err() != nil {
			pause(w.ctx, time.Second)
			w.watch()
		}
		return w.registry.GetService(w.ctx, w.service)
	}
}

func (w *kratosWatcher) Stop() error {
	w.stop()
	return nil
}
