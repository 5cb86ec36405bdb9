//! Secrets of epochs. What checks and audits are drawn from is committed to in the log at a start, and told there when
//! nothing is drawn from it any more: at the next start.
//!
//! A secret follows from the relay's key and from a salt, which is kept with the records: records alone tell nobody what is
//! drawn, and whichever of a relay's nodes starts next can tell what was.

use crate::db::{Db, DbError, bytes};
use crate::identity::Identity;
use potluck_types::BlobHash;
use potluck_verify::{Secret, commitment};
use std::io;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Domain of the derivation, so that nothing else that is derived from the key can be a secret.
const DOMAIN: &str = "potluck 2026 secret of an epoch v1";

/// What a secret is derived from, beside the key. Another one for each start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Salt(pub(crate) [u8; 32]);

impl Salt {
    /// The secret of this relay's epoch.
    pub(crate) fn secret(self, identity: &Identity) -> Secret {
        let mut material = Zeroizing::new([0; 64]);
        material[..32].copy_from_slice(identity.seed());
        material[32..].copy_from_slice(&self.0);
        Secret(blake3::derive_key(DOMAIN, &material[..]))
    }
}

/// Secrets of a relay's epochs, those before too.
#[derive(Debug)]
pub(crate) struct Epochs {
    pub(crate) db: Db,
    pub(crate) identity: Identity,
    /// Where older versions kept secrets, a file each.
    pub(crate) folder: PathBuf,
}

impl Epochs {
    /// The secret of an epoch whose commitment is known; none if it was lost, or was another relay's.
    ///
    /// # Errors
    /// What the database or the file system says.
    pub(crate) async fn secret(
        &self,
        incarnation: u32,
        committed: &BlobHash,
    ) -> Result<Option<Secret>, EpochError> {
        let salt = self.db.salt(incarnation).await?;
        let secret = match salt.map(|salt| salt.secret(&self.identity)) {
            Some(secret) => Some(secret),
            None => self.in_file(incarnation)?,
        };
        Ok(secret.filter(|secret| commitment(secret) == committed.0))
    }

    /// All that older versions kept is told.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn forget_files(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn in_file(&self, incarnation: u32) -> io::Result<Option<Secret>> {
        match std::fs::read_to_string(self.folder.join(incarnation.to_string())) {
            Ok(text) => Ok(text.trim().parse::<BlobHash>().ok().map(|secret| Secret(secret.0))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Why a secret cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EpochError {
    /// The database fails.
    #[error(transparent)]
    Database(#[from] DbError),
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] io::Error),
}

impl Db {
    /// Keeps the salt of an epoch. It is durable when this returns.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn keep_salt(&self, incarnation: u32, salt: Salt) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        sqlx::query("INSERT INTO epoch_salts (incarnation, salt) VALUES ($1, $2)")
            .bind(i64::from(incarnation))
            .bind(&salt.0[..])
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    async fn salt(&self, incarnation: u32) -> Result<Option<Salt>, DbError> {
        let row = sqlx::query("SELECT salt FROM epoch_salts WHERE incarnation = $1")
            .bind(i64::from(incarnation))
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| bytes(&row, 0).map(Salt)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_is_told_again_from_key_and_salt_and_only_if_it_is_what_was_committed_to() {
        let folder = tempfile::tempdir().unwrap();
        let db = crate::db::open_files(&folder.path().join("potluck.db")).await.unwrap();
        let identity = |name: &str| crate::identity::prepare(&folder.path().join(name)).unwrap();
        let epochs = |identity| Epochs { db: db.clone(), identity, folder: folder.path().join("epochs") };
        let (own, other) = (epochs(identity("own")), epochs(identity("other")));
        let salt = Salt([3; 32]);
        db.keep_salt(7, salt).await.unwrap();
        let secret = salt.secret(&own.identity);
        assert_ne!(secret, Salt([4; 32]).secret(&own.identity));
        let committed = BlobHash(commitment(&secret));
        assert_eq!(own.secret(7, &committed).await.unwrap(), Some(secret));
        assert_eq!(own.secret(8, &committed).await.unwrap(), None);
        assert_eq!(own.secret(7, &BlobHash([0; 32])).await.unwrap(), None);
        assert_eq!(other.secret(7, &committed).await.unwrap(), None, "the key decides too");
        // As older versions kept them.
        std::fs::create_dir(&own.folder).unwrap();
        std::fs::write(own.folder.join("5"), format!("{}\n", BlobHash([9; 32]))).unwrap();
        let before = Secret([9; 32]);
        let committed = BlobHash(commitment(&before));
        assert_eq!(other.secret(5, &committed).await.unwrap(), Some(before));
    }
}
