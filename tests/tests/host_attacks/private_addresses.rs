//! A member who has the daemon knock at doors that are closed to members: services of this host, of its network, of its cloud. Listeners
//! stand at such addresses; nothing arrives, and no answer tells a port with a listener from one without.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use bpfd_tests::Output;
use bytecode_image::testing::registry::Mode;
use insta::assert_snapshot;

use crate::world::{ETC, Images, image};

/// Addresses of the case's host, each with a listener at one port and none at another.
const ADDRESSES: [&str; 5] = ["127.0.0.1", "[::1]", "10.0.0.1", "169.254.169.254", "198.51.100.1"];
/// Names of these hosts: what `/etc/hosts` or a name server says makes no difference.
const NAMES: &str = "127.0.0.1 localhost\n10.0.0.1 inside.example\n169.254.169.254 cloud.example\n";

/// A port at which nothing listens.
const CLOSED: u16 = 1;

struct Doors {
    images: Images,
    listeners: Vec<TcpListener>,
}

impl Doors {
    /// With more in the policy.
    fn new(policy: impl Fn(&[u16]) -> String) -> Self {
        let mut images = Images::new();
        images.host.shell(&format!(
            "ip addr add 169.254.169.254/32 dev others
             printf '{}' >/run/hosts; mount --bind /run/hosts /etc/hosts",
            NAMES.replace('\n', "\\n")
        ));
        let listen = |address: &&str| {
            let listener = TcpListener::bind(format!("{address}:0")).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        };
        let listeners: Vec<TcpListener> = images.host.within(|| ADDRESSES.iter().map(listen).collect());
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        let file = images.host.path(&format!("{ETC}/policy.toml"));
        let text = fs::read_to_string(&file).unwrap() + &policy(&ports);
        images.host.stop();
        fs::write(&file, text).unwrap();
        images.host.start();
        Self { images, listeners }
    }

    /// Hosts that a reference may name, with the port that is open there.
    fn hosts(ports: &[u16]) -> Vec<(&'static str, u16)> {
        let names = [("localhost", ports[0]), ("inside.example", ports[2]), ("cloud.example", ports[3])];
        let private = ADDRESSES.iter().zip(ports).take(4).map(|(address, port)| (*address, *port));
        private.chain(names).collect()
    }

    fn ports(&self) -> Vec<u16> {
        self.listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
    }

    /// Who connected to any listener since the last look.
    fn visits(&self) -> Vec<SocketAddr> {
        let visits = self.listeners.iter().map(|listener| match listener.accept() {
            Ok((_, _)) => Some(listener.local_addr().unwrap()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                None
            }
        });
        visits.flatten().collect()
    }

    /// What a member is told of a port, the port left out.
    fn told(&self, verb: &str, host: &str, port: u16) -> String {
        let said = self.images.host.bpfctl_as_member(&format!("{verb} {host}:{port}/team/app:1"));
        assert_ne!(said.code, 0, "{said}");
        format!("{}\n{}", said.code, said.stderr.replace(&format!("{host}:{port}"), "HOST"))
    }

    fn told_of_each(&self) -> Vec<String> {
        let mut told = Vec::new();
        for (host, open) in Self::hosts(&self.ports()) {
            for verb in ["image pull -q", "load -q --image"] {
                let (at_open, at_closed) = (self.told(verb, host, open), self.told(verb, host, CLOSED));
                assert_eq!(self.visits(), [], "{verb} {host}");
                assert_eq!(at_open, at_closed, "{verb} {host}");
                told.push(at_open);
            }
        }
        told.sort();
        told.dedup();
        told
    }
}

fn scope(host: &str, port: u16) -> String {
    format!("[[image]]\nscope = \"{host}:{port}\"\nunsigned = \"allow\"\n")
}

#[test]
fn nothing_leaves_for_a_name_that_no_scope_covers() {
    let doors = Doors::new(|_| String::new());
    // A name server would be asked here: there is none in resolv.conf, so glibc asks this host (resolv.conf(5)).
    let names = doors.images.host.within(|| UdpSocket::bind("127.0.0.1:53")).unwrap();
    names.set_nonblocking(true).unwrap();
    assert_snapshot!(doors.told_of_each().join("\n"), @"
    6
    error: bpfd does not pull `HOST/team/app:1`
    cause: no `[[image]]` section of the policy has a scope for it
    hint: ask root to trust its signer: `bpfctl trust add NAME --key FILE --scope HOST/team/app`

    6
    error: cannot pull `HOST/team/app:1`
    cause: bpfd does not pull `HOST/team/app:1`: no `[[image]]` section of the policy has a scope for it
    hint: ask root to trust its signer: `bpfctl trust add NAME --key FILE --scope HOST/team/app`
    ");
    doors.told("image pull -q", "nosuch.example", 443);
    assert_eq!(names.recv_from(&mut [0; 512]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // Root may ask anybody: what comes is judged afterwards.
    let (host, open) = Doors::hosts(&doors.ports())[0];
    let asked = doors.images.host.bpfctl(&format!("image pull -q {host}:{open}/team/app:1 --timeout 5"));
    assert_ne!(asked.code, 0);
    assert_eq!(doors.visits().len(), 1);
}

#[test]
fn a_private_address_is_left_alone_unless_registries_toml_names_it() {
    let all = |ports: &[u16]| {
        let each = Doors::hosts(ports).into_iter().map(|(host, open)| scope(host, open) + &scope(host, CLOSED));
        each.collect::<String>()
    };
    let doors = Doors::new(all);
    assert_snapshot!(doors.told_of_each().join("\n"), @"
    9
    error: cannot pull `HOST/team/app:1`
    cause: cannot resolve `HOST/team/app:1`: `HOST` has a private address, and registries.toml does not name it
    hint: if that is right, name host and port in the registry's entry in /run/case/etc/bpfd/registries.toml, as `redirects` or as `endpoint`

    9
    error: cannot resolve `HOST/team/app:1`
    cause: `HOST` has a private address, and registries.toml does not name it
    hint: if that is right, name host and port in the registry's entry in /run/case/etc/bpfd/registries.toml, as `redirects` or as `endpoint`
    ");
    // Root's own word is as good as the file's.
    let (host, open) = Doors::hosts(&doors.ports())[2];
    let asked = doors.images.host.bpfctl(&format!("image pull -q {host}:{open}/team/app:1 --timeout 5"));
    assert_ne!(asked.code, 0);
    assert_eq!(doors.visits().len(), 1);
    // And the file's is enough for members: that is how they reach the registry of this case, on loopback.
    doors.images.publish("open/app", &image());
    doors.images.host.bpfctl_as_member("image pull registry/open/app:1").ok();
}

#[test]
fn a_registry_of_a_members_own_tells_no_open_port_from_a_closed_one() {
    let doors = Doors::new(|_| String::new());
    doors.images.publish("open/app", &image());
    let open = doors.ports()[4];
    let redirected = |port: u16, ask: &dyn Fn() -> Output| {
        let url = format!("https://198.51.100.1:{port}/v2/open/app/blobs/x");
        doors.images.registry.behave("open/app", Mode::RedirectBlobs(url));
        let said = ask();
        assert_ne!(said.code, 0, "{said}");
        let said = said.stable().replace(&format!("198.51.100.1:{port}"), "ELSEWHERE");
        said.replace(&doors.images.registry.host(), "REGISTRY")
    };
    let member = || doors.images.host.bpfctl_as_member("image pull -q registry/open/app:1 --timeout 30");
    let closed = redirected(CLOSED, &member);
    assert_snapshot!(closed, @"
    $ bpfctl image pull -q registry/open/app:1 --timeout 30
    --- stderr
    error: cannot pull `registry/open/app:1`
    cause: cannot fetch the configuration of `registry/open/app:1`: `REGISTRY` refers to `ELSEWHERE`, and fetching from there failed
    hint: if that is right, name host and port in the registry's entry in /run/case/etc/bpfd/registries.toml, as `redirects` or as `endpoint`
    --- exit 9
    ");
    // It listens, and says nothing: the connection is closed after a look at it.
    let listener = doors.listeners[4].try_clone().unwrap();
    let greeter = std::thread::spawn(move || {
        listener.set_nonblocking(false).unwrap();
        for _ in 0..4 {
            drop(listener.accept().unwrap());
        }
    });
    assert_eq!(redirected(open, &member), closed);
    // Whoever administers the host is told why.
    let root = || doors.images.host.bpfctl("image pull -q registry/open/app:1 --timeout 30");
    assert!(redirected(CLOSED, &root).contains("Connection refused"));
    drop(greeter);
}
