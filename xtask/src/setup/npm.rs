//! What comes from npm: by the ordinary client, pinned by version and hash, in the cache. No package's script is run.

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

/// Programs and modules of packages, all of them at the versions and with the hashes of a `package-lock.json`.
pub(crate) struct Tools(PathBuf);

impl Tools {
    /// Those of the lock in a folder; installed into the cache if they are not there.
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        const FILES: [&str; 2] = ["package.json", "package-lock.json"];
        let mut hash = blake3::Hasher::new();
        for name in FILES {
            let path = folder.join(name);
            hash.update(&fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
        let cached = cache()?.join("npm");
        let place = cached.join(format!("tools-{}", &hash.finalize().to_hex()[..16]));
        if place.is_dir() {
            return Ok(Self(place));
        }
        let step = Step::start("bring the compiler of TypeScript and what else packages are made with");
        fs::create_dir_all(&cached).with_context(|| format!("cannot create {}", cached.display()))?;
        // Renamed into place at the end: a run that is cut short leaves nothing that looks whole.
        let scratch = tempfile::tempdir_in(&cached)?;
        for name in FILES {
            fs::copy(folder.join(name), scratch.path().join(name))?;
        }
        let mut install = npm();
        install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(scratch.path());
        must_quietly(&mut install, "look at what npm says above; without npm, install Node.js")?;
        fs::rename(scratch.path(), &place).with_context(|| format!("cannot write {}", place.display()))?;
        step.done();
        Ok(Self(place))
    }

    /// Where a module or a file of it lies.
    pub(crate) fn module(&self, path: &str) -> PathBuf {
        self.0.join("node_modules").join(path)
    }

    /// A script of a module, to be run by Node.
    pub(crate) fn run(&self, script: &str) -> Command {
        let mut node = Command::new("node");
        node.arg(self.module(script));
        node
    }
}

/// `npm`, installed if there is none and it can be.
fn npm() -> Command {
    if which("npm").is_none() && !cfg!(windows) {
        // If that fails, what cannot be started says the same with its hint.
        let _ = apt::install(&["npm"]);
    }
    Command::new(if cfg!(windows) { "npm.cmd" } else { "npm" })
}

/// Makes the archive of a package's folder.
pub(crate) fn pack(folder: &Path, into: &Path) -> Result<()> {
    let mut pack = npm();
    pack.args(["pack", "--silent", "--ignore-scripts", "--pack-destination"]).arg(into).current_dir(folder);
    must_quietly(&mut pack, "look at what npm says above")
}

/// Unpacks the archive of a package; where it lies.
pub(crate) fn untar(archive: &Path, into: &Path) -> Result<PathBuf> {
    must_quietly(Command::new("tar").arg("-xzf").arg(archive).current_dir(into), "install `tar`")?;
    Ok(into.join("package"))
}

/// Fetches a package into a folder, and unpacks it; where it lies. `hint` is for who has no npm.
pub(crate) fn unpack(scratch: &Path, package: &str, hint: &str) -> Result<PathBuf> {
    // Its scripts are not run by packing.
    must_quietly(npm().args(["pack", "--silent", package]).current_dir(scratch), hint)?;
    let archive = fs::read_dir(scratch)?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name())
        .find(|name| Path::new(name).extension().is_some_and(|ending| ending == "tgz"))
        .context("npm pack left no archive\nhint: a newer npm may help")?;
    untar(Path::new(&archive), scratch)
}
