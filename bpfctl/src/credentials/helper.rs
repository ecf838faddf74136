//! One run of a credential helper: `docker-credential-NAME get`, the registry on its standard input, JSON on its output
//! (docker-credential-helpers). Its standard error is the caller's: it says there what it needs, or why it fails.
//!
//! Must never run longer than its limit, read more than an answer has, or quote what was read.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytecode_image::auth::{Credentials, HelperError, said};
use bytecode_image::limits;

/// Between two looks whether it has ended, once its output has.
const LOOK: Duration = Duration::from_millis(5);

/// What a helper says about a registry.
pub(super) fn get(program: &Path, server: &str, limit: Duration) -> Result<Option<Credentials>, HelperError> {
    let until = Instant::now() + limit;
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running(command.spawn().map_err(HelperError::Run)?);
    let (input, output) = (child.0.stdin.take(), child.0.stdout.take());
    if let Some(mut input) = input {
        match input.write_all(server.as_bytes()) {
            // One that reads nothing may still answer.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(HelperError::Run(error)),
            Ok(()) | Err(_) => {}
        }
    }
    let (send, received) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let output = output.map_or(Ok(0), |output| output.take(limits::TOKEN + 1).read_to_end(&mut bytes));
        // If nobody waits any more, nobody needs it.
        send.send(output.map(|_| bytes)).unwrap_or_default();
    });
    let output = received.recv_timeout(limit).map_err(|_elapsed| HelperError::Slow)?.map_err(HelperError::Run)?;
    if u64::try_from(output.len()).is_ok_and(|length| length > limits::TOKEN) {
        return Err(HelperError::TooLong);
    }
    let status = loop {
        match child.0.try_wait().map_err(HelperError::Run)? {
            Some(status) => break status,
            None if Instant::now() >= until => return Err(HelperError::Slow),
            None => thread::sleep(LOOK),
        }
    };
    said(&output, (!status.success()).then(|| status.to_string()))
}

/// A process that does not outlive whoever waits for it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended cannot be ended again; nothing is to be done about one that cannot be ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn run(script: &str, limit: Duration) -> Result<Option<Credentials>, HelperError> {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("docker-credential-x");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        loop {
            match get(&program, "r.example", limit) {
                // A process that another test forked meanwhile has the script open for writing, until it runs its own program.
                Err(HelperError::Run(error)) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                answer => return answer,
            }
        }
    }

    #[test]
    fn a_helper_is_given_the_registry_and_its_answer_is_read() {
        let script = r#"read host; echo "{\"Username\":\"$1 $host\",\"Secret\":\"s3cret\"}""#;
        assert_eq!(run(script, HOUR).unwrap(), Some(Credentials::password("get r.example", "s3cret")));
        let deaf = r#"exec <&-; echo '{"Username":"me","Secret":"s3cret"}'"#;
        assert_eq!(run(deaf, HOUR).unwrap(), Some(Credentials::password("me", "s3cret")));
        assert_eq!(run("echo credentials not found in native keychain; exit 1", HOUR).unwrap(), None);
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_helper_that_never_ends_or_never_stops_talking_is_ended() {
        let short = Duration::from_millis(100);
        assert!(matches!(run("exec sleep 3600", short), Err(HelperError::Slow)));
        assert!(matches!(run("exec >&-; exec sleep 3600", short), Err(HelperError::Slow)));
        assert!(matches!(run("exec cat /dev/zero", HOUR), Err(HelperError::TooLong)));
        assert!(
            matches!(run("echo s3cret; exit 3", HOUR), Err(HelperError::Status(status)) if status == "exit status: 3")
        );
        assert!(matches!(get(Path::new("/nonexistent"), "r", HOUR), Err(HelperError::Run(_))));
    }
}
