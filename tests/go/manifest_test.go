// Package manifests holds the manifests of the examples against the types of Kubernetes' API.
package manifests

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const manifest = "../../examples/cni-agent/daemonset.yaml"

// read gives each document of a manifest as the type of its kind. What the type does not have is an error.
func read(text []byte) (map[string]any, error) {
	documents := map[string]any{}
	for _, document := range bytes.Split(text, []byte("\n---\n")) {
		var head struct{ Kind string }
		if err := yaml.Unmarshal(document, &head); err != nil {
			return nil, err
		}
		object := map[string]any{
			"DaemonSet":      &appsv1.DaemonSet{},
			"ServiceAccount": &corev1.ServiceAccount{},
		}[head.Kind]
		if err := yaml.UnmarshalStrict(document, object); err != nil {
			return nil, err
		}
		documents[head.Kind] = object
	}
	return documents, nil
}

func TestTheDaemonSetIsOneOfKubernetes(t *testing.T) {
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	documents, err := read(text)
	if err != nil {
		t.Fatal(err)
	}
	set, ok := documents["DaemonSet"].(*appsv1.DaemonSet)
	if !ok || set.APIVersion != "apps/v1" {
		t.Fatalf("no DaemonSet of apps/v1: %v", documents)
	}
	pod := set.Spec.Template
	for key, value := range set.Spec.Selector.MatchLabels {
		if pod.Labels[key] != value {
			t.Errorf("the selector's %s=%s is no label of the pods", key, value)
		}
	}
	account, ok := documents["ServiceAccount"].(*corev1.ServiceAccount)
	if !ok || account.Name != pod.Spec.ServiceAccountName || account.Namespace != set.Namespace {
		t.Errorf("the pods' account %q is not there", pod.Spec.ServiceAccountName)
	}
	var volumes []string
	for _, volume := range pod.Spec.Volumes {
		volumes = append(volumes, volume.Name)
	}
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, mount := range container.VolumeMounts {
			if !slices.Contains(volumes, mount.Name) {
				t.Errorf("%s mounts %s, which is no volume", container.Name, mount.Name)
			}
		}
		rights := container.SecurityContext
		if rights == nil || rights.Privileged != nil || rights.Capabilities == nil || !slices.Equal(rights.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("%s does not drop all capabilities", container.Name)
		}
	}
	agent := pod.Spec.Containers[0]
	if user := agent.SecurityContext.RunAsUser; user == nil || *user == 0 || len(agent.SecurityContext.Capabilities.Add) > 0 {
		t.Errorf("the agent runs as root, or with capabilities")
	}
	if !slices.ContainsFunc(agent.Args, func(arg string) bool { return strings.Contains(arg, "@sha256:") }) {
		t.Errorf("the agent's BPF image is not named by digest: %q", agent.Args)
	}
}

// The control: of a misspelt field it is told.
func TestAMisspeltFieldIsRefused(t *testing.T) {
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	wrong := bytes.Replace(text, []byte("runAsUser:"), []byte("runAsUsr:"), 1)
	if _, err := read(wrong); err == nil || !strings.Contains(err.Error(), "runAsUsr") {
		t.Errorf("not refused: %v", err)
	}
}
