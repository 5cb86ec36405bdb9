//! `potluck key`: made, shown, replaced and taken out of use.

use super::sign::Signer;
use crate::args::governance::{NewKeyArgs, RevokeArgs, RotateArgs, ShowKeyArgs};
use crate::client::Client;
use crate::error::CliError;
use crate::volunteer::{create_key, load_key};
use potluck_governance::statement::{Revoke, Rotate, rotation_text};
use potluck_governance::{Key, Signature, SigningKey};
use serde_json::json;

/// Makes a key.
///
/// # Errors
/// The file exists or cannot be written.
pub fn new(args: &NewKeyArgs) -> Result<(), CliError> {
    let key = create_key(&args.out)?;
    match &args.name {
        Some(name) => println!("{}", json!({ "name": name, "key": key.id().to_string() })),
        None => println!("{}", key.id()),
    }
    eprintln!("{} holds the secret half: keep a copy where nobody else gets at it", args.out.display());
    Ok(())
}

/// Prints the public half of a key.
///
/// # Errors
/// The file cannot be read.
pub fn show(args: &ShowKeyArgs) -> Result<(), CliError> {
    println!("{}", load_key(&args.file)?.id());
    Ok(())
}

/// Replaces the signer's key.
///
/// # Errors
/// Keys or log cannot be read, or the log does not take it.
pub fn rotate(args: &RotateArgs, client: &Client) -> Result<(), CliError> {
    let signer = Signer::open(&args.sign, client)?;
    let new = SigningKey::from_bytes(&load_key(&args.new)?.0);
    let new_key = Key::of(&new);
    // The new key signs too, so that nobody can claim one that is another's.
    let text = rotation_text(signer.log.origin(), &signer.key(), &new_key);
    let proof = Signature::sign(&new, text.as_bytes());
    if !args.sign.log.json {
        println!("the new key signs, as {new_key}:\n{text}");
    }
    signer.say(Rotate { new_key, proof }).map(drop)
}

/// Takes a key out of use.
///
/// # Errors
/// As [`rotate`].
pub fn revoke(args: &RevokeArgs, client: &Client) -> Result<(), CliError> {
    let revoked = args.revoked.parse().map_err(|error| CliError::Usage {
        message: format!("{}: {error}", args.revoked),
        hint: "`potluck governance show` lists keys".into(),
    })?;
    Signer::open(&args.sign, client)?.say(Revoke { revoked, reason: args.reason.clone() }).map(drop)
}
