//! The show, act by act. Every act says what it does in the commands that do it, and ends the show with an error if anything
//! is not as it must be.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::counters::Counter;
use super::ledger::{Entry, Ledger};
use super::stage::{self, IFACE, SCRATCH, Stage};

const IMAGE: &str = "registry/demo/xdp-counter:0.1.0";
const UNSIGNED: &str = "registry/demo/xdp-pass:0.1.0";
/// What bpfctl exits with when a signature is missing or wrong, or bytes do not have their digest.
const SIGNATURE: i32 = 6;
/// What bpfctl exits with when a value in the request is wrong.
const USAGE: i32 = 2;
/// What xdp-drop-port is told to drop.
const PORT: u16 = 4242;

pub(super) fn run(root: &Path, ledger: &Ledger) -> Result<()> {
    let done = Stage::set(root, ledger).and_then(|stage| Show { stage, ledger, counters: Vec::new() }.acts());
    if done.is_err() {
        for (log, count) in [("bpfd.log", 30), ("registry.log", 3)] {
            println!("# the last lines of {log}:\n{}", stage::last_words(log, count));
        }
    }
    done
}

struct Show<'a> {
    stage: Stage,
    ledger: &'a Ledger,
    counters: Vec<Counter>,
}

impl Show<'_> {
    fn acts(&mut self) -> Result<()> {
        self.images_are_made()?;
        self.the_unsigned_the_untrusted_and_the_forged_are_refused()?;
        self.three_of_one_image_share_an_interface()?;
        self.a_file_joins_them()?;
        self.the_order_changes()?;
        self.the_daemon_is_killed()?;
        self.all_is_taken_down()
    }

    fn images_are_made(&self) -> Result<()> {
        act("Two images go into a registry");
        let shell = &self.stage.shell;
        shell.run(&[
            "bpfctl",
            "image",
            "build",
            "target/bpf/xdp-counter.bpf.o",
            "--tag",
            IMAGE,
            "--metadata",
            "examples/xdp-counter/bytecode.toml",
        ])?;
        shell.run(&["bpfctl", "image", "build", "target/bpf/xdp-pass.bpf.o", "--tag", UNSIGNED, "--quiet"])?;
        shell.run(&["bpfctl", "image", "push", IMAGE])?;
        shell.run(&["bpfctl", "image", "push", UNSIGNED])?;
        shell.run(&["bpfctl", "image", "inspect", IMAGE]).map(drop)
    }

    fn the_unsigned_the_untrusted_and_the_forged_are_refused(&mut self) -> Result<()> {
        act("Without a signature that counts nothing is loaded");
        self.stage.start_bpfd()?;
        let shell = &self.stage.shell;
        let key = format!("{SCRATCH}/demo.key");
        let public = format!("{key}.pub");
        let load = ["bpfctl", "load", "--image", IMAGE, "xdp", "-i", IFACE];
        shell.refused(SIGNATURE, &load)?;

        println!("# signed, but by a key that this host does not trust");
        shell.run(&["bpfctl", "keygen", &key])?;
        shell.run(&["bpfctl", "image", "sign", IMAGE, "--key", &key])?;
        shell.refused(SIGNATURE, &load)?;
        shell.run(&["bpfctl", "trust", "add", "demo", "--key", &public, "--scope", "registry/demo/**"])?;

        println!("# in the scope of that key, and not signed");
        shell.refused(SIGNATURE, &["bpfctl", "load", "--image", UNSIGNED])?;

        println!("# signed and trusted, but the registry serves other bytes under the same digest");
        let layer = self.layer()?;
        flip_last_byte(&layer)?;
        println!("# one byte of {} is another now", layer.display());
        shell.refused(SIGNATURE, &load)?;
        flip_last_byte(&layer)?;
        self.expect_programs(0)
    }

    fn three_of_one_image_share_an_interface(&mut self) -> Result<()> {
        act("One signed image, loaded three times on one interface");
        for (name, priority, step) in [("a", "50", 1), ("b", "20", 10), ("c", "90", 100)] {
            let set = format!("step={step}");
            self.stage.shell.run(&[
                "bpfctl",
                "load",
                "--image",
                IMAGE,
                "--name",
                name,
                "--set",
                &set,
                "xdp",
                "-i",
                IFACE,
                "--priority",
                priority,
            ])?;
            let pin = self.pin(name, "packets")?;
            self.counters.push(Counter::new(name, step, pin));
        }
        self.stage.shell.run(&["bpfctl", "list"])?;
        let mode = self.chain(&["b/count", "a/count", "c/count"])?;
        println!("# the chain mode that this kernel gives: {mode}");
        self.packets(100)
    }

    fn a_file_joins_them(&mut self) -> Result<()> {
        act("A file with a typed global, before the others: what it drops they never see");
        let file = ["bpfctl", "load", "--path", "target/bpf/xdp-drop-port.bpf.o", "--name", "drop"];
        let on = ["xdp", "-i", IFACE, "--priority", "10"];
        self.stage.shell.refused(USAGE, &[file.as_slice(), &["--set", "port=70000"], &on].concat())?;
        let set = format!("port={PORT}");
        self.stage.shell.run(&[file.as_slice(), &["--set", &set], &on].concat())?;
        let mut dropped = Counter::new("drop", 1, self.pin("drop", "dropped")?);
        self.chain(&["drop/drop_port", "b/count", "a/count", "c/count"])?;
        self.stage.datagrams(20, PORT)?;
        dropped.expected = 20;
        dropped.check(&self.stage.shell)?;
        self.count(0)?;
        self.packets(30)?;
        dropped.check(&self.stage.shell)?;
        self.stage.shell.run(&["bpfctl", "unload", "drop"]).map(drop)
    }

    fn the_order_changes(&mut self) -> Result<()> {
        act("The order changes while packets come in, and none is missed");
        let link = format!("a/count@{IFACE}:xdp");
        let update = ["bpfctl", "update", &link, "--priority", "95"];
        let shell = &self.stage.shell;
        let first = self.counters.first().context("nothing counts")?;
        let rises = |what: &str| {
            let before = first.read(shell)?;
            self.stage.until(what, || first.read(shell).is_ok_and(|now| now > before))
        };
        let sent = self.stage.ping_during(|| {
            rises("packets come in before the change")?;
            shell.run(&update)?;
            rises("packets come in after the change")
        })?;
        self.count(sent)?;
        self.chain(&["b/count", "c/count", "a/count"])?;
        self.packets(50)
    }

    fn the_daemon_is_killed(&mut self) -> Result<()> {
        act("bpfd is killed; programs go on without it, and it finds them again");
        self.stage.end_bpfd("KILL")?;
        self.packets(70)?;
        self.stage.start_bpfd()?;
        self.chain(&["b/count", "c/count", "a/count"])?;
        for index in 0..self.counters.len() {
            let Some(Counter { app, pin, .. }) = self.counters.get(index) else { continue };
            let now = self.pin(app, "packets")?;
            if now != *pin {
                bail!("the map of `{app}` was {pin} and is {now}");
            }
        }
        self.packets(40)
    }

    fn all_is_taken_down(&mut self) -> Result<()> {
        act("All is detached, unloaded and stopped");
        let shell = &self.stage.shell;
        shell.run(&["bpfctl", "detach", "--all", "-i", IFACE])?;
        println!("# nobody counts now");
        self.stage.ping(10)?;
        for counter in &self.counters {
            counter.check(shell)?;
        }
        let link = shell.quiet(&["ip", "link", "show", "dev", IFACE])?;
        if link.contains("xdp") {
            bail!("{IFACE} still runs a program: {link}");
        }
        shell.run(&["bpfctl", "unload", "--all"])?;
        shell.run(&["bpfctl", "list"])?;
        self.expect_programs(0)?;
        self.no_pins()?;
        self.stage.end_bpfd("TERM")?;
        self.stage.no_bpfd()
    }

    /// Sends so many packets and checks every counter of the chain.
    fn packets(&mut self, count: u64) -> Result<()> {
        self.stage.ping(count)?;
        self.count(count)
    }

    /// So many packets have come in since the last time: checks every counter of the chain.
    fn count(&mut self, packets: u64) -> Result<()> {
        for counter in &mut self.counters {
            let more = packets.checked_mul(counter.step).context("too many packets")?;
            counter.expected = counter.expected.checked_add(more).context("too many packets")?;
            counter.check(&self.stage.shell)?;
        }
        Ok(())
    }

    /// Shows the chain and holds its order to `programs`; writes down what the kernel runs. Gives the chain's mode.
    fn chain(&self, programs: &[&str]) -> Result<String> {
        let text = self.stage.shell.run(&["bpfctl", "chain", "show", IFACE])?;
        let shown = self.stage.shell.quiet(&["bpfctl", "chain", "show", IFACE, "-o", "json"])?;
        let chain = item(&shown)?;
        let id = chain.get("kernelProgramId").and_then(Value::as_u64).context("the interface runs nothing")?;
        self.ledger.add(&Entry::Program(id))?;
        let members = chain.get("members").and_then(Value::as_array).context("a chain without members")?;
        let name = |member: &Value| {
            let part = |name: &str| member.pointer(&format!("/link/{name}")).and_then(Value::as_str);
            Some(format!("{}/{}", part("app")?, part("function")?))
        };
        let order: Vec<String> =
            members.iter().map(|member| name(member).unwrap_or_else(|| "foreign".to_owned())).collect();
        if order != programs {
            bail!("the chain runs {order:?}, and must run {programs:?}");
        }
        let mode = text.lines().find_map(|line| line.strip_prefix("mode:")).context("a chain without a mode")?;
        Ok(mode.trim().to_owned())
    }

    /// The pin of a map of an app; writes down what the kernel has of the app.
    fn pin(&self, app: &str, map: &str) -> Result<String> {
        println!("$ bpfctl get app {app} -o json");
        let shown = self.stage.shell.quiet(&["bpfctl", "get", "app", app, "-o", "json"])?;
        let item = item(&shown)?;
        let list =
            |what: &str| item.get(what).and_then(Value::as_array).with_context(|| format!("an app without {what}"));
        for program in list("programs")? {
            let id = program.get("kernelId").and_then(Value::as_u64).context("a program without a kernel id")?;
            self.ledger.add(&Entry::Program(id))?;
        }
        let mut found = None;
        for one in list("maps")? {
            let pin = one.get("pinPath").and_then(Value::as_str).context("a map without a pin")?;
            let known = self.stage.shell.quiet(&["bpftool", "--json", "map", "show", "pinned", pin])?;
            let known: Value = serde_json::from_str(&known).context("bpftool printed no JSON")?;
            self.ledger.add(&Entry::Map(known.get("id").and_then(Value::as_u64).context("a map without an id")?))?;
            if one.get("name").and_then(Value::as_str) == Some(map) {
                found = Some(pin);
            }
        }
        let pin = found.with_context(|| format!("`{app}` has no map `{map}`"))?;
        println!("# its map `{map}` is pinned at {pin}");
        Ok(pin.to_owned())
    }

    /// The registry's file of the image's one layer.
    fn layer(&self) -> Result<std::path::PathBuf> {
        let shell = &self.stage.shell;
        let digest = shell.quiet(&["bpfctl", "image", "inspect", IMAGE, "--quiet"])?;
        let manifest =
            fs::read_to_string(self.stage.blob(digest.trim())?).context("the registry lacks the manifest")?;
        let manifest: Value = serde_json::from_str(&manifest).context("a manifest that is no JSON")?;
        let layer =
            manifest.pointer("/layers/0/digest").and_then(Value::as_str).context("a manifest without a layer")?;
        self.stage.blob(layer)
    }

    /// Holds the number of loaded apps to `count`.
    fn expect_programs(&self, count: usize) -> Result<()> {
        let names = self.stage.shell.quiet(&["bpfctl", "list", "--quiet"])?;
        if names.lines().count() != count {
            bail!("{count} apps must be loaded, and there are: {names}");
        }
        Ok(())
    }

    /// No pin is left below bpfd's directory but the state map, which says whose the pins are: directories may stay, empty.
    fn no_pins(&self) -> Result<()> {
        let below = format!("{SCRATCH}/sys/fs/bpf/bpfd");
        let pins = self.stage.shell.run(&["find", &below, "-type", "f", "!", "-path", "*/v1/state"])?;
        if !pins.is_empty() {
            bail!("pins are left");
        }
        Ok(())
    }
}

fn act(title: &str) {
    println!("\n== {title}");
}

fn item(shown: &str) -> Result<Value> {
    let mut shown: Value = serde_json::from_str(shown).context("bpfctl printed no JSON")?;
    shown.pointer_mut("/items/0").map(Value::take).context("bpfctl printed no item")
}

/// Twice is as never.
fn flip_last_byte(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let last = bytes.last_mut().context("an empty blob")?;
    *last ^= 1;
    fs::write(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flipping_twice_is_flipping_never() {
        let file = crate::root().unwrap().join(format!("target/xtask-flip-{}", std::process::id()));
        fs::write(&file, b"ab").unwrap();
        flip_last_byte(&file).unwrap();
        let once = fs::read(&file).unwrap();
        flip_last_byte(&file).unwrap();
        let twice = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!((once.as_slice(), twice.as_slice()), (b"ac".as_slice(), b"ab".as_slice()));
    }
}
