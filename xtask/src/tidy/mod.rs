//! Checks that what the documents promise is so. Absences rot first: most of these are about what must not be.

mod graph;
mod packages;
mod text;
mod translations;

use anyhow::Result;
use std::path::Path;

/// What is wrong, a line each.
type Findings = Vec<String>;

/// Runs all checks on a checkout; `false` if something is wrong.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let mut findings = graph::check(root)?;
    findings.extend(text::check(root)?);
    findings.extend(translations::check(root)?);
    findings.extend(packages::check(root)?);
    for finding in &findings {
        println!("tidy: {finding}");
    }
    println!(
        "tidy: {} found",
        if findings.is_empty() { "nothing".to_owned() } else { findings.len().to_string() }
    );
    Ok(findings.is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_checkout_is_tidy() {
        assert!(super::run(&crate::run::root()).unwrap());
    }
}
