//! Objects as root sends them, and images as a registry serves them to a member: manifests, configurations and layers that are none, and
//! objects that a trusted signer signed and no compiler made.

use std::fs;

use bpfd_client::proto::v1 as pb;
use bpfd_tests::mutants::Random;
use bpfd_tests::{broken, example};
use bytecode_image::build::BuiltImage;
use bytecode_image::media;
use serde_json::json;
use tokio::time::timeout;

use super::{Door, Fate, answered};
use crate::raw::{LIMIT, as_member};
use crate::world::{Images, altered, built, image};

/// Objects with something of everything.
const OBJECTS: [&str; 6] = ["all_kinds", "globals", "maps", "no_btf", "run_config", "subprograms"];

fn objects_of_tests() -> Vec<Vec<u8>> {
    let paths = OBJECTS.into_iter().map(broken).chain([example("xdp-counter")]);
    paths.map(|path| fs::read(path).unwrap()).collect()
}

struct Objects(Vec<Vec<u8>>);

pub(super) fn objects(_: &mut Images) -> Box<dyn Door> {
    Box::new(Objects(objects_of_tests()))
}

impl Door for Objects {
    /// It is read, but nothing is loaded: maps of root's have no limit, and this host is not the test's alone.
    fn input(&mut self, images: &mut Images, random: &mut Random) -> Fate {
        let object = random.binary(&self.0);
        let nothing = pb::program_selector::Selector::Function("no_such_function".to_owned());
        answered(images, async |daemon| {
            let sent = daemon.upload(&object).await?;
            let request = pb::LoadRequest {
                source: Some(pb::load_request::Source::ObjectSha256(sent.sha256)),
                programs: vec![pb::ProgramSelector { selector: Some(nothing) }],
                ..Default::default()
            };
            // It is always refused: taken is what could be read.
            let error = daemon.load(request, |_| ()).await.map(drop).unwrap_err();
            if format!("{error:?}").contains("no_such_function") { Ok(()) } else { Err(error) }
        })
    }
}

/// The image, onto `uplink`, whatever is stored.
fn load(reference: &str) -> pb::LoadRequest {
    let xdp = pb::hook::Hook::Xdp(pb::XdpHook { netns: None, interface: "uplink".to_owned() });
    let hook = Some(pb::Hook { hook: Some(xdp) });
    let source = pb::ImageSource { reference: reference.to_owned(), pull: pb::PullPolicy::Always.into() };
    pb::LoadRequest {
        source: Some(pb::load_request::Source::Image(source)),
        attach: vec![pb::Attachment { hook, priority: Some(300), ..Default::default() }],
        ..Default::default()
    }
}

struct Served {
    objects: Vec<Vec<u8>>,
    honest: BuiltImage,
}

pub(super) fn images(_: &mut Images) -> Box<dyn Door> {
    Box::new(Served { objects: objects_of_tests(), honest: image() })
}

impl Served {
    /// Puts one at `open/app:1` or, signed, at `team/app:1`. Gives which.
    fn serve(&self, images: &Images, random: &mut Random) -> &'static str {
        let texts = |bytes: &[u8]| vec![String::from_utf8(bytes.to_vec()).unwrap()];
        let BuiltImage { manifest, config, layer } = &self.honest;
        match random.below(6) {
            0 => {
                let manifest = random.text(&texts(manifest));
                images.registry.put_manifest("open/app", "1", media::MANIFEST, &manifest);
                "open/app"
            }
            1 => {
                let entry = json!({"mediaType": media::MANIFEST, "size": manifest.len(),
                    "digest": bytecode_image::digest::Digest::of(manifest).to_string(),
                    "platform": {"os": "linux", "architecture": "amd64"}});
                let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [entry]}).to_string();
                images.publish("open/app", &self.honest);
                images.registry.put_manifest("open/app", "1", media::INDEX, &random.text(&[index]));
                "open/app"
            }
            2 => {
                images.publish("open/app", &altered(Some(random.text(&texts(config))), None));
                "open/app"
            }
            3 => {
                let layer = random.binary(std::slice::from_ref(layer));
                images.publish("open/app", &altered(None, Some((media::LAYER_TAR_GZIP, layer))));
                "open/app"
            }
            // Content that somebody vouches for.
            _ => {
                let object = random.binary(&self.objects);
                match built(&object) {
                    Ok(image) => images.publish("team/app", &image),
                    Err(_) => images.publish("team/app", &self.honest),
                };
                images.sign("team/app", &images.key);
                "team/app"
            }
        }
    }
}

impl Door for Served {
    fn input(&mut self, images: &mut Images, random: &mut Random) -> Fate {
        let repository = self.serve(images, random);
        let reference = format!("registry/{repository}:1");
        let loaded = as_member(&images.host, async |client| {
            Ok(match timeout(LIMIT, client.load(load(&reference), |_| ())).await {
                Ok(Ok(_)) => Fate::Taken,
                Ok(Err(_)) => Fate::Refused,
                Err(_late) => Fate::Hung,
            })
        });
        let all = Some(pb::unload_request::Target::All(pb::AllApps {}));
        let tidied = answered(images, async |daemon| {
            daemon.unload(pb::UnloadRequest { target: all, ..Default::default() }).await?;
            let images = vec![reference.clone()];
            daemon.remove_images(pb::RemoveImagesRequest { images, ..Default::default() }).await.map(drop)
        });
        match (loaded, tidied) {
            (Ok(Fate::Hung), _) | (_, Fate::Hung) => Fate::Hung,
            (Ok(fate), _) => fate,
            (Err(_), _) => Fate::Refused,
        }
    }

    fn close(&mut self, images: &mut Images) {
        images.publish("open/app", &self.honest);
        images.publish("team/app", &self.honest);
    }
}
