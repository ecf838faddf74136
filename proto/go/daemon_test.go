package bpfd_test

import (
	"context"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"bpfd/proto/go/bpfdv1"
)

// The daemon is whoever listens on BPFD_SOCKET; the test only reads.
func TestADaemonAnswersAClientInGo(t *testing.T) {
	socket := os.Getenv("BPFD_SOCKET")
	if socket == "" {
		t.Skip("BPFD_SOCKET is not set: no daemon to call")
	}
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	info, err := bpfdv1.NewSystemServiceClient(connection).GetInfo(ctx, &bpfdv1.GetInfoRequest{})
	if err != nil {
		t.Fatal("GetInfo:", err)
	}
	if info.GetVersion() == "" || info.GetKernel() == "" {
		t.Errorf("GetInfo says neither version nor kernel: %v", info)
	}
	if info.GetState() == bpfdv1.DaemonState_DAEMON_STATE_UNSPECIFIED {
		t.Errorf("GetInfo says no state: %v", info)
	}

	apps, err := bpfdv1.NewAppServiceClient(connection).ListApps(ctx, &bpfdv1.ListAppsRequest{})
	if err != nil {
		t.Fatal("ListApps:", err)
	}
	for _, app := range apps.GetApps() {
		if app.GetUid() == "" || app.GetName() == "" {
			t.Errorf("an app without uid or name: %v", app)
		}
	}
}
