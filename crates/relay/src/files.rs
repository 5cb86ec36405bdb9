//! How many files the system lets the relay hold open: each session is one.

/// Open files beside sessions: the database, blobs, the log, downloads and other requests over HTTP.
const OTHER_FILES: u64 = 512;
/// Of few files, this part is for sessions.
const SESSIONS_OF_FEW: [u64; 2] = [3, 4];

/// Raises this process's limit on open files as far as the system allows, and says how many sessions fit below it.
pub(crate) fn room_for_sessions(wanted: usize) -> usize {
    raise();
    let Some(room) = limits().map(|[now, _]| sessions_within(now)) else { return wanted };
    if room < wanted as u64 {
        tracing::warn!(
            sessions = room,
            wanted,
            "the system allows fewer open files than sessions are to be served: raise LimitNOFILE or `ulimit -n`"
        );
    }
    wanted.min(room as usize)
}

/// Sessions for which the system would let a relay open files; `None` if it sets no limit.
pub(crate) fn most_sessions() -> Option<u64> {
    limits().map(|[_, most]| sessions_within(most))
}

/// Open files that so many sessions need.
pub(crate) const fn files_for(sessions: usize) -> u64 {
    sessions as u64 + OTHER_FILES
}

/// Sessions that so many open files leave room for.
fn sessions_within(files: u64) -> u64 {
    let [part, whole] = SESSIONS_OF_FEW;
    files.saturating_sub(OTHER_FILES).max(files / whole * part)
}

/// How many files this process may have open, and how many it may allow itself.
#[cfg(unix)]
fn limits() -> Option<[u64; 2]> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Some([limit.current?, limit.maximum.unwrap_or(u64::MAX)])
}

#[cfg(unix)]
fn raise() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where that is not allowed, what there is has to do.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[cfg(not(unix))]
fn limits() -> Option<[u64; 2]> {
    None
}

#[cfg(not(unix))]
fn raise() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_leave_room_for_sessions_and_for_others() {
        assert_eq!(sessions_within(20_000), 19_488);
        assert_eq!(sessions_within(1024), 768);
        assert!(room_for_sessions(10) <= 10);
        assert_eq!(sessions_within(files_for(30_000)), 30_000);
    }
}
