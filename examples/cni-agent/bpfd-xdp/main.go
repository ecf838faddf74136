// bpfd-xdp is a chained CNI plugin: after the plugin that makes a pod's veth
// pair, it has the agent attach an XDP program to the host's end. Container
// runtimes run it as root; it decides nothing and hands everything on to the
// agent, which has the rights of an ordinary user.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"bpfd/examples/cni-agent/internal/wire"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// Errors of the CNI specification, and from 100 on of a plugin's own.
const (
	tryAgainLater uint = 11
	unavailable   uint = 50
	refused       uint = 100
)

// config is this plugin's part of a network's configuration.
type config struct {
	types.PluginConf
	Socket   string `json:"socket"`
	Priority uint32 `json:"priority"`
}

func main() {
	verbs := skel.CNIFuncs{Add: add, Check: check, Del: del, Status: askStatus}
	skel.PluginMainFuncs(verbs, version.All, "bpfd-xdp: an XDP program of bpfd on each pod's interface")
}

func add(args *skel.CmdArgs) error {
	config, result, err := read(args)
	if err != nil {
		return err
	}
	if err := config.ask("add", result); err != nil {
		return err
	}
	return types.PrintResult(config.PrevResult, config.CNIVersion)
}

func check(args *skel.CmdArgs) error {
	config, result, err := read(args)
	if err != nil {
		return err
	}
	return config.ask("check", result)
}

// del never fails for what is not there: without a result nothing was attached, and without an agent the link goes
// when the agent starts next, as the interface goes with the pod.
func del(args *skel.CmdArgs) error {
	config, result, err := read(args)
	if err != nil {
		return err
	}
	if result == nil {
		return nil
	}
	err = config.ask("del", result)
	if absent := new(types.Error); errors.As(err, &absent) && absent.Code == tryAgainLater {
		fmt.Fprintln(os.Stderr, "bpfd-xdp:", err)
		return nil
	}
	return err
}

func askStatus(args *skel.CmdArgs) error {
	config, _, err := read(args)
	if err != nil {
		return err
	}
	if err := wire.Call(context.Background(), config.Socket, "status", wire.Ask{}); err != nil {
		return types.NewError(unavailable, "no pod can be added now", err.Error())
	}
	return nil
}

// read gives the configuration, and what the plugins before made.
func read(args *skel.CmdArgs) (*config, *current.Result, error) {
	config := &config{Socket: wire.Socket, Priority: 100}
	if err := json.Unmarshal(args.StdinData, config); err != nil {
		return nil, nil, types.NewError(types.ErrDecodingFailure, "cannot read the configuration", err.Error())
	}
	if err := version.ParsePrevResult(&config.PluginConf); err != nil {
		return nil, nil, types.NewError(types.ErrDecodingFailure, "cannot read prevResult", err.Error())
	}
	if config.PrevResult == nil {
		return config, nil, nil
	}
	result, err := current.NewResultFromResult(config.PrevResult)
	return config, result, err
}

// ask has the agent do something about the host's end of the pod's veth pair.
func (config *config) ask(verb string, result *current.Result) error {
	device := ""
	if result != nil {
		// Outside of the pod: ptp makes the veth alone, bridge names its bridge before it.
		for _, made := range result.Interfaces {
			if made.Sandbox == "" {
				device = made.Name
			}
		}
	}
	if device == "" {
		return types.NewError(types.ErrInvalidNetworkConfig, "no plugin before this one made an interface on the host",
			"list bpfd-xdp after the plugin that makes the pod's veth pair, such as ptp or bridge")
	}
	err := wire.Call(context.Background(), config.Socket, verb, wire.Ask{Interface: device, Priority: config.Priority})
	var refusal *wire.Refusal
	var absent *net.OpError
	switch {
	case errors.As(err, &refusal):
		why := slices.DeleteFunc([]string{refusal.Cause, refusal.Hint}, func(text string) bool { return text == "" })
		return types.NewError(refused, refusal.Message, strings.Join(why, "; "))
	case errors.As(err, &absent):
		return types.NewError(tryAgainLater, "cannot reach cni-agent at "+config.Socket, absent.Err.Error())
	}
	return err
}
