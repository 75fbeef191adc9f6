// Programs for the interop tests: gRPC servers and clients that find each other in etcd with
// the libraries of other ecosystems, without this crate. README.md has the details.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:generate protoc -I ../../proto --go_out=. --go_opt=module=tonic-etcd/tests/interop --go_opt=Mgreeter.proto=tonic-etcd/tests/interop/greeter --go-grpc_out=. --go-grpc_opt=module=tonic-etcd/tests/interop --go-grpc_opt=Mgreeter.proto=tonic-etcd/tests/interop/greeter greeter.proto

const usage = `Foreign gRPC servers and clients that meet in etcd, for interop tests.

  interop serve [flags]   register a greeter in etcd, serve it until SIGTERM, deregister
  interop call  [flags]   resolve a greeter in etcd and call it again and again until SIGTERM

Standard output has JSON lines and nothing else; the libraries log to standard error.
Each flag has an environment variable; a flag wins over it.
`

// options are the values of the flags of both commands.
type options struct {
	kind     string
	etcd     string
	service  string
	listen   string
	answer   string
	ttl      time.Duration
	interval time.Duration
	timeout  time.Duration
}

// hosts are the etcd endpoints as URLs.
func (o *options) hosts() []string { return strings.Split(o.etcd, ",") }

// An ecosystem is one way for servers and clients to find each other in etcd.
type ecosystem struct {
	// serve registers, says so with serving(addr), and returns once ctx is done and the
	// registration is gone and the server is down.
	serve func(ctx context.Context, o *options, serving func(addr string)) error
	// dial returns a connection that resolves by way of etcd. It is called again after an error.
	dial func(ctx context.Context, o *options) (*connection, error)
}

var ecosystems = map[string]ecosystem{
	"etcd":    {serve: serveEtcd, dial: dialEtcd},
	"kratos":  {serve: serveKratos, dial: dialKratos},
	"go-zero": {serve: serveGoZero, dial: dialGoZero},
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return errors.New("say serve or call")
	}
	command := args[0]
	switch command {
	case "serve", "call":
	case "help", "-h", "-help", "--help":
		fmt.Print(usage, "\n`interop serve --help` and `interop call --help` list the flags.\n")
		return nil
	default:
		return fmt.Errorf("no command %q: say serve or call", command)
	}
	o, err := parse(command, args[1:])
	if err != nil {
		return err
	}
	chosen, ok := ecosystems[o.kind]
	if !ok {
		return fmt.Errorf("no kind %q: say etcd, kratos or go-zero", o.kind)
	}
	events, err := claimStdout()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	if command == "call" {
		call(ctx, o, chosen, events)
		return nil
	}
	if err := chosen.serve(ctx, o, func(addr string) {
		events.emit(servingEvent{"serving", addr})
	}); err != nil {
		return err
	}
	events.emit(stoppedEvent{"stopped"})
	return nil
}

// parse reads the flags of a command, with the environment for their defaults.
func parse(command string, args []string) (*options, error) {
	o := new(options)
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var invalid error
	text := func(into *string, name, byDefault, help string) {
		flags.StringVar(into, name, env(name, byDefault), help)
	}
	span := func(into *time.Duration, name string, byDefault time.Duration, help string) {
		value := byDefault
		if said := env(name, ""); said != "" {
			parsed, err := time.ParseDuration(said)
			if err != nil {
				invalid = fmt.Errorf("%s: %w", variable(name), err)
			}
			value = parsed
		}
		flags.DurationVar(into, name, value, help)
	}
	text(&o.kind, "kind", "etcd", "whose library: etcd, kratos or go-zero")
	text(&o.etcd, "etcd", "http://127.0.0.1:2379", "etcd endpoints, separated by commas")
	text(&o.service, "service", "greeter", "the service's name in etcd")
	if command == "serve" {
		text(&o.listen, "listen", "127.0.0.1:0", "address to bind, and with its real port to advertise")
		text(&o.answer, "answer", "go", "what greetings end with")
		span(&o.ttl, "ttl", 5*time.Second, "how long the key outlives a crash (go-zero: always 10s)")
	} else {
		span(&o.interval, "interval", 50*time.Millisecond, "pause between two calls")
		span(&o.timeout, "timeout", time.Second, "how long one call may take")
	}
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Printf("interop %s [flags]\n\n", command)
		flags.VisitAll(func(f *flag.Flag) {
			fmt.Printf("  --%-9s %s\n  %11s [env %s, now %q]\n", f.Name, f.Usage, "", variable(f.Name), f.DefValue)
		})
		return nil, err
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return o, errors.Join(err, invalid)
}

func variable(name string) string { return "INTEROP_" + strings.ToUpper(name) }

func env(name, byDefault string) string {
	if value, ok := os.LookupEnv(variable(name)); ok {
		return value
	}
	return byDefault
}

type servingEvent struct {
	Event string `json:"event"`
	Addr  string `json:"addr"`
}

type stoppedEvent struct {
	Event string `json:"event"`
}

type answeredEvent struct {
	Event   string `json:"event"`
	OK      bool   `json:"ok"`
	Message string `json:"message"`
	Peer    string `json:"peer"`
}

type failedEvent struct {
	Event string `json:"event"`
	OK    bool   `json:"ok"`
	Code  string `json:"code"`
	Error string `json:"error"`
}

// events writes JSON lines, unbuffered.
type events struct {
	lock sync.Mutex
	out  *os.File
}

// claimStdout keeps standard output for events: everything else that is written to it, such as a library's
// log, goes to standard error.
func claimStdout() (*events, error) {
	fd, err := unix.Dup(int(os.Stdout.Fd()))
	if err != nil {
		return nil, fmt.Errorf("standard output: %w", err)
	}
	unix.CloseOnExec(fd)
	if err := unix.Dup2(int(os.Stderr.Fd()), int(os.Stdout.Fd())); err != nil {
		return nil, fmt.Errorf("standard output: %w", err)
	}
	return &events{out: os.NewFile(uintptr(fd), "events")}, nil
}

// emit ends the process when standard output is closed.
func (e *events) emit(event any) {
	line, err := json.Marshal(event)
	if err != nil {
		panic(err)
	}
	e.lock.Lock()
	defer e.lock.Unlock()
	if _, err := e.out.Write(append(line, '\n')); err != nil {
		fmt.Fprintln(os.Stderr, "interop: standard output:", err)
		os.Exit(1)
	}
}
