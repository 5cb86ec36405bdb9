//! Where blobs are: in the data folder, or in a bucket of an S3 service that the settings name.
//!
//! A bucket may be shared, a place in it may not: a relay removes blobs that it does not need. So the place says whose it is, and
//! by which of its starts: no other relay begins there, and neither does an older copy of this one's data.

use super::io_error;
use crate::db::{Marker, WhichStore};
use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::path::Path as StorePath;
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, RetryConfig,
};
use serde::Deserialize;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// The folder of blobs, and what becomes of it when they move.
const FOLDER: &str = "blobs";
const MOVED: &str = "blobs.moved";
/// Says that they are in a bucket, and in which.
const MARKER: Marker = Marker { what: "blobs", file: "blobs-store" };
/// Says in the bucket whose it is.
const OWNER: &str = "relay";
/// A request that fails is made again for so long. What waits for it keeps its memory.
const RETRY: Duration = Duration::from_mins(5);
/// Pauses in between, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];
/// A service that says nothing for so long is asked again: 32 MiB at 300 kB/s.
const ANSWER: Duration = Duration::from_mins(2);
/// The environment of AWS' own tools, and of those of others.
const ENDPOINTS: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];

/// Address of a place in a bucket: `s3://BUCKET/FOLDER`. Where the service is and how to get in say the variables that AWS' own
/// tools know: `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct BlobsUrl {
    bucket: String,
    folder: String,
}

/// The text is no address of a place in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the address of a place for blobs is s3://BUCKET/FOLDER, as in s3://potluck/blobs")]
pub struct BlobsUrlError;

impl FromStr for BlobsUrl {
    type Err = BlobsUrlError;

    fn from_str(text: &str) -> Result<Self, BlobsUrlError> {
        let rest = text.strip_prefix("s3://").ok_or(BlobsUrlError)?;
        let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |text: &str, more: &str| {
            text.chars().all(|char| char.is_ascii_alphanumeric() || more.contains(char))
        };
        let known = !bucket.is_empty() && plain(bucket, ".-") && plain(folder, ".-_/");
        let url = Self { bucket: bucket.to_owned(), folder: folder.trim_matches('/').to_owned() };
        known.then_some(url).ok_or(BlobsUrlError)
    }
}

impl TryFrom<String> for BlobsUrl {
    type Error = BlobsUrlError;

    fn try_from(text: String) -> Result<Self, BlobsUrlError> {
        text.parse()
    }
}

impl fmt::Display for BlobsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.folder)
    }
}

/// Where blobs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BlobPlace {
    /// In this folder.
    Folder(PathBuf),
    /// In this bucket.
    Bucket(BlobsUrl),
}

impl BlobPlace {
    /// Where they are, by the data folder and by the settings.
    ///
    /// # Errors
    /// The two do not agree.
    pub(crate) fn of(data: &Path, url: Option<&BlobsUrl>) -> Result<Self, WhichStore> {
        let folder = data.join(FOLDER);
        let here = || folder.read_dir().is_ok_and(|mut entries| entries.next().is_some());
        MARKER.agrees(data, url, here)?;
        Ok(url.map_or(Self::Folder(folder), |url| Self::Bucket(url.clone())))
    }
}

/// Says in the data folder where its blobs are. It is on disk when this returns.
pub(crate) fn mark(data: &Path, url: &BlobsUrl) -> io::Result<()> {
    MARKER.write(data, url)
}

/// The folder's blobs are elsewhere from now on: it is kept under another name.
pub(crate) fn put_aside(data: &Path) -> io::Result<()> {
    std::fs::rename(data.join(FOLDER), data.join(MOVED))?;
    std::fs::File::open(data)?.sync_all()
}

/// Opens a place in a bucket.
///
/// # Errors
/// Settings of the environment that contradict each other.
pub(super) fn bucket(url: &BlobsUrl) -> io::Result<PrefixStore<AmazonS3>> {
    // What encrypts is the same library everywhere; whoever set it first did.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let endpoint = ENDPOINTS.iter().find_map(|name| std::env::var(name).ok());
    let builder = AmazonS3Builder::from_env()
        .with_bucket_name(&url.bucket)
        .with_checksum_algorithm(Checksum::SHA256)
        .with_retry(RetryConfig {
            // The time alone ends it.
            max_retries: usize::MAX,
            retry_timeout: RETRY,
            backoff: BackoffConfig { init_backoff: PAUSES[0], max_backoff: PAUSES[1], base: 2.0 },
        })
        // A limit of the whole request would not be tried again, this is.
        .with_client_options(ClientOptions::new().with_timeout_disabled().with_read_timeout(ANSWER))
        // A service on this machine, or in a closed network.
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")));
    Ok(PrefixStore::new(builder.build().map_err(io_error)?, url.folder.as_str()))
}

/// Who uses a place: a relay, by its key, since one of its starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The relay's key.
    pub(crate) relay: String,
    /// The number of the start, by the records.
    pub(crate) start: u32,
    /// Whether blobs move there before that start's relay ends: the same one may have tried before.
    pub(crate) moving: bool,
}

impl Claim {
    /// Why this claim does not hold against the one that stands at a place.
    fn refused(&self, found: &str) -> Option<String> {
        let (relay, start) = found.trim().split_once(' ').unwrap_or((found.trim(), "0"));
        let relay: String = relay.chars().take(64).collect();
        if relay != self.relay {
            return Some(format!("it is the relay {relay}'s, and this is {}", self.relay));
        }
        let last = start.parse().unwrap_or(u32::MAX);
        let older = self.start < last || (self.start == last && !self.moving);
        older.then(|| {
            format!(
                "this relay started there {last} times, and this is its start {}: these data are an older copy",
                self.start
            )
        })
    }
}

/// Takes a place: whose it is, and since when, stands there from now on.
///
/// # Errors
/// It is another relay's, holds something else, or was used by a newer state of these data; or the service does not answer.
pub(super) async fn take(store: &PrefixStore<AmazonS3>, claim: &Claim) -> io::Result<()> {
    let path = StorePath::from(OWNER);
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    let mode = match store.get(&path).await {
        Ok(found) => {
            let found = found.bytes().await.map_err(io_error)?;
            if let Some(why) = claim.refused(&String::from_utf8_lossy(&found)) {
                return refuse(why);
            }
            PutMode::Overwrite
        }
        Err(object_store::Error::NotFound { .. }) => {
            if let Some(found) = store.list(None).try_next().await.map_err(io_error)? {
                return refuse(format!(
                    "it is not empty, there is {}, and nothing says whose it is",
                    found.location
                ));
            }
            PutMode::Create
        }
        Err(error) => return Err(io_error(error)),
    };
    let text = format!("{} {}\n", claim.relay, claim.start);
    match store.put_opts(&path, text.into(), PutOptions::from(mode)).await {
        Err(object_store::Error::AlreadyExists { .. }) => {
            refuse("another relay took it at this moment".to_owned())
        }
        other => other.map(drop).map_err(io_error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_bucket_and_a_folder() {
        for (text, shown) in [
            ("s3://potluck", "s3://potluck/"),
            ("s3://potluck/", "s3://potluck/"),
            ("s3://a.b-c/one/two_3/", "s3://a.b-c/one/two_3"),
        ] {
            assert_eq!(text.parse::<BlobsUrl>().unwrap().to_string(), shown);
        }
        for text in ["", "s3://", "s3:///x", "http://potluck/x", "s3://pot luck/x", "s3://potluck/x?y"] {
            assert_eq!(text.parse::<BlobsUrl>(), Err(BlobsUrlError), "{text}");
        }
    }

    #[test]
    fn a_place_is_one_relays_and_older_copies_of_its_data_do_not_begin_there() {
        let claim = |start, moving| Claim { relay: "ab".to_owned(), start, moving };
        assert_eq!(claim(3, false).refused("ab 2\n"), None);
        assert_eq!(claim(2, true).refused("ab 2\n"), None, "a second attempt to move there");
        assert_eq!(claim(1, false).refused("ab"), None, "written before starts were");
        for (claim, found) in [
            (claim(2, false), "ab 2\n"),
            (claim(1, true), "ab 2\n"),
            (claim(9, false), "cd 1\n"),
            (claim(9, false), "ab x"),
        ] {
            assert!(claim.refused(found).is_some(), "{claim:?} {found}");
        }
    }

    #[test]
    fn a_folder_and_its_settings_have_to_agree() {
        let folder = tempfile::tempdir().unwrap();
        let (data, url) = (folder.path(), "s3://potluck/x".parse::<BlobsUrl>().unwrap());
        std::fs::create_dir(data.join(FOLDER)).unwrap();
        assert_eq!(BlobPlace::of(data, Some(&url)), Ok(BlobPlace::Bucket(url.clone())));
        std::fs::write(data.join(FOLDER).join("one"), "").unwrap();
        assert_eq!(BlobPlace::of(data, None), Ok(BlobPlace::Folder(data.join(FOLDER))));
        assert!(matches!(BlobPlace::of(data, Some(&url)), Err(WhichStore::Here { what: "blobs", .. })));
        mark(data, &url).unwrap();
        put_aside(data).unwrap();
        assert_eq!(BlobPlace::of(data, Some(&url)), Ok(BlobPlace::Bucket(url)));
        assert!(matches!(BlobPlace::of(data, None), Err(WhichStore::Elsewhere { .. })));
        let other = "s3://potluck/y".parse().unwrap();
        assert!(matches!(BlobPlace::of(data, Some(&other)), Err(WhichStore::Other { .. })));
    }
}
