//! What the system gives a relay: disk, open files, port.

use super::Finding;
use crate::config::Config;
use crate::files;
use potluck_types::limits::MAX_SESSIONS;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// With less free space a day's work may fill the disk.
const LEAST_FREE_BYTES: u64 = 1 << 30;
/// With less of the disk free, one should look for more.
const LOW_FREE_SHARE: f64 = 0.1;
/// Each result waits for about two of these: a disk that takes longer makes everybody wait.
const SLOW_SYNC: Duration = Duration::from_millis(100);
/// Writes that are timed; the middle one counts.
const SYNCS: usize = 5;
/// Bytes of each: a page of the database.
const SYNC_BYTES: usize = 4096;

/// Whether enough files can be open for as many sessions as there may be. The relay raises its own limit as far as it may.
pub(super) fn limits(config: &Config, found: &mut Vec<Finding>) {
    let (wanted, room) = (config.max_sessions.min(MAX_SESSIONS), files::most_sessions());
    found.push(match room {
        Some(room) if room < wanted as u64 => Finding::warning(
            "open files",
            format!(
                "so few may be open at once that {room} sessions find room, and {wanted} are to be served"
            ),
            format!(
                "`LimitNOFILE={}` in the systemd unit, or `ulimit -n`; this is the limit of this shell",
                files::files_for(wanted)
            ),
        ),
        _ => Finding::good("open files", format!("{wanted} sessions may be open at once")),
    });
}

/// File system, space, and whether what is synchronized is so, and how fast.
pub(super) fn disk(data: &Path, found: &mut Vec<Finding>) {
    #[cfg(target_os = "linux")]
    kind(data, found);
    #[cfg(unix)]
    space(data, found);
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        match timed_sync(data) {
            Ok(took) => times.push(took),
            Err(error) => {
                found.push(Finding::wrong(
                    "disk",
                    format!("the data folder cannot be written and synchronized: {error}"),
                    "check space, permissions (who runs the relay owns the folder) and the disk",
                ));
                return;
            }
        }
    }
    times.sort_unstable();
    let middle = times[SYNCS / 2];
    let text = format!("a write is on disk after {:.1} ms", middle.as_secs_f64() * 1e3);
    if middle > SLOW_SYNC {
        let hint = "each accepted result waits for it: use an SSD, or a disk with less other work";
        found.push(Finding::warning("disk", text, hint));
    } else {
        found.push(Finding::good("disk", text));
    }
}

fn timed_sync(data: &Path) -> std::io::Result<Duration> {
    let mut file = tempfile::NamedTempFile::new_in(data)?;
    let begun = Instant::now();
    file.write_all(&[1; SYNC_BYTES])?;
    file.as_file().sync_all()?;
    Ok(begun.elapsed())
}

#[cfg(target_os = "linux")]
fn kind(data: &Path, found: &mut Vec<Finding>) {
    // Names of linux/magic.h and of the file systems themselves.
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    const NFS: i64 = 0x6969;
    const SMB: i64 = 0x517b;
    const SMB2: i64 = 0xfe53_4d42;
    const CIFS: i64 = 0xff53_4d42;
    const CEPH: i64 = 0x00c3_6400;
    const OVERLAY: i64 = 0x794c_7630;
    let Ok(stat) = rustix::fs::statfs(data) else { return };
    #[allow(
        clippy::cast_lossless,
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        reason = "its width depends on the machine"
    )]
    let kind = (stat.f_type as i64) & 0xffff_ffff;
    match kind {
        TMPFS | RAMFS => found.push(Finding::wrong(
            "file system",
            "the data lies in memory, and is gone when the machine restarts",
            "move it to a disk",
        )),
        NFS | SMB | SMB2 | CIFS | CEPH => found.push(Finding::wrong(
            "file system",
            "the data lies on a network file system, whose locks SQLite cannot rely on",
            "move it to a local disk, and write backups to the network",
        )),
        OVERLAY => found.push(Finding::warning(
            "file system",
            "the data lies in a container's own layer, and goes with it",
            "mount a volume for it",
        )),
        _ => found.push(Finding::good("file system", "it is a local one")),
    }
}

#[cfg(unix)]
fn space(data: &Path, found: &mut Vec<Finding>) {
    let Ok(stat) = rustix::fs::statvfs(data) else { return };
    let (free, all) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
    let share = free as f64 / all.max(1) as f64;
    let text = format!("{} MiB are free, {:.0} % of the disk", free >> 20, share * 100.0);
    let hint = "make room: nothing is lost when the disk is full, but nothing is accepted either";
    if free < LEAST_FREE_BYTES {
        found.push(Finding::wrong("space", text, hint));
    } else if share < LOW_FREE_SHARE {
        found.push(Finding::warning("space", text, hint));
    } else {
        found.push(Finding::good("space", text));
    }
    if stat.f_files > 0 && (stat.f_favail as f64) < LOW_FREE_SHARE * stat.f_files as f64 {
        let text = format!("{} more files can be made, of {}", stat.f_favail, stat.f_files);
        found.push(Finding::warning(
            "space",
            text,
            "each blob is a file: use a file system with more inodes",
        ));
    }
}

/// Free bytes and all bytes of the disk that a folder lies on, where the system tells.
#[cfg(unix)]
pub(crate) fn disk_bytes(folder: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
}

/// Free bytes and all bytes of the disk that a folder lies on, where the system tells.
#[cfg(not(unix))]
pub(crate) fn disk_bytes(_folder: &Path) -> Option<(u64, u64)> {
    None
}

/// Whether others can read what is the relay's alone.
pub(super) fn secrets(data: &Path, found: &mut Vec<Finding>) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mut open = Vec::new();
        for name in [crate::identity::FILE, "token", "admin-token"] {
            let mode = std::fs::metadata(data.join(name)).map(|meta| meta.permissions().mode());
            if mode.is_ok_and(|mode| mode & 0o077 != 0) {
                open.push(name);
            }
        }
        if !open.is_empty() {
            let text = format!("others on this machine may use {}", open.join(", "));
            found.push(Finding::wrong(
                "permissions",
                text,
                "chmod 600 them; if anybody may have read them, make new ones",
            ));
        }
        if !data.join(crate::identity::FILE).is_file() {
            let text = "there is no relay.key, and without it the relay cannot go on with its log";
            found.push(Finding::wrong("permissions", text, "put its copy back"));
        }
    }
}

/// Whether a relay uses the data.
pub(super) fn is_locked(data: &Path) -> bool {
    let Ok(lock) = std::fs::File::open(data.join("lock")) else { return false };
    matches!(lock.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock))
}

/// Whether the port is free for a relay that does not run.
pub(super) fn port(config: &Config, found: &mut Vec<Finding>) {
    match TcpListener::bind(config.listen) {
        Ok(_) => found.push(Finding::warning(
            "relay",
            "no relay uses this data now",
            "start it; `systemctl status potluck` or its log says why it ended",
        )),
        Err(error) => found.push(Finding::wrong(
            "relay",
            format!("no relay uses this data, and {} cannot be listened on: {error}", config.listen),
            "end what uses the port, choose another `listen`, or let the unit use ports below 1024",
        )),
    }
}

/// Whether two folders lie on one disk.
pub(super) fn same_device(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
        device(one).is_some() && device(one) == device(other)
    }
    #[cfg(not(unix))]
    {
        let _ = (one, other);
        false
    }
}
