package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const plugin = "bpfd-xdp"

// install copies the plugin from beside this program to a container runtime's directory, whole or not at all, and gives
// the directory of the socket to the agent's user. It is what a node needs root for.
func install(directory, owned string) error {
	own, err := os.Executable()
	if err != nil {
		return err
	}
	from, err := os.Open(filepath.Join(filepath.Dir(own), plugin))
	if err != nil {
		return err
	}
	defer from.Close()
	part := filepath.Join(directory, "."+plugin+".part")
	to, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Close()); err != nil {
		return err
	}
	if err := os.Rename(part, filepath.Join(directory, plugin)); err != nil {
		return err
	}
	if owned == "" {
		return nil
	}
	path, user, _ := strings.Cut(owned, ":")
	uid, err := strconv.Atoi(user)
	if err != nil {
		return fmt.Errorf("-own %q is not DIRECTORY:UID", owned)
	}
	return os.Chown(path, uid, -1)
}
