//! How many files the system lets the relay hold open: each session is one.

/// Open files beside sessions: the database, blobs, the log, downloads and other requests over HTTP.
const OTHER_FILES: u64 = 512;
/// Of few files, this part is for sessions.
const SESSIONS_OF_FEW: [u64; 2] = [3, 4];

/// Raises this process's limit on open files as far as the system allows, and says how many sessions fit below it.
pub(crate) fn room_for_sessions(wanted: usize) -> usize {
    let Some(files) = raise() else { return wanted };
    let room = sessions_within(files);
    if room < wanted as u64 {
        tracing::warn!(
            open_files = files,
            sessions = room,
            wanted,
            "the system allows fewer open files than sessions are to be served: raise LimitNOFILE or `ulimit -n`"
        );
    }
    wanted.min(room as usize)
}

/// Sessions that so many open files leave room for.
fn sessions_within(files: u64) -> u64 {
    let [part, whole] = SESSIONS_OF_FEW;
    files.saturating_sub(OTHER_FILES).max(files / whole * part)
}

#[cfg(unix)]
fn raise() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where that is not allowed, what there is has to do.
    if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current }
}

#[cfg(not(unix))]
fn raise() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_leave_room_for_sessions_and_for_others() {
        assert_eq!(sessions_within(20_000), 19_488);
        assert_eq!(sessions_within(1024), 768);
        assert!(room_for_sessions(10) <= 10);
    }
}
