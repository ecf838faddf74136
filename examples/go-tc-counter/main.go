// go-tc-counter prints how many packets an interface sent each second.
// bpfd loads and attaches the BPF program; its map is read here, through the pin that bpfd names.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"bpfd/proto/go/bpfdv1"
	"github.com/cilium/ebpf"
	"github.com/google/uuid"
	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // Causes and hints of refusals.
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func main() {
	socket := flag.String("socket", "/run/bpfd/bpfd.sock", "bpfd's socket")
	object := flag.String("object", "target/bpf/tc-counter.bpf.o", "the compiled BPF program")
	device := flag.String("interface", "eth0", "where to count")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	connection := must(grpc.NewClient("unix://"+*socket, grpc.WithTransportCredentials(insecure.NewCredentials())))
	apps := bpfdv1.NewAppServiceClient(connection)
	upload := must(apps.UploadObject(ctx))
	_ = upload.Send(&bpfdv1.UploadObjectRequest{Chunk: must(os.ReadFile(*object))}) // If this fails, the answer says why.
	uploaded := must(upload.CloseAndRecv())
	hook := &bpfdv1.Hook{Hook: &bpfdv1.Hook_Tc{Tc: &bpfdv1.TcHook{Interface: *device, Direction: bpfdv1.TcDirection_TC_DIRECTION_EGRESS}}}
	events := must(apps.Load(ctx, &bpfdv1.LoadRequest{
		RequestId: uuid.NewString(),
		Source:    &bpfdv1.LoadRequest_ObjectSha256{ObjectSha256: uploaded.GetSha256()},
		Programs:  []*bpfdv1.ProgramSelector{{Selector: &bpfdv1.ProgramSelector_Function{Function: "count"}}},
		Attach:    []*bpfdv1.Attachment{{Hook: hook}},
	}))
	var app *bpfdv1.App
	for app == nil { // Progress comes before the result.
		app = must(events.Recv()).GetResult().GetApp()
	}

	sum, err := watch(ctx, app)
	names := &bpfdv1.UnloadRequest_Apps{Apps: &bpfdv1.AppNames{Names: []string{app.GetName()}}}
	must(apps.Unload(context.Background(), &bpfdv1.UnloadRequest{RequestId: uuid.NewString(), Target: names}))
	fmt.Println("in all:", must(sum, err), "packets")
}

// watch prints what the app's map counts, until it is interrupted: the sum over all CPUs.
func watch(ctx context.Context, app *bpfdv1.App) (sum uint64, err error) {
	counter, err := (*ebpf.Map)(nil), fmt.Errorf("the object has no map `packets`")
	for _, shown := range app.GetMaps() {
		if shown.GetName() == "packets" {
			counter, err = ebpf.LoadPinnedMap(shown.GetPinPath(), &ebpf.LoadPinOptions{ReadOnly: true})
		}
	}
	for before := sum; err == nil && ctx.Err() == nil; before = sum {
		var slots []uint64
		err = counter.Lookup(uint32(0), &slots)
		sum = 0
		for _, slot := range slots {
			sum += slot
		}
		fmt.Println(sum-before, "packets/s")
		time.Sleep(time.Second)
	}
	return sum, err
}

// must ends the program on an error. bpfd's refusals say why, and what to do.
func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, append([]any{err}, status.Convert(err).Details()...)...)
		os.Exit(1)
	}
	return value
}
