//! `wasm-pack.toml`, which says what npm packages there are.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Its name.
pub(crate) const FILE: &str = "wasm-pack.toml";

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Packages by their names.
    #[serde(rename = "package")]
    pub(crate) packages: BTreeMap<String, Package>,
}

/// An npm package.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Package {
    /// Folder of what is written by hand.
    pub(crate) source: String,
    /// Folder of the crate that becomes its wasm module.
    #[serde(rename = "crate")]
    pub(crate) folder: String,
    /// Folder of that module in the package.
    pub(crate) module: String,
    /// What wasm-pack makes: `web` and the like.
    pub(crate) target: String,
    /// Cargo's profile.
    pub(crate) profile: String,
    /// Whether wasm-opt comes after.
    pub(crate) wasm_opt: bool,
    /// Whether it may be published.
    pub(crate) publish: bool,
}

impl Settings {
    /// Reads the file of a checkout.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let text = fs::read_to_string(root.join(FILE)).with_context(|| format!("{FILE} cannot be read"))?;
        Self::parse(&text)
    }

    /// Reads its text.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text)
            .with_context(|| format!("{FILE} cannot be read\nhint: its first lines say what stands in it"))
    }
}
