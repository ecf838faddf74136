//! An error with its causes, as one line. Errors of this tree never repeat their source, so the line says each thing once.

use std::error::Error;

/// `what failed: why: why that`.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
