//! A page of the documentation, as it stands: every line of its console blocks, in one shell, on a host that is as the page says.
//!
//! The paths in these lines are the host's, so the shell has a host of its own: a root of binds on a tmpfs, where `/path` can be
//! made and `/run`, `/var/lib`, `/var/log`, `/etc/bpfd` and the bpffs are new; a network with devices of these names and a
//! registry; its own processes. All of it ends with the shell.

use std::fmt::Write as _;
use std::process::Command;

use crate::objects::{example, tree};

/// Makes the host; `$1` is the tree, `$2` the object, `$3` what runs there.
const HOST: &str = r#"
mount -t tmpfs -o mode=0755 root /mnt
for entry in /* /.[!.]*; do
	name=${entry#/}
	if [ -L "$entry" ]; then
		cp -a "$entry" "/mnt/$name"
	elif [ -d "$entry" ] && [ "$name" != mnt ]; then
		mkdir "/mnt/$name"
		mount --rbind "$entry" "/mnt/$name"
	fi
done
for new in run var/lib var/log; do
	mount -t tmpfs -o mode=0755 new "/mnt/$new"
done
# A copy of /etc, so that /etc/bpfd can be made.
cp -a /etc /mnt/run/etc
rm -rf /mnt/run/etc/bpfd
mount --bind /mnt/run/etc /mnt/etc
mount -t bpf bpf /mnt/sys/fs/bpf
mkdir -p /mnt/path/to/xdp /mnt/run/home
cp "$2" /mnt/path/to/xdp/program
ip link set lo up
ip link add wlp2s0 type veth peer name air
ip link add eth0 type veth peer name cable
for device in wlp2s0 air eth0 cable; do
	ip link set $device up
done
exec env -u XDG_CONFIG_HOME -u XDG_DATA_HOME -u BPFD_SOCKET HOME=/run/home chroot /mnt sh -ec 'cd "$1"; eval "$2"' sh "$1" "$3"
"#;

/// A registry at the address that `examples/registries.toml` has.
const REGISTRY: &str = r#"
cat >/run/registry.yml <<END
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: /run/registry}}
http: {addr: "127.0.0.1:5000"}
END
docker-registry serve /run/registry.yml >/run/registry.log 2>&1 &
until bash -c ': </dev/tcp/127.0.0.1/5000' 2>/run/none; do sleep 0.05; done
"#;

/// A line of a console block, and what the page says that it prints.
#[derive(Debug, PartialEq)]
pub struct Line {
    /// After the prompt.
    pub command: String,
    /// Up to the next prompt, or the block's end.
    pub output: String,
}

/// The lines of all console blocks of a page, in their order.
pub fn console(page: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.strip_prefix("$ ") {
            _ if line.starts_with("```") => inside = line == "```console",
            _ if !inside => {}
            Some(command) => lines.push(Line { command: command.to_owned(), output: String::new() }),
            None => writeln!(lines.last_mut().unwrap().output, "{line}").unwrap(),
        }
    }
    lines
}

/// Files of the tree that a page shows whole, and what it shows: the block below `<!-- file: PATH -->`.
pub fn shown_files(page: &str) -> Vec<(String, String)> {
    let parts = page.split("<!-- file: ").skip(1);
    parts
        .map(|part| {
            let (path, rest) = part.split_once(" -->\n```").unwrap();
            let (_, rest) = rest.split_once('\n').unwrap();
            (path.to_owned(), rest.split("```").next().unwrap().to_owned())
        })
        .collect()
}

/// A daemon that a line starts in the background is awaited by bpfctl for a second: more than it takes, but less than it takes on
/// an emulated processor.
pub fn awaited(line: &str) -> &'static str {
    let starts = line.ends_with("bpfd&") && std::env::var_os("BPFD_VM").is_some();
    if starts { "until [ -S /run/bpfd/bpfd.sock ]; do sleep 0.1; done" } else { ":" }
}

/// Runs a script on a host of its own; gives what it printed, and what it complained of.
pub fn run(script: &str) -> (String, String, bool) {
    let out = Command::new("timeout")
        // A limit for a script that hangs, far above the seconds that it takes.
        .args(["300", "setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--propagation", "private"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", HOST, "sh"])
        .arg(tree())
        .args([example("xdp-pass").as_str(), script])
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(out.stdout), text(out.stderr), out.status.success())
}

/// Runs these commands beside a registry; gives what each printed, what it complained of too.
#[track_caller]
pub fn printed(commands: &[&str]) -> Vec<String> {
    let mut script = REGISTRY.to_owned();
    for command in commands {
        writeln!(script, "{{ {command}\n}} 2>&1 || true\necho '@ next'").unwrap();
    }
    let (said, complained, done) = run(&script);
    assert!(done, "{said}{complained}");
    said.split_terminator("@ next\n").map(str::to_owned).collect()
}

/// Runs these lines beside a registry, and compares what each prints with what the page says of it.
#[track_caller]
pub fn holds(page: &str, lines: &[&Line]) {
    let mut script = REGISTRY.to_owned();
    for (number, Line { command, .. }) in lines.iter().enumerate() {
        writeln!(script, "echo '@ {number}'\n{command}\n{}", awaited(command)).unwrap();
    }
    let (said, complained, done) = run(&format!("{script}echo '@ end'"));
    assert!(done, "{said}{complained}");
    for (number, Line { command, output }) in lines.iter().enumerate() {
        let (_, rest) = said.split_once(&format!("@ {number}\n")).unwrap();
        let (printed, _) = rest.split_once("@ ").unwrap();
        // A line without output on the page may print what differs from run to run.
        assert!(output.is_empty() || printed == output, "`{command}` prints:\n{printed}{page} says:\n{output}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_their_output_are_told_apart() {
        let page = "```console\n$ a\nb\nc\n$ d\n```\n$ not a line\n```toml\n$ nor this\n```\n";
        let line = |command: &str, output: &str| Line { command: command.to_owned(), output: output.to_owned() };
        assert_eq!(console(page), [line("a", "b\nc\n"), line("d", "")]);
    }

    #[test]
    fn a_file_that_is_shown_ends_with_its_block() {
        let page = "<!-- file: a/b.toml -->\n```toml\nx = 1\n```\ntext\n```\nno file\n```\n";
        assert_eq!(shown_files(page), [("a/b.toml".to_owned(), "x = 1\n".to_owned())]);
    }
}
