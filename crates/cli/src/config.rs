//! Where settings come from: flags before environment before files before defaults.

use crate::args::TokenArgs;
use crate::client::{base_address, is_loopback};
use crate::error::CliError;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Bytes of a token file that are read.
const MAX_TOKEN_FILE_BYTES: u64 = 4096;
/// Characters of a token.
const MAX_TOKEN_CHARS: usize = 512;

/// The submitter's token: `--token`, `--token-file`, `POTLUCK_TOKEN`, `POTLUCK_TOKEN_FILE`, in this order. `None` if none
/// is given: the relay says where one is needed.
///
/// # Errors
/// The file cannot be read, or what is given is no token.
pub fn token(
    args: &TokenArgs,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<String>, CliError> {
    let variable = |name| variable(name).filter(|value| !value.trim().is_empty());
    let token = if let Some(token) = &args.token {
        token.clone()
    } else if let Some(path) = &args.token_file {
        read_token(path)?
    } else if let Some(token) = variable("POTLUCK_TOKEN") {
        token
    } else if let Some(path) = variable("POTLUCK_TOKEN_FILE") {
        read_token(Path::new(&path))?
    } else {
        return Ok(None);
    };
    checked(&token).map(Some)
}

/// The token of a relay that was started in `folder` with the usual data folder, if `relay` is this machine's own: so
/// `potluck relay` and `potluck submit` in one folder need nothing else.
///
/// # Errors
/// The file is there and cannot be read, or holds no token.
pub fn own_token(relay: &str, folder: &Path) -> Result<Option<String>, CliError> {
    let path = folder.join(potluck_relay::Config::default().data).join("token");
    if !is_loopback(&base_address(relay)?) || !path.is_file() {
        return Ok(None);
    }
    checked(&read_token(&path)?).map(Some)
}

fn checked(token: &str) -> Result<String, CliError> {
    let token = token.trim();
    if token.is_empty() || token.len() > MAX_TOKEN_CHARS || !token.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(CliError::Usage {
            message: "what was given as a token is none: a token is one word of letters and digits".into(),
            hint:
                "`potluck relay` prints the path of the file that holds it; use --token-file with that path"
                    .into(),
        });
    }
    Ok(token.to_owned())
}

fn read_token(path: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_TOKEN_FILE_BYTES).read_to_string(&mut text))
        .map_err(|cause| CliError::file(path, "read", cause))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_before_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("{name}\n")).unwrap();
            path
        };
        let (flag_file, env_file) = (file("flagfile"), file("envfile"));
        let env_file_text = env_file.to_str().unwrap().to_owned();
        let both = |name: &str| match name {
            "POTLUCK_TOKEN" => Some("env".to_owned()),
            "POTLUCK_TOKEN_FILE" => Some(env_file_text.clone()),
            _ => None,
        };
        let only_file = |name: &str| both(name).filter(|_| name == "POTLUCK_TOKEN_FILE");
        let flag = TokenArgs { token: Some("flag".into()), token_file: None };
        let flag_with_file = TokenArgs { token: None, token_file: Some(flag_file) };
        let neither = TokenArgs::default();
        let found =
            |args: &TokenArgs, variable: &dyn Fn(&str) -> Option<String>| token(args, variable).unwrap();
        assert_eq!(found(&flag, &both).as_deref(), Some("flag"));
        assert_eq!(found(&flag_with_file, &both).as_deref(), Some("flagfile"));
        assert_eq!(found(&neither, &both).as_deref(), Some("env"));
        assert_eq!(found(&neither, &only_file).as_deref(), Some("envfile"));
        assert_eq!(found(&neither, &|_| None), None);
        assert_eq!(found(&neither, &|_| Some("  ".into())), None);
    }

    #[test]
    fn a_relay_of_this_folder_needs_no_flag_and_no_other_relay_gets_its_token() {
        let folder = tempfile::tempdir().unwrap();
        let own = |relay| own_token(relay, folder.path()).unwrap();
        assert_eq!(own("http://127.0.0.1:8787"), None);
        std::fs::create_dir(folder.path().join("potluck-data")).unwrap();
        std::fs::write(folder.path().join("potluck-data/token"), "abc\n").unwrap();
        assert_eq!(own("http://127.0.0.1:8787").as_deref(), Some("abc"));
        assert_eq!(own("https://relay.example.org"), None);
    }

    #[test]
    fn what_is_no_token_is_said_without_printing_it() {
        let args = TokenArgs { token: Some("two words".into()), token_file: None };
        let error = token(&args, |_| None).unwrap_err();
        assert_eq!(error.exit(), crate::error::Exit::Usage);
        assert!(!error.lines().contains("two words"));
        let missing = TokenArgs { token: None, token_file: Some("/nowhere/token".into()) };
        assert!(matches!(token(&missing, |_| None), Err(CliError::File { .. })));
    }
}
