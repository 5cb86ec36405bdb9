//! A relay whose machine fails it: the disk is full, nothing can be synchronized, it stands still, readers never read, it is
//! told to end. After each, nothing that was accepted is lost, nothing counts twice, and the audit passes. What `kill -9` does
//! is a suite of the command's own; silent and hostile clients are in `hostile.rs`.

use super::operator::{LIMIT, Relay, potluck, published};
use potluck_proto::Preset;
use potluck_tests::npy::{LowRank, f32_file};
use potluck_tests::{Api, Volunteer, wait_until};
use potluck_types::MatmulShape;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// 144 units: it is under way for some seconds.
const SHAPE: MatmulShape = MatmulShape { m: 3072, k: 256, n: 3072 };
/// How long the relay stands still.
const STILL: Duration = Duration::from_secs(30);
/// The relay gives open requests 5 seconds to end.
const END_LIMIT: Duration = Duration::from_secs(20);

pub(super) struct Work {
    known: LowRank,
    id: String,
    volunteer: Volunteer,
}

impl Work {
    /// A job of which a part is accepted.
    pub(super) fn begin(api: &Api, seed: u64) -> Self {
        let known = LowRank::new(SHAPE, seed);
        let (m, k, n) = (SHAPE.m as usize, SHAPE.k as usize, SHAPE.n as usize);
        let id = api.submit(&f32_file(&[m, k], &known.a), &f32_file(&[k, n], &known.b), &json!({}));
        let volunteer = Volunteer::start(&api.url, 1, Preset::Quiet);
        let work = Self { known, id, volunteer };
        wait_until("a part is accepted", LIMIT, || work.accepted(api) > 0);
        work
    }

    pub(super) fn accepted(&self, api: &Api) -> u64 {
        api.job(&self.id)["shards"].as_u64().unwrap()
    }

    /// The job ends, the product is right, each unit counts once, and the audit passes.
    pub(super) fn end(self, api: &Api, least: u64) {
        assert!(self.accepted(api) >= least, "what was accepted is lost");
        let more = Volunteer::start(&api.url, 2, Preset::Full);
        assert!(api.result(&self.id, LIMIT).1 == self.known.c, "the product is wrong");
        drop(more);
        let job = api.job(&self.id);
        let counts =
            job["contributors"].as_array().unwrap().iter().map(|one| one["elements"].as_u64().unwrap());
        assert_eq!(counts.sum::<u64>(), u64::from(SHAPE.m) * u64::from(SHAPE.n), "{job}");
        assert_eq!(job["rejections"], json!([]), "nobody is blamed");
        drop(self.volunteer);
        // Genesis, epoch, job, and each shard.
        published(api, 3 + job["shards"].as_u64().unwrap());
        let remember = tempfile::tempdir().unwrap();
        let line = ["audit", &api.url, "--remember", remember.path().to_str().unwrap(), "--json"];
        let audit = potluck(&line);
        assert_eq!(audit.code, 0, "{audit:?}");
    }
}

/// Waits for an error in the relay's log, which is JSON.
fn said(relay: &Relay, text: &str) {
    let found = || {
        relay.process().logged(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["level"] == "ERROR" && line["message"].as_str()?.contains(text)).then_some(())
        })
    };
    wait_until(text, LIMIT, || found().is_some());
}

pub(super) fn signal(relay: &Relay, signal: Signal) {
    let pid = Pid::from_raw(relay.process().id().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// A library that lets nothing be synchronized while a file is there.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int fails(void) {
    const char *flag = getenv("POTLUCK_TEST_FLAG");
    if (!flag || access(flag, F_OK) != 0) return 0;
    errno = EIO;
    return 1;
}
typedef int (*sync_t)(int);
int fsync(int fd) { return fails() ? -1 : ((sync_t)dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { return fails() ? -1 : ((sync_t)dlsym(RTLD_NEXT, "fdatasync"))(fd); }
"#;

/// Builds the library; none where there is no C compiler.
fn shim(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(&source, SHIM).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    match compiler.status() {
        Ok(status) => {
            assert!(status.success(), "cc fails: {status}");
            Some(library)
        }
        Err(error) => {
            eprintln!("skipped: a disk that fails to synchronize needs a C compiler: {error}");
            None
        }
    }
}

#[test]
fn nothing_counts_that_could_not_be_synchronized() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = shim(folder.path()) else { return };
    let flag = folder.path().join("fail");
    let environment = [("LD_PRELOAD", &*library), ("POTLUCK_TEST_FLAG", &*flag)];
    let relay = Relay::start_by(&folder.path().join("data"), &[], &environment);
    let work = Work::begin(&relay.api, 1);
    std::fs::write(&flag, "").unwrap();
    said(&relay, "could not be stored");
    let then = work.accepted(&relay.api);
    assert_eq!(relay.api.get("/healthz").status, 200, "it still answers");
    let upload = relay.api.upload(&f32_file(&[1, 1], &[1.0]));
    assert_eq!(upload.status, 500, "an upload that is not on disk is none");
    assert_eq!(work.accepted(&relay.api), then, "nothing is accepted meanwhile");
    std::fs::remove_file(&flag).unwrap();
    work.end(&relay.api, then);
}

#[test]
fn a_full_disk_loses_nothing_and_work_goes_on_when_there_is_room() {
    // A file system of its own, in a namespace of its own: no other process sees it, and it goes with the relay.
    if !Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: a full disk needs mount namespaces, which this user may not make");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let mount = format!("mount -t tmpfs -o size=128m none '{}' && exec \"$@\"", data.display());
    let relay = Relay::start_by(&data, &["unshare", "-rm", "sh", "-c", &mount, "sh"], &[]);
    let work = Work::begin(&relay.api, 2);
    let fill = relay.own_data().join("fill");
    let mut file = std::fs::File::create(&fill).unwrap();
    let full = loop {
        if let Err(error) = file.write_all(&vec![0; 1 << 16]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    said(&relay, "could not be stored");
    let then = work.accepted(&relay.api);
    assert_eq!(relay.api.get("/healthz").status, 200, "it still answers");
    drop(file);
    std::fs::remove_file(&fill).unwrap();
    work.end(&relay.api, then);
}

#[test]
fn who_never_reads_and_a_relay_that_stands_still_or_ends_cost_nobody_anything() {
    let folder = tempfile::tempdir().unwrap();
    let mut relay = Relay::start(&folder.path().join("data"));
    let work = Work::begin(&relay.api, 3);
    let then = work.accepted(&relay.api);
    signal(&relay, Signal::STOP);
    // What is tested is time that passes, not a moment that comes.
    std::thread::sleep(STILL);
    signal(&relay, Signal::CONT);
    assert!(work.accepted(&relay.api) >= then);
    // Told to end in the middle of work, with results on their way.
    signal(&relay, Signal::TERM);
    relay.process().succeeds(END_LIMIT);
    relay.again();
    let again = work.accepted(&relay.api);
    assert!(again >= then);
    let path = format!("/api/v1/jobs/{}/result", work.id);
    work.end(&relay.api, again);

    // 36 MiB are asked for, and none of it is read.
    let host = relay.api.url.trim_start_matches("http://");
    let authorization = relay.api.authorization.clone().unwrap();
    let ask = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: {authorization}\r\n\r\n");
    let stuck: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut socket = TcpStream::connect(host).unwrap();
            socket.write_all(ask.as_bytes()).unwrap();
            socket
        })
        .collect();
    let whole = relay.api.get(&path);
    assert_eq!((whole.status, whole.body.len()), (200, 128 + (SHAPE.m * SHAPE.n * 4) as usize));
    // They do not keep it from ending either.
    let begun = Instant::now();
    signal(&relay, Signal::TERM);
    relay.process().succeeds(END_LIMIT);
    assert!(begun.elapsed() < END_LIMIT);
    drop(stuck);
}
