package main

import (
	"context"
	"fmt"
	"log"
	"strings"
	"sync"

	"bpfd/examples/cni-agent/internal/wire"
	"bpfd/proto/go/bpfdv1"
	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// label marks the agent's apps, whichever image they came from.
const label = "cni-agent"

// retries has calls wait for a bpfd that starts again. A call that is repeated has the same request_id, so that bpfd
// carries it out once, however often it arrives.
const retries = `{"methodConfig": [{
	"name": [{"service": "bpfd.v1.AppService"}, {"service": "bpfd.v1.LinkService"}],
	"waitForReady": true,
	"retryPolicy": {
		"maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "2s", "backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`

// chains changes the chains of pods' interfaces.
type chains struct {
	apps   bpfdv1.AppServiceClient
	links  bpfdv1.LinkServiceClient
	system bpfdv1.SystemServiceClient
	// image is a reference with a digest; name that of the app which its programs are.
	image, name string
	// loading is held by the one call that loads.
	loading sync.Mutex
}

// dial makes no connection yet: each call makes or waits for one.
func dial(socket, image string) (*chains, error) {
	_, digest, found := strings.Cut(image, "@sha256:")
	if !found || len(digest) != 64 {
		return nil, fmt.Errorf("-image %q names no digest: a tag may be another image tomorrow", image)
	}
	connection, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(retries))
	if err != nil {
		return nil, err
	}
	return &chains{
		apps:   bpfdv1.NewAppServiceClient(connection),
		links:  bpfdv1.NewLinkServiceClient(connection),
		system: bpfdv1.NewSystemServiceClient(connection),
		image:  image,
		// Another digest is another app: pods that run keep theirs until they end.
		name: label + "-" + digest[:12],
	}, nil
}

// prepare loads the image before the first pod needs it, and takes away what an earlier agent left.
func (c *chains) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	if err := c.load(ctx); err != nil {
		return err
	}
	return c.sweep(ctx)
}

// load makes sure that the app is there.
func (c *chains) load(ctx context.Context) error {
	c.loading.Lock()
	defer c.loading.Unlock()
	_, err := c.apps.GetApp(ctx, &bpfdv1.GetAppRequest{App: c.name})
	if status.Code(err) != codes.NotFound {
		return explained(err)
	}
	events, err := c.apps.Load(ctx, &bpfdv1.LoadRequest{
		RequestId:  uuid.NewString(),
		Name:       &c.name,
		Source:     &bpfdv1.LoadRequest_Image{Image: &bpfdv1.ImageSource{Reference: c.image}},
		UserLabels: map[string]string{"agent": label},
	})
	for err == nil {
		var event *bpfdv1.LoadResponse
		if event, err = events.Recv(); event.GetResult() != nil {
			return nil
		}
	}
	return explained(err)
}

// add attaches the program to an interface, unless it is there.
func (c *chains) add(ctx context.Context, ask wire.Ask) error {
	// The daemon may have been told to forget everything since.
	if err := c.load(ctx); err != nil {
		return err
	}
	links, err := c.on(ctx, ask.Interface)
	if err != nil {
		return err
	}
	if len(links) > 0 {
		return c.check(ctx, ask)
	}
	hook := &bpfdv1.Hook{Hook: &bpfdv1.Hook_Xdp{Xdp: &bpfdv1.XdpHook{Interface: ask.Interface}}}
	_, err = c.links.Attach(ctx, &bpfdv1.AttachRequest{
		RequestId:  uuid.NewString(),
		App:        c.name,
		Attachment: &bpfdv1.Attachment{Hook: hook, Priority: &ask.Priority},
	})
	return explained(err)
}

// check says what is wrong with an interface.
func (c *chains) check(ctx context.Context, ask wire.Ask) error {
	links, err := c.on(ctx, ask.Interface)
	if err != nil {
		return err
	}
	if len(links) != 1 {
		return &wire.Refusal{
			Message: fmt.Sprintf("%s has %d programs of the agent, and must have 1", ask.Interface, len(links)),
			Cause:   "it was never attached, or somebody else changed the interface",
			Hint:    "`bpfctl list -i " + ask.Interface + "` shows what is there; create the pod again",
		}
	}
	link := links[0]
	switch state := link.GetState(); {
	case state != bpfdv1.LinkState_LINK_STATE_ATTACHED:
		word := strings.TrimPrefix(state.String(), "LINK_STATE_")
		return &wire.Refusal{Message: link.GetName() + " is " + word, Cause: link.GetCause()}
	case link.GetPriority() != ask.Priority:
		return &wire.Refusal{
			Message: fmt.Sprintf("%s has priority %d", link.GetName(), link.GetPriority()),
			Cause:   fmt.Sprintf("the network's configuration says %d", ask.Priority),
		}
	}
	return nil
}

// del detaches whatever the agent has on an interface, which may be nothing.
func (c *chains) del(ctx context.Context, ask wire.Ask) error {
	links, err := c.on(ctx, ask.Interface)
	if err == nil {
		err = c.detach(ctx, links)
	}
	if err != nil {
		return err
	}
	return c.sweep(ctx)
}

// status says whether pods can be added.
func (c *chains) status(ctx context.Context, _ wire.Ask) error {
	_, err := c.system.GetInfo(ctx, &bpfdv1.GetInfoRequest{})
	return explained(err)
}

// sweep takes away links whose interface went without a DEL, and apps of earlier images that no pod uses any more.
func (c *chains) sweep(ctx context.Context) error {
	links, err := c.list(ctx, &bpfdv1.ListLinksRequest{})
	if err != nil {
		return err
	}
	used := map[string]bool{c.name: true}
	var gone []*bpfdv1.Link
	for _, link := range links {
		if link.GetState() == bpfdv1.LinkState_LINK_STATE_WAITING {
			gone = append(gone, link)
		} else {
			used[link.GetApp()] = true
		}
	}
	if err := c.detach(ctx, gone); err != nil {
		return err
	}
	apps, err := c.apps.ListApps(ctx, &bpfdv1.ListAppsRequest{UserLabels: ours})
	if err != nil {
		return explained(err)
	}
	for _, app := range apps.GetApps() {
		if used[app.GetName()] {
			continue
		}
		names := &bpfdv1.UnloadRequest_Apps{Apps: &bpfdv1.AppNames{Names: []string{app.GetName()}}}
		_, err := c.apps.Unload(ctx, &bpfdv1.UnloadRequest{RequestId: uuid.NewString(), Target: names})
		if err != nil && status.Code(err) != codes.NotFound {
			return explained(err)
		}
		log.Printf("unloaded %s: no pod uses it", app.GetName())
	}
	return nil
}

// ours selects what this agent loaded.
var ours = []*bpfdv1.LabelSelector{{Key: "agent", Value: proto.String(label)}}

// on lists the agent's links on an interface.
func (c *chains) on(ctx context.Context, device string) ([]*bpfdv1.Link, error) {
	return c.list(ctx, &bpfdv1.ListLinksRequest{Interface: &device})
}

// list reads all pages.
func (c *chains) list(ctx context.Context, request *bpfdv1.ListLinksRequest) ([]*bpfdv1.Link, error) {
	request.UserLabels = ours
	var links []*bpfdv1.Link
	for {
		page, err := c.links.ListLinks(ctx, request)
		if err != nil {
			return nil, explained(err)
		}
		links = append(links, page.GetLinks()...)
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return links, nil
		}
	}
}

// detach removes links one by one: one that is gone already is no reason to keep the others.
func (c *chains) detach(ctx context.Context, links []*bpfdv1.Link) error {
	for _, link := range links {
		names := &bpfdv1.DetachRequest_Links{Links: &bpfdv1.LinkNames{Names: []string{link.GetUid()}}}
		_, err := c.links.Detach(ctx, &bpfdv1.DetachRequest{RequestId: uuid.NewString(), Target: names})
		if err != nil && status.Code(err) != codes.NotFound {
			return explained(err)
		}
	}
	return nil
}

// explained keeps what bpfd says of a refusal: its cause and its hint are details of the status.
func explained(err error) error {
	if err == nil {
		return nil
	}
	refusal := &wire.Refusal{Message: status.Convert(err).Message()}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			refusal.Cause, refusal.Hint = info.GetMetadata()["cause"], info.GetMetadata()["hint"]
		}
	}
	return refusal
}
