//! Files that people get from others and give to the command: run files, and model folders in Hugging Face's layout.

// The command is too large to be fuzzed: its files are read here as they are.
#[allow(dead_code, unreachable_pub, reason = "the command uses all of it")]
#[path = "../../crates/cli/src/model/mod.rs"]
mod folder;
#[allow(dead_code, unused_imports, unreachable_pub, reason = "the command uses all of it")]
#[path = "../../crates/cli/src/run_file/mod.rs"]
mod run_file;

use potluck_train::gpt::Layout;
use run_file::{ModelChoice, RunFile, RunFileError};
use std::path::Path;

/// A run file. What is taken is within the limits that a relay has, and what is refused has a place in the file.
pub(crate) fn run_file(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    match RunFile::parse(Path::new("run.toml"), text) {
        Ok(run) => {
            assert!(!run.corpus.is_empty() && run.steps > 0 && run.rounds > 0 && run.batch > 0);
            if let ModelChoice::Sizes(sizes) = &run.model {
                assert!(Layout::new(&sizes.config(2)).parameters() > 0);
            }
            true
        }
        Err(RunFileError::Line { line, column, .. }) => {
            assert!(line > 0 && line <= text.split('\n').count() && column > 0, "{line}:{column}");
            false
        }
        Err(error) => panic!("a text that was read is refused for itself: {error}"),
    }
}

/// The lengths of `config.json` and of `tokenizer.json` (u16, little-endian), these two, and `model.safetensors`.
pub(crate) fn model_folder(bytes: &[u8]) -> bool {
    let Some(([a, b, c, d], bytes)) = bytes.split_first_chunk::<4>() else { return false };
    let [config, tokenizer] = [[*a, *b], [*c, *d]].map(|length| usize::from(u16::from_le_bytes(length)));
    let Some((config, rest)) = bytes.split_at_checked(config) else { return false };
    let Some((tokenizer, tensors)) = rest.split_at_checked(tokenizer) else { return false };
    let Ok(model) = folder::parse(config, tokenizer, tensors, Path::new("model")) else { return false };
    assert_eq!(model.parameters.len(), Layout::new(&model.config).parameters());
    assert!(2 * model.parameters.len() <= tensors.len());
    assert!(model.parameters.iter().all(|value| value.is_finite()));
    assert_eq!(model.tokenizer.vocabulary(), model.config.vocabulary);
    true
}
