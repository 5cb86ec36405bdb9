//! `[embeds]` of the settings file.

use potluck_proto::Preset;
use potluck_schedule::{Embeds, is_origin};
use serde::Deserialize;

/// Sites that a settings file may name, each way: their list is a header of the frame.
const MAX_SITES: usize = 100;
/// Longest contact, in characters.
const MAX_CONTACT_CHARS: usize = 200;

/// The most that visitors of other sites may lend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaxPreset {
    /// A quarter of the time.
    Quiet,
    /// Half of the time.
    Balanced,
    /// All of the time.
    #[default]
    Full,
}

impl MaxPreset {
    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Balanced => "balanced",
            Self::Full => "full",
        }
    }
}

/// `[embeds]`: the widget on other sites.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbedConfig {
    /// Whether other sites may show the widget.
    pub enabled: bool,
    /// Origins of the sites that may, such as `https://school.example`. If there is none, all may that are not denied.
    pub allow: Vec<String>,
    /// Origins of sites that may not.
    pub deny: Vec<String>,
    /// The most that their visitors may lend: `quiet`, `balanced` or `full`.
    pub max_preset: MaxPreset,
    /// Where to complain about a site that abuses the widget; without it, the operator's contact.
    pub abuse: Option<String>,
}

impl Default for EmbedConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            allow: Vec::new(),
            deny: Vec::new(),
            max_preset: MaxPreset::default(),
            abuse: None,
        }
    }
}

/// What is wrong in `[embeds]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedMistake {
    /// A site that no browser would name so.
    #[error(
        "{key} of [embeds] has {site:?}, which is no origin: write scheme, host in lower case and, if it is not the usual \
         one, the port, such as \"https://school.example\""
    )]
    NoOrigin {
        /// Which list.
        key: &'static str,
        /// What it has.
        site: String,
    },
    /// Too many sites.
    #[error("{key} of [embeds] names more than {MAX_SITES} sites")]
    TooMany {
        /// Which list.
        key: &'static str,
    },
    /// A contact that is none.
    #[error("abuse of [embeds] is not 1 to {MAX_CONTACT_CHARS} printable characters")]
    Contact,
}

impl EmbedConfig {
    /// Whether it can be used.
    ///
    /// # Errors
    /// The first mistake.
    pub fn check(&self) -> Result<(), EmbedMistake> {
        for (key, sites) in [("allow", &self.allow), ("deny", &self.deny)] {
            if sites.len() > MAX_SITES {
                return Err(EmbedMistake::TooMany { key });
            }
            if let Some(site) = sites.iter().find(|site| !is_origin(site)) {
                return Err(EmbedMistake::NoOrigin { key, site: site.clone() });
            }
        }
        let fits = |text: &String| {
            !text.trim().is_empty()
                && text.chars().count() <= MAX_CONTACT_CHARS
                && !text.chars().any(char::is_control)
        };
        if self.abuse.as_ref().is_some_and(|text| !fits(text)) {
            return Err(EmbedMistake::Contact);
        }
        Ok(())
    }

    /// The same for the machine.
    pub(crate) fn rules(&self) -> Embeds {
        Embeds {
            enabled: self.enabled,
            allow: self.allow.iter().cloned().collect(),
            deny: self.deny.iter().cloned().collect(),
            max_preset: match self.max_preset {
                MaxPreset::Quiet => Preset::Quiet,
                MaxPreset::Balanced => Preset::Balanced,
                MaxPreset::Full => Preset::Full,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let read = |text: &str| toml::from_str::<EmbedConfig>(text).unwrap();
        assert_eq!(read("").check(), Ok(()));
        let good =
            read("allow = [\"https://a.example\"]\nmax_preset = \"quiet\"\nabuse = \"abuse@a.example\"");
        assert_eq!((good.check(), good.rules().max_preset), (Ok(()), Preset::Quiet));
        let error = read("deny = [\"a.example\"]").check().unwrap_err().to_string();
        assert!(
            error.contains("deny") && error.contains("a.example") && error.contains("https://"),
            "{error}"
        );
        let many =
            EmbedConfig { allow: vec!["https://a.example".into(); MAX_SITES + 1], ..EmbedConfig::default() };
        assert_eq!(many.check(), Err(EmbedMistake::TooMany { key: "allow" }));
        assert_eq!(read("abuse = \" \"").check(), Err(EmbedMistake::Contact));
        assert!(toml::from_str::<EmbedConfig>("max_preset = \"loud\"").is_err());
    }
}
