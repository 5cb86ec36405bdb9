//! `docs/gallery.md`: a picture of each screen, made by the same tests that check it, with a caption.

use crate::run::{Step, cargo, must, root};
use crate::setup::{self, npm};
use crate::site;
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs;

/// What the pictures may weigh together: they travel with each clone.
const MAX_BYTES: u64 = 3_500_000;
/// The screens, in the order of the page: the pictures' name, and what is to be seen.
const SCREENS: &[(&str, &str)] = &[
    ("idle", "The donate page: nothing runs, nothing is loaded. Below, the run that this relay holds."),
    ("invitation", "The same for who followed `/join/ID`: that project first."),
    (
        "consent",
        "After the first click: who asks, what is computed, what this device can do, what others see.",
    ),
    (
        "consent-advanced",
        "Further down: how much, for how long, how much memory, and a team, if one wants that.",
    ),
    (
        "running",
        "After the second click: the job's picture with one's own parts lit, figures, and Stop in view.",
    ),
    ("paused", "Paused by the person."),
    ("waiting", "Waiting, with the reason."),
    ("thanks", "After Stop: what came of it."),
    ("forgotten", "The browser's name is forgotten, and what stays of it for a while."),
    ("failed", "The engine could not be loaded."),
    ("idle-german", "The donate page in German."),
    ("consent-german", "Consent in German."),
    ("running-german", "Lending in German."),
    ("projects", "What can be joined here, for whom and why."),
    ("projects-empty", "The same, where nothing runs."),
    ("results", "Results: runs for everybody, jobs for who has the submitter's token."),
    ("results-token", "With the token."),
    ("job", "A job: who computed which part, what was refused, what checking cost, and its result."),
    ("run", "A run: loss, throughput, data, audits, contributors."),
    ("operator-locked", "The operator's page asks for the admin's token."),
    ("operator", "With the token: sessions, queue, refused results, bandwidth, store, errors."),
    ("models", "Models, derived from the public log in the browser."),
    ("governance", "People, rules and proposals."),
    ("proposal", "A proposal, before the vote."),
    ("receipts", "Receipts, and their check without a network."),
    ("model-none", "The page to try the model, before people promoted a version: what has to happen."),
    ("model-loading", "The model is fetched, with rate and time left."),
    (
        "model-offered",
        "A large model, or scarce data: from other tabs or from the relay, and what that means.",
    ),
    ("model-passing", "This tab passes the model on to others, until it is stopped."),
    ("model-ready", "It is there and proved: who approved it, and its eval card."),
    ("model-writing", "It writes in the visitor's own tab."),
    ("model-written", "The same without a network."),
    ("model-shared", "A seed and settings to share."),
    ("model-unproven", "A candidate that people did not promote is not run."),
    ("model-refused", "Other parameters than the log names are not run."),
    ("embed", "For whoever runs a site: the widget, its snippet, and what the site's headers need."),
];
/// The suites that photograph.
const SUITES: [&str; 5] = ["screens::", "widget::", "model_page::", "states::", "trust::"];
/// Moments that other suites photograph, once each.
const MOMENTS: &[(&str, &str)] = &[
    ("state-hidden", "Waiting: the tab is hidden."),
    ("state-second-tab", "Waiting: another tab of this browser lends."),
    ("state-battery", "Waiting: on battery."),
    ("state-network-lost", "Waiting: the network is gone."),
    ("state-relay-down", "Waiting: the relay is down."),
    ("alarm", "The relay's log forked: nothing is computed for it any more."),
    ("widget-idle", "The widget on somebody's site."),
    ("widget-consent", "The widget asks."),
    ("widget-running", "The widget lends, with its meter and Stop."),
    ("widget-paused", "The widget, paused."),
    ("widget-thanks", "The widget says thanks."),
    ("widget-themed", "The widget in a site's own colors."),
    ("widget-refused", "The widget is covered: it does not ask there."),
    ("widget-once-more", "A click that may not have been the person's: once more."),
    ("widget-sandbox", "In a sandbox the widget cannot ask."),
    ("widget-nameless", "On a page without an origin it cannot either."),
    ("widget-denied", "The operator does not let this site lend."),
    ("widget-generator", "The page that makes a site's snippet."),
];
/// Of each screen: the picture's ending, and what it shows.
const VIEWS: [(&str, &str); 2] = [("desktop", "desktop, light"), ("phone", "phone, dark")];

/// Makes the pictures and the page.
pub(crate) fn run() -> Result<bool> {
    let ready = setup::everything()?;
    npm::AXE.fetched()?;
    crate::data::corpus()?;
    site::page()?;
    // The gallery that is there stays until this one is whole.
    let folder = root().join("target/gallery");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let step = Step::start("open each screen and check it");
    let mut test = cargo();
    test.args(["test", "--quiet", "--workspace", "--test", "browser", "--"])
        .args(SUITES)
        .env("CHROME", &ready.chromium)
        .env("POTLUCK_GALLERY", &folder);
    must(&mut test, "a screen has a mistake: the test says which")?;
    step.done();
    let mut bytes = 0;
    let mut known = 0;
    for entry in fs::read_dir(&folder)?.flatten() {
        bytes += entry.metadata()?.len();
        let name = entry.file_name().to_string_lossy().into_owned();
        let screen = VIEWS.iter().find_map(|(view, _)| name.strip_suffix(&format!("-{view}.webp")));
        let listed = match screen {
            Some(screen) => SCREENS.iter().any(|(name, _)| *name == screen),
            None => MOMENTS.iter().any(|(moment, _)| name.strip_suffix(".webp") == Some(moment)),
        };
        ensure!(listed, "{name} has no caption\nhint: add it to SCREENS or MOMENTS in xtask/src/gallery.rs");
        known += 1;
    }
    let wanted = SCREENS.len() * VIEWS.len() + MOMENTS.len();
    ensure!(known == wanted, "there are {known} pictures, not {wanted}: a screen of SCREENS was not shown");
    ensure!(
        bytes <= MAX_BYTES,
        "the pictures have {bytes} bytes together; {MAX_BYTES} are the most\nhint: show less, or smaller"
    );
    let shown = root().join("docs/gallery");
    let _ = fs::remove_dir_all(&shown);
    fs::rename(&folder, &shown)
        .with_context(|| format!("cannot move the pictures to {}", shown.display()))?;
    let page = root().join("docs/gallery.md");
    fs::write(&page, text()).with_context(|| format!("cannot write {}", page.display()))?;
    println!("{}: {wanted} pictures, {bytes} bytes", page.display());
    Ok(true)
}

fn text() -> String {
    let mut text = String::from(
        "# Gallery\n\nEach screen as the tests see it (`tests/tests/browser/screens.rs`), in a real Chromium with a real relay, where axe-core\n\
         finds nothing wrong with it. `cargo xtask gallery` makes this page and its pictures.\n",
    );
    for (name, caption) in SCREENS {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n## {}\n{caption}\n\n", title(name));
        let pictures: Vec<_> = VIEWS
            .iter()
            .map(|(view, words)| format!("![{}, {words}](gallery/{name}-{view}.webp)", title(name)))
            .collect();
        let _ = writeln!(text, "{}", pictures.join("\n"));
    }
    text.push_str("\n# Moments\n\nWhat other suites of `tests/tests/browser` photograph.\n");
    for (name, caption) in MOMENTS {
        let _ = write!(text, "\n## {}\n{caption}\n\n![{0}](gallery/{name}.webp)\n", title(name));
    }
    text
}

fn title(name: &str) -> String {
    let words = name.replace('-', ", ");
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_screen_has_a_caption_and_a_page_that_was_made_is_up_to_date() {
        let text = text();
        for (name, caption) in MOMENTS {
            assert!(text.contains(&format!("](gallery/{name}.webp)")) && !caption.is_empty(), "{name}");
        }
        for (name, caption) in SCREENS {
            assert!(text.contains(&format!("](gallery/{name}-phone.webp)")) && !caption.is_empty(), "{name}");
            assert_eq!(SCREENS.iter().filter(|(other, _)| other == name).count(), 1, "{name}");
        }
        if let Ok(page) = fs::read_to_string(root().join("docs/gallery.md")) {
            assert_eq!(page, text, "`cargo xtask gallery` makes it again");
        }
    }
}
