//! Where things are on a host, and below `--root` in a test. The only place that knows these paths.

use std::path::{Path, PathBuf};

/// Every path that the daemon uses.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What `--root` said.
    pub root: Option<PathBuf>,
    /// Sockets: `/run/bpfd`.
    pub run: PathBuf,
    /// State, objects, images: `/var/lib/bpfd`.
    pub lib: PathBuf,
    /// The audit log: `/var/log/bpfd`.
    pub log: PathBuf,
    /// Configuration and policy: `/etc/bpfd`.
    pub etc: PathBuf,
    /// The bpffs that pins live in.
    pub bpffs: PathBuf,
}

impl Layout {
    /// The host's own paths, or the same below a directory.
    pub fn new(root: Option<&Path>) -> Self {
        let at = |path: &str| root.map_or_else(|| PathBuf::from("/").join(path), |root| root.join(path));
        Self {
            root: root.map(Path::to_path_buf),
            run: at("run/bpfd"),
            lib: at("var/lib/bpfd"),
            log: at("var/log/bpfd"),
            etc: at("etc/bpfd"),
            bpffs: at("sys/fs/bpf"),
        }
    }

    /// The socket of the whole API.
    pub fn socket(&self) -> PathBuf {
        self.run.join("bpfd.sock")
    }

    /// The socket of those who may look: the whole API too, and the same decisions.
    pub fn view_socket(&self) -> PathBuf {
        self.run.join("bpfd-ro.sock")
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.lib.join("state.db")
    }

    /// The last good policy, for a start with bad files.
    pub fn good_policy(&self) -> PathBuf {
        self.lib.join("policy.good")
    }

    /// Objects by sha256.
    pub fn objects(&self) -> PathBuf {
        self.lib.join("objects")
    }

    /// The OCI layout of pulled images.
    pub fn images(&self) -> PathBuf {
        self.lib.join("images")
    }

    /// Files that declare what is there after every boot.
    pub fn programs(&self) -> PathBuf {
        self.etc.join("programs.d")
    }

    /// The audit log.
    pub fn audit(&self) -> PathBuf {
        self.log.join("audit.jsonl")
    }

    /// Where the audit log ends, kept apart from it.
    pub fn audit_head(&self) -> PathBuf {
        self.lib.join("audit.head")
    }

    /// Where the journal listens.
    pub fn journal(&self) -> PathBuf {
        self.root.clone().unwrap_or_else(|| PathBuf::from("/")).join("run/systemd/journal/socket")
    }

    /// Where pins are, as `get` shows them.
    pub fn pins(&self) -> PathBuf {
        self.bpffs.join("bpfd/v1")
    }
}
