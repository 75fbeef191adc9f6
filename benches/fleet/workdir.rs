//! [`Workdir`]: the directory of the processes. It is kept after a failure.

use crate::problem::Problem;
use std::path::Path;
use tempfile::TempDir;

/// A directory that is removed, unless [`keep`](Self::keep) was called.
#[derive(Debug)]
pub(crate) struct Workdir {
    dir: TempDir,
}

// === impl Workdir ===

impl Workdir {
    pub(crate) fn new() -> Result<Self, Problem> {
        let dir = tempfile::Builder::new().prefix("fleet-").tempdir()?;
        Ok(Self { dir })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Something failed.
    pub(crate) fn keep(&mut self) {
        self.dir.disable_cleanup(true);
        eprintln!(
            "the output of all processes is in {}",
            self.dir.path().display()
        );
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
    }
}
