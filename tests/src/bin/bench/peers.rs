//! The peers' packages: installed by npm into the cache folder, outside the clone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

/// The folder of packages, after `npm ci` where the lock file there is not ours.
pub(crate) fn install(manifests: &Path) -> Result<PathBuf> {
    let folder = cache()?.join("npm");
    let modules = folder.join("node_modules");
    let lock = fs::read(manifests.join("package-lock.json")).context("tests/bench/package-lock.json")?;
    // The mark is written last: an interrupted installation is done again.
    let mark = folder.join("installed.lock");
    if modules.is_dir() && fs::read(&mark).is_ok_and(|have| have == lock) {
        return Ok(modules);
    }
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    for name in ["package.json", "package-lock.json"] {
        fs::copy(manifests.join(name), folder.join(name)).with_context(|| format!("copying {name}"))?;
    }
    eprintln!("installing the peers from npm into {} (once, about 230 MB)", folder.display());
    let status = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev"])
        .current_dir(&folder)
        .stdout(std::io::stderr())
        .status()
        .context("npm could not be started. hint: `bench browser` compares with packages from npm; install Node.js")?;
    if !status.success() {
        bail!("npm ci failed in {} ({status}). hint: it needs the npm registry", folder.display());
    }
    fs::write(&mark, lock)?;
    Ok(modules)
}

/// `$POTLUCK_CACHE`, else `potluck` in the user's cache folder.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("POTLUCK_CACHE") {
        return Ok(folder.into());
    }
    let home =
        env::home_dir().context("no home folder. hint: set POTLUCK_CACHE to a folder that may be filled")?;
    Ok(home.join(".cache").join("potluck"))
}
