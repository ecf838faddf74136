package bpfd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"bpfd/proto/go/bpfdv1"
)

// The largest message of the API, both ways.
const messageLimit = 1 << 20

// To upload; nobody loads it. Without its first quarter of a message it is as long as a message may be, without what is around it.
var object = bytes.Repeat([]byte("bpfd"), (messageLimit+messageLimit/4)/4)

// The daemon is whoever listens on BPFD_SOCKET; the tests load and change nothing.
func daemon(t *testing.T) (context.Context, *grpc.ClientConn) {
	t.Helper()
	socket := os.Getenv("BPFD_SOCKET")
	if socket == "" {
		t.Skip("BPFD_SOCKET is not set: no daemon to call")
	}
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx, connection
}

func TestADaemonAnswersAClientInGo(t *testing.T) {
	ctx, connection := daemon(t)
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

// services are those of the API.
var services = []string{
	"bpfd.v1.AppService",
	"bpfd.v1.ChainService",
	"bpfd.v1.ImageService",
	"bpfd.v1.LinkService",
	"bpfd.v1.MapService",
	"bpfd.v1.PolicyService",
	"bpfd.v1.SystemService",
}

func TestADaemonSaysThatItIsHealthy(t *testing.T) {
	ctx, connection := daemon(t)
	client := grpc_health_v1.NewHealthClient(connection)
	for _, service := range append([]string{""}, services...) {
		answer, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v, %v", service, answer, err)
		}
	}
	// The control: of what it does not serve it does not say so.
	_, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "bpfd.v1.NoService"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("a service that there is not: %v", err)
	}
}

func TestADaemonListsItsServices(t *testing.T) {
	ctx, connection := daemon(t)
	stream, err := grpc_reflection_v1.NewServerReflectionClient(connection).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	request := &grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}
	if err := stream.Send(request); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	slices.Sort(names)
	expected := slices.Concat(services, []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"})
	if !slices.Equal(names, expected) {
		t.Errorf("it lists %q", names)
	}
}

// Sends an object in these pieces.
func upload(ctx context.Context, connection *grpc.ClientConn, pieces ...[]byte) (*bpfdv1.UploadObjectResponse, error) {
	stream, err := bpfdv1.NewAppServiceClient(connection).UploadObject(ctx)
	if err != nil {
		return nil, err
	}
	for _, chunk := range pieces {
		if stream.Send(&bpfdv1.UploadObjectRequest{Chunk: chunk}) != nil {
			// Refused already: the answer says why.
			break
		}
	}
	return stream.CloseAndRecv()
}

func TestAPieceOfAnUploadThatIsTooLargeIsRefused(t *testing.T) {
	ctx, connection := daemon(t)
	// One piece is taken before: it must not stay.
	_, err := upload(ctx, connection, object[:messageLimit/4], object[messageLimit/4:])
	wanted := "Error, decoded message length too large: found 1048580 bytes, the limit is: 1048576 bytes"
	if status.Code(err) != codes.OutOfRange || status.Convert(err).Message() != wanted {
		t.Error("not refused for its size:", err)
	}
}

func TestAnUploadInSmallPiecesIsKept(t *testing.T) {
	ctx, connection := daemon(t)
	answer, err := upload(ctx, connection, slices.Collect(slices.Chunk(object, messageLimit/4))...)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(object)
	if answer.GetSha256() != hex.EncodeToString(digest[:]) || answer.GetSize() != uint64(len(object)) {
		t.Errorf("another object: %v", answer)
	}
}
