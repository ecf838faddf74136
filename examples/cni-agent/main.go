// cni-agent attaches an XDP program to the host's end of each pod's veth pair,
// through bpfd and with the rights of an ordinary user: it has no capability,
// opens no BPF object and writes nothing but its socket. What is attached is
// known to bpfd alone, so the agent may end and start again at any time.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"bpfd/examples/cni-agent/internal/wire"
)

// A container runtime gives a plugin about this long.
const deadline = 30 * time.Second

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cni-agent:", err)
		os.Exit(1)
	}
}

func run() error {
	bpfd := flag.String("bpfd", "/run/bpfd/bpfd.sock", "bpfd's socket")
	socket := flag.String("socket", wire.Socket, "where the plugin finds the agent")
	image := flag.String("image", "", "the image to attach: HOST/REPOSITORY@sha256:DIGEST")
	directory := flag.String("install", "", "copy the plugin to this directory of a container runtime, and end")
	owned := flag.String("own", "", "with -install: DIRECTORY:UID, a directory to give to the agent's user")
	ready := flag.Bool("ready", false, "ask the agent that runs whether it can work, and end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case *directory != "":
		return install(*directory, *owned)
	case *ready:
		return wire.Call(ctx, *socket, "status", wire.Ask{})
	}
	chains, err := dial(*bpfd, *image)
	if err != nil {
		return err
	}
	if err := chains.prepare(ctx); err != nil {
		// Not the end: bpfd may be on its way, and each ADD tries again.
		log.Print(err)
	}
	return serve(ctx, *socket, chains)
}

// serve answers the plugin until the context ends. Calls that have begun are finished.
func serve(ctx context.Context, socket string, chains *chains) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// Root, as which container runtimes run plugins, and this user.
	syscall.Umask(0o177)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	routes := http.NewServeMux()
	for path, verb := range map[string]verb{
		"POST /add": chains.add, "POST /check": chains.check, "POST /del": chains.del, "POST /status": chains.status,
	} {
		routes.Handle(path, verb)
	}
	server := &http.Server{Handler: routes, ReadHeaderTimeout: deadline}
	stopped := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = server.Shutdown(context.Background())
	})
	log.Printf("attaches %s; listens at %s", chains.image, socket)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-stopped
	return nil
}

// verb is one thing that the plugin asks for.
type verb func(context.Context, wire.Ask) error

func (verb verb) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	var ask wire.Ask
	err := json.NewDecoder(http.MaxBytesReader(answer, request.Body, 4096)).Decode(&ask)
	if err == nil {
		ctx, cancel := context.WithTimeout(request.Context(), deadline)
		defer cancel()
		err = verb(ctx, ask)
	}
	if err == nil {
		return
	}
	log.Printf("%s %s: %v", request.URL.Path, ask.Interface, err)
	refusal := &wire.Refusal{Message: err.Error()}
	errors.As(err, &refusal)
	answer.WriteHeader(http.StatusConflict)
	_ = json.NewEncoder(answer).Encode(refusal)
}
