module bpfd/examples

go 1.24.0

require (
	bpfd/proto/go v0.0.0
	github.com/cilium/ebpf v0.21.0 // opens pinned maps
	github.com/containernetworking/cni v1.3.1 // the protocol between a container runtime and a CNI plugin
	github.com/google/uuid v1.6.0 // request ids
	google.golang.org/genproto/googleapis/rpc v0.0.0-20250804133106-a7a43d27e69b // the details of refusals
	google.golang.org/grpc v1.76.0
	google.golang.org/protobuf v1.36.10
)

require (
	github.com/vishvananda/netns v0.0.4 // indirect
	golang.org/x/net v0.46.0 // indirect
	golang.org/x/sys v0.37.0 // indirect
	golang.org/x/text v0.30.0 // indirect
)

replace bpfd/proto/go => ../proto/go
