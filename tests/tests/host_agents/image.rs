//! The agent's container image, as its Containerfile makes it: nothing else is in it, and it installs the plugin and serves it.

use std::fs;

use bpfd_client::proto::v1 as pb;

use crate::node::Node;

/// The container, and what the manifest mounts into it.
const CONTAINER: &str = r#"
cd /run/image
cp /run/examples/cni-agent /run/examples/bpfd-xdp .
buildah() { command buildah --root /run/image/root --runroot /run/image/runroot --storage-driver vfs "$@" 2>>buildah.log; }
buildah build --quiet --isolation chroot --tag localhost/cni-agent . >nothing
buildah from --name agent localhost/cni-agent >nothing
container=$(buildah mount agent)
find "$container" -type f | sed "s,$container,," | sort
mkdir -p "$container/host/cni" "$container/host/run" "$container/run/bpfd" "$container/run/cni-agent" "$container/proc" /run/cni
mount --rbind /proc "$container/proc"
mount --bind /run/cni "$container/host/cni"
mount --bind /run/cni-agent "$container/host/run"
mount --bind /run/cni-agent "$container/run/cni-agent"
mount --bind /run/case/run/bpfd "$container/run/bpfd"
ln -s "$container" /run/container
chown 0 /run/cni-agent
chroot /run/container /bin/cni-agent -install=/host/cni -own=/host/run:4711
"#;

#[test]
fn the_container_image_installs_the_plugin_and_serves_it() {
    let Some(mut node) = Node::new() else { return };
    fs::create_dir(node.host().path("/run/image")).unwrap();
    fs::write(node.host().path("/run/image/Containerfile"), crate::node::file("Containerfile")).unwrap();
    let files = node.host().shell(CONTAINER);
    assert_eq!(files, "/bin/bpfd-xdp\n/bin/cni-agent\n");

    let mut agent = node.host().command("chroot");
    agent.args(["--userspec=4711:4711", "--groups=815", "/run/container", "/bin/cni-agent"]);
    node.start(agent);
    // The plugin that was installed, and those of others.
    node.host().shell("ln -s /run/examples/ptp /run/examples/host-local /run/cni");
    node.set_plugins("/run/cni");
    let veth = node.add("pod");
    assert_eq!(node.link(&veth).unwrap().state(), pb::LinkState::Attached);
    let ready = node.host().shell("chroot --userspec=4711:4711 /run/container /bin/cni-agent -ready && echo ready");
    assert_eq!(ready, "ready\n");
    node.cni("del", "pod").ok();
}
