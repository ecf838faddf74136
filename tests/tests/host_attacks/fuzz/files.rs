//! Files that root keeps: policies, registries and credentials, which are read while the daemon runs, settings and the database, which are
//! read at a start. Nobody attacks with them; a slip, a half-written disk or a restored backup must still end in words.

use std::fs;

use bpfd_client::proto::v1 as pb;
use bpfd_tests::mutants::Random;

use super::{Door, Fate, answered};
use crate::world::{ETC, Images};

const LIB: &str = "/run/case/var/lib/bpfd";
const SETTINGS: &str =
    "[chain]\nmode = \"auto\"\ntc = \"auto\"\n[chain.interfaces]\neth1 = \"fused\"\n[workers]\nuid_base = 61100\n";
const MORE_POLICY: &str = "version = 1\n[[signer]]\nname = \"of-a-root\"\nkeyless = { issuer = \"https://x\", identity = \"https://y/*\", root = \"public-good\" }\nlog = \"require\"\n[[image]]\nscope = \"registry/x/**\"\nrequire = [{ signed_by = [\"ci\"], threshold = 1, identity = \"repository\" }]\nrequire_digest = true\n";
const REGISTRIES: &str = "[proxy]\nhttps = \"http://127.0.0.1:3128\"\n[[registry]]\nname = \"registry\"\nendpoint = \"127.0.0.1:5000\"\nhttp = true\nmirrors = [{ endpoint = \"10.0.0.1:5001\", http = true }]\nredirects = [\"10.0.0.1:5002\"]\ntoken_realms = [\"10.0.0.1:5003\"]\nca = \"/etc/bpfd/ca.pem\"\n";
const AUTH: &str =
    r#"{"auths": {"registry": {"auth": "cHVsbGVyOm93bi1TM0NSRVQ="}, "10.0.0.1:5001": {"identitytoken": "x"}}}"#;

/// A file with what it may begin as, and what it is.
struct File {
    path: String,
    seeds: Vec<String>,
    honest: Option<String>,
}

impl File {
    fn of(images: &Images, name: &str, seed: &str) -> Self {
        let path = format!("{ETC}/{name}");
        let honest = fs::read_to_string(images.host.path(&path)).ok();
        let seeds = honest.clone().into_iter().chain([seed.to_owned()]).collect();
        Self { path, seeds, honest }
    }

    fn spoil(&self, images: &Images, random: &mut Random) {
        let path = images.host.path(&self.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, random.text(&self.seeds)).unwrap();
    }

    fn mend(&self, images: &Images) {
        let path = images.host.path(&self.path);
        match &self.honest {
            Some(text) => fs::write(path, text).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }
}

fn reload(images: &Images) -> Fate {
    answered(images, async |daemon| daemon.reload_policy(pb::ReloadPolicyRequest::default()).await.map(drop))
}

struct Policy([File; 2]);

pub(super) fn policy(images: &mut Images) -> Box<dyn Door> {
    Box::new(Policy(["policy.toml", "policy.d/more.toml"].map(|name| File::of(images, name, MORE_POLICY))))
}

impl Door for Policy {
    fn input(&mut self, images: &mut Images, random: &mut Random) -> Fate {
        let file = &self.0[random.below(2)];
        file.spoil(images, random);
        let fate = reload(images);
        file.mend(images);
        fate
    }

    fn close(&mut self, images: &mut Images) {
        assert_eq!(reload(images), Fate::Taken);
    }
}

struct Registries([File; 2]);

pub(super) fn registries(images: &mut Images) -> Box<dyn Door> {
    Box::new(Registries([File::of(images, "registries.toml", REGISTRIES), File::of(images, "auth.json", AUTH)]))
}

impl Door for Registries {
    fn input(&mut self, images: &mut Images, random: &mut Random) -> Fate {
        let file = &self.0[random.below(2)];
        file.spoil(images, random);
        let reference = "registry/open/app:1".to_owned();
        let always = pb::PullPolicy::Always.into();
        let request = pb::PullRequest { reference, pull: always, ..Default::default() };
        let fate = answered(images, async |daemon| daemon.pull(request, |_| ()).await.map(drop));
        file.mend(images);
        fate
    }
}

/// The database of a host with an app and a link, whose pins a boot took, and the settings.
struct State {
    database: Vec<u8>,
    settings: File,
}

pub(super) fn state(images: &mut Images) -> Box<dyn Door> {
    images.host.bpfctl("load -q --image registry/team/app:1 --name kept xdp -i uplink").ok();
    images.host.bpfctl("attach kept xdp -i absent --when-present").ok();
    // Whole in one file once the daemon has closed it.
    images.host.stop();
    let database = fs::read(images.host.path(&format!("{LIB}/state.db"))).unwrap();
    images.host.start();
    Box::new(State { database, settings: File::of(images, "bpfd.toml", SETTINGS) })
}

impl State {
    /// As after a boot: what the kernel had is gone, and what is below the state's directory but objects.
    fn boot(&self, images: &mut Images) {
        images.host.stop();
        images.host.shell(&format!(
            "ip link set uplink xdp off; ip link set uplink xdpgeneric off
             rm -rf /run/case/sys/fs/bpf/bpfd /run/case/sys/fs/bpf/xdp {LIB}/state.db*"
        ));
    }
}

impl Door for State {
    fn input(&mut self, images: &mut Images, random: &mut Random) -> Fate {
        self.boot(images);
        let spoilt = random.below(4) == 0;
        let database = match spoilt {
            true => {
                self.settings.spoil(images, random);
                self.database.clone()
            }
            false => random.binary(std::slice::from_ref(&self.database)),
        };
        fs::write(images.host.path(&format!("{LIB}/state.db")), database).unwrap();
        // A start says that it is ready or ends with 1; that it does neither is what the harness fails for.
        let fate = images.host.tries_to_start();
        if spoilt {
            self.settings.mend(images);
        }
        match fate {
            Ok(()) => answered(images, async |daemon| daemon.doctor(pb::DoctorRequest {}).await.map(drop)),
            Err(status) => {
                assert_eq!(status.code(), Some(1), "{}", images.host.log());
                fs::remove_file(images.host.path(&format!("{LIB}/state.db"))).unwrap();
                images.host.start();
                Fate::Refused
            }
        }
    }

    fn close(&mut self, images: &mut Images) {
        self.boot(images);
        images.host.start();
    }
}
