// A current etcd, built from its own module: Debian's is years old, and renewals have checked
// tokens only since 3.5.28 and 3.6.9. The tests start it in place of the other one:
//
//	make test-current
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
