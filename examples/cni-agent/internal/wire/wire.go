// Package wire is what the plugin and the agent say to each other: JSON over
// HTTP on a unix socket, which only root and the agent's user may open.
package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
)

// Socket is where the agent listens if nothing else is said.
const Socket = "/run/cni-agent/agent.sock"

// Ask is the body of a POST to /add, /check, /del or /status.
type Ask struct {
	// Interface is the end of the pod's veth pair that stays on the host.
	Interface string `json:"interface"`
	// Priority is the place in the interface's chain.
	Priority uint32 `json:"priority"`
}

// Refusal is the body of an answer that is not 200, and an error.
type Refusal struct {
	Message string `json:"message"`
	Cause   string `json:"cause,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

func (r *Refusal) Error() string {
	if r.Cause == "" {
		return r.Message
	}
	return r.Message + ": " + r.Cause
}

// Call asks the agent. An error is a *Refusal, or says that there is no agent.
func Call(ctx context.Context, socket, verb string, ask Ask) error {
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/"+verb, bytes.NewReader(body))
	if err != nil {
		return err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	refusal := &Refusal{}
	if err := json.NewDecoder(answer.Body).Decode(refusal); err != nil {
		return err
	}
	return refusal
}
