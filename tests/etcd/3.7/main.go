// An etcd of this line, built from its own module: `make test-etcd V=3.7`.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
