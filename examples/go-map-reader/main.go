// go-map-reader prints what a map of an app holds, and then what changes in it.
// bpfd reads the map: this program needs neither root nor a capability, but a rule of the policy that has `map-read`.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"bpfd/proto/go/bpfdv1"
	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // Causes and hints of refusals.
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func main() {
	socket := flag.String("socket", "/run/bpfd/bpfd.sock", "bpfd's socket")
	app := flag.String("app", "counter", "the app that owns the map")
	name := flag.String("map", "packets", "the map's name in the object")
	interval := flag.Duration("interval", time.Second, "from one look to the next")
	once := flag.Bool("once", false, "end after the first look")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	connection := must(grpc.NewClient("unix://"+*socket, grpc.WithTransportCredentials(insecure.NewCredentials())))
	milliseconds := uint32(interval.Milliseconds())
	looks := must(bpfdv1.NewMapServiceClient(connection).WatchMap(ctx, &bpfdv1.WatchMapRequest{
		App: *app, Map: *name, IntervalMs: &milliseconds,
	}))
	for ctx.Err() == nil {
		look, err := looks.Recv()
		if ctx.Err() != nil {
			break
		}
		for _, change := range must(look, err).GetChanges() {
			// Keys and values are JSON, by the C types that the object describes.
			element := change.GetElement()
			if change.GetKind() == bpfdv1.MapChangeKind_MAP_CHANGE_KIND_GONE {
				fmt.Println(element.GetKey(), "is gone")
			} else {
				fmt.Println(element.GetKey(), element.GetValue())
			}
		}
		if *once && look.GetLast() {
			break
		}
	}
}

// must ends the program on an error. bpfd's refusals say why, and what to do.
func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, append([]any{err}, status.Convert(err).Details()...)...)
		os.Exit(1)
	}
	return value
}
