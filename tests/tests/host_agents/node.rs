//! A node: bpfd with the policy of the example's page, a registry with the signed image, an agent, and pods.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use bpfd_client::proto::v1 as pb;
use bpfd_tests::{Host, Output, example, example_program};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::world::{ETC, Images, image, image_of};

/// Where the programs are, as the case sees them.
const BIN: &str = "/run/examples";
const SOCKET: &str = "/run/cni-agent/agent.sock";
const REPOSITORY: &str = "cni/xdp";

pub(crate) struct Node {
    // First: it ends before the host looks at what is left.
    agent: Option<Agent>,
    images: Images,
    image: String,
    /// CNI_PATH.
    plugins: &'static str,
}

/// An agent that runs.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended, and been waited for, already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(crate) fn file(name: &str) -> String {
    let path = format!("{}/../examples/cni-agent/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(path).unwrap()
}

impl Node {
    /// `None` without Go.
    pub(crate) fn new() -> Option<Self> {
        let programs = example_program("cni-agent")?;
        let images = Images::new();
        let host = &images.host;
        let directory = std::path::Path::new(&programs).parent().unwrap().display();
        // The member is called what it is on a node; plugins keep their addresses and results below /var/lib/cni.
        host.shell(&format!(
            "for file in passwd group; do
               edited=$(sed 's/^member:/cni:/; s/:member$/:cni/' /run/$file)
               printf '%s\\n' \"$edited\" >/run/$file
             done
             mkdir {BIN} /run/cni-agent /run/net.d; mount --bind {directory} {BIN}; chown 4711 /run/cni-agent
             mount -t tmpfs var /var/lib
             ip netns add pod; ip netns add other"
        ));
        let mut node = Self { agent: None, images, image: String::new(), plugins: BIN };
        node.allow("");
        node.publish(&image());
        node.configure(200);
        Some(node)
    }

    /// The policy is that of the page, with this line in the place of the one that begins as it does.
    #[track_caller]
    pub(crate) fn allow(&self, line: &str) {
        let page = file("policy.toml").replace("/etc/bpfd/keys/cni.pub", &format!("{ETC}/ci.pub"));
        let key = line.split('=').next().unwrap();
        let other = |of_page: &str| if !key.is_empty() && of_page.starts_with(key) { line } else { of_page }.to_owned();
        let policy: Vec<String> = page.lines().map(other).collect();
        fs::write(self.host().path(&format!("{ETC}/policy.toml")), policy.join("\n")).unwrap();
        self.host().bpfctl("policy reload").ok();
    }

    pub(crate) fn host(&self) -> &Host {
        &self.images.host
    }

    pub(crate) fn host_mut(&mut self) -> &mut Host {
        &mut self.images.host
    }

    fn publish(&mut self, image: &bytecode_image::build::BuiltImage) {
        let digest = self.images.publish(REPOSITORY, image);
        self.images.sign(REPOSITORY, &self.images.key);
        self.image = format!("registry/{REPOSITORY}@{digest}");
    }

    /// The next agent attaches another image.
    pub(crate) fn publish_another(&mut self) {
        self.publish(&image_of(&example("xdp-pass")));
    }

    /// The next agent attaches an image without a signature.
    pub(crate) fn publish_unsigned(&mut self) {
        let digest = self.images.publish(REPOSITORY, &image_of(&example("xdp-drop-port")));
        self.image = format!("registry/{REPOSITORY}@{digest}");
    }

    /// The network's configuration is that of the page, with this priority.
    pub(crate) fn configure(&self, priority: u32) {
        let mut list: Value = serde_json::from_str(&file("10-bpfd.conflist")).unwrap();
        *list.pointer_mut("/plugins/1/priority").unwrap() = priority.into();
        fs::write(self.host().path("/run/net.d/10-bpfd.conflist"), list.to_string()).unwrap();
    }

    /// Where the runtime looks for plugins.
    pub(crate) fn set_plugins(&mut self, directory: &'static str) {
        self.plugins = directory;
    }

    /// As the user `cni`, who is in the group `bpfd`, without a capability.
    fn as_cni(&self, program: &str) -> Command {
        let mut command = self.host().command("setpriv");
        command.args(["--reuid=4711", "--regid=4711", "--groups=815", "--bounding-set=-all", program]);
        command
    }

    pub(crate) fn agent_with(&self, image: &str) -> Output {
        let mut agent = self.as_cni(&format!("{BIN}/cni-agent"));
        let done = agent.args(["-bpfd", "/run/case/run/bpfd/bpfd.sock", "-image", image]).output().unwrap();
        Output::of(&format!("cni-agent -image {image}"), done)
    }

    #[track_caller]
    pub(crate) fn start_agent(&mut self) {
        let mut agent = self.as_cni(&format!("{BIN}/cni-agent"));
        agent.args(["-bpfd", "/run/case/run/bpfd/bpfd.sock"]);
        self.start(agent);
    }

    /// Starts an agent of the image, and returns once it listens.
    #[track_caller]
    pub(crate) fn start(&mut self, mut agent: Command) {
        agent.args(["-image", &self.image]);
        let mut child = Agent(agent.stderr(Stdio::piped()).spawn().unwrap());
        let mut log = BufReader::new(child.0.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("listens at") {
            assert!(log.read_line(&mut said).unwrap() > 0, "the agent ended: {said}{}", self.host().log());
        }
        // Keeps the pipe from filling up.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        self.agent = Some(child);
    }

    /// As Kubernetes does.
    pub(crate) fn stop_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        kill_process(Pid::from_child(&agent.0), Signal::TERM).unwrap();
        let status = agent.0.wait().unwrap();
        assert!(status.success(), "the agent ends with {status}");
    }

    fn cnitool(&self, verb: &str, pod: &str) -> Command {
        let mut tool = self.host().command(&format!("{BIN}/cnitool"));
        tool.args([verb, "pods", &format!("/run/netns/{pod}")]);
        tool.env("CNI_PATH", self.plugins).env("NETCONFPATH", "/run/net.d");
        tool
    }

    /// `cnitool VERB pods`, as root, for a network namespace.
    pub(crate) fn cni(&self, verb: &str, pod: &str) -> Output {
        Output::of(&format!("cnitool {verb} pods {pod}"), self.cnitool(verb, pod).output().unwrap())
    }

    /// The same, not waited for.
    pub(crate) fn begin(&self, verb: &str, pod: &str) -> Child {
        self.cnitool(verb, pod).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Adds a pod: the name of the host's end of its veth pair.
    #[track_caller]
    pub(crate) fn add(&self, pod: &str) -> String {
        let result: Value = serde_json::from_str(&self.cni("add", pod).ok()).unwrap();
        let interfaces = result["interfaces"].as_array().unwrap();
        let host = interfaces.iter().find(|made| made["sandbox"].as_str().unwrap_or_default().is_empty()).unwrap();
        host["name"].as_str().unwrap().to_owned()
    }

    /// What the agent answers to something that no plugin asks: the body.
    pub(crate) fn asks(&self, verb: &str, interface: &str, priority: u32) -> String {
        let ask = format!(r#"{{"interface": "{interface}", "priority": {priority}}}"#);
        let mut agent = UnixStream::connect(self.host().path(SOCKET)).unwrap();
        write!(agent, "POST /{verb} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{ask}", ask.len()).unwrap();
        let mut answer = String::new();
        agent.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    #[track_caller]
    pub(crate) fn ask(&self, verb: &str, interface: &str, priority: u32) {
        assert_eq!(self.asks(verb, interface, priority), "");
    }

    pub(crate) fn links(&self) -> Vec<pb::Link> {
        self.host().ask(async |daemon| daemon.links(pb::ListLinksRequest::default()).await)
    }

    pub(crate) fn link(&self, interface: &str) -> Option<pb::Link> {
        self.links().into_iter().find(|link| link.name.ends_with(&format!("@{interface}:xdp")))
    }
}
