//! The relay is killed in the middle of a job, ten times at random moments, and everybody goes on: no accepted
//! shard is lost, none counts twice, the submitter who waits gets the right product.
#![expect(clippy::float_cmp, reason = "small whole numbers are exact")]

use super::processes::{Guarded, POLL, Random, Relay, START_LIMIT};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the relay is killed.
const KILLS: usize = 10;
/// The product: two slices of K, 134 GFLOP.
const M: usize = 5120;
const K: usize = 2560;
const N: usize = 5120;
/// Slices of K that the relay cuts: 2,048 deep at most.
const SLICES: u64 = 2;
/// Time for the volunteer to come back and have a shard accepted.
const PROGRESS_LIMIT: Duration = Duration::from_secs(90);
/// Time for the whole job after the last kill.
const END_LIMIT: Duration = Duration::from_secs(300);

/// A = p·q and B = r·s of rank one, plus the identity's pattern on A: small whole numbers, exact in f32 in any
/// order, whose product needs no kernel: C = (q·r) p·s + (rows of B, where A has its ones).
struct Known {
    p: Vec<i64>,
    q: Vec<i64>,
    r: Vec<i64>,
    s: Vec<i64>,
}

impl Known {
    fn new(random: &mut Random) -> Self {
        let mut draw = |count: usize| (0..count).map(|_| (random.next() % 7).cast_signed() - 3).collect();
        Self { p: draw(M), q: draw(K), r: draw(K), s: draw(N) }
    }

    fn a(&self, i: usize, k: usize) -> i64 {
        self.p[i] * self.q[k] + i64::from(i % K == k)
    }

    fn b(&self, k: usize, j: usize) -> i64 {
        self.r[k] * self.s[j]
    }

    fn first_wrong(&self, c: &[f32]) -> Option<(usize, usize, f32, i64)> {
        let inner: i64 = self.q.iter().zip(&self.r).map(|(q, r)| q * r).sum();
        let expected = |i: usize, j: usize| inner * self.p[i] * self.s[j] + self.b(i % K, j);
        let places = (0..M).flat_map(|i| (0..N).map(move |j| (i, j)));
        places
            .zip(c)
            .map(|((i, j), &found)| (i, j, found, expected(i, j)))
            .find(|&(_, _, found, expected)| f64::from(found) != expected as f64)
    }
}

fn write(path: &Path, rows: usize, cols: usize, element: impl Fn(usize, usize) -> i64) {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let mut file = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    file.extend(text.as_bytes());
    file.resize(127, b' ');
    file.push(b'\n');
    for row in 0..rows {
        (0..cols).for_each(|col| file.extend((element(row, col) as f32).to_le_bytes()));
    }
    std::fs::write(path, file).unwrap();
}

fn read(path: &Path) -> Vec<f32> {
    npyz::NpyFile::new(&std::fs::read(path).unwrap()[..]).unwrap().into_vec().unwrap()
}

fn state_of(relay: &Relay, id: &str) -> Option<Value> {
    relay.get(&format!("/api/v1/jobs/{id}")).filter(|job| job["state"].is_string())
}

/// Units of the grid that are accepted, as the machine counts; the store's shards; elements over all contributors.
fn counts(job: &Value) -> [u64; 3] {
    let elements =
        job["contributors"].as_array().into_iter().flatten().map(|one| one["elements"].as_u64().unwrap());
    [job["progress"]["accepted"].as_u64().unwrap_or(0), job["shards"].as_u64().unwrap(), elements.sum()]
}

#[test]
fn ten_kills_lose_nothing_and_count_nothing_twice() {
    let mut random = Random::seeded();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let known = Known::new(&mut random);
    write(&path("a.npy"), M, K, |i, k| known.a(i, k));
    write(&path("b.npy"), K, N, |k, j| known.b(k, j));

    let mut relay = Relay::new(folder.path());
    relay.start();
    relay.wait("the relay answers", START_LIMIT, |relay| relay.get("/healthz"));

    let (url, key) = (relay.url(), path("volunteer.key"));
    // Half of the time, so that the job lasts longer than ten kills.
    let lend = [
        "volunteer",
        "--backend",
        "cpu",
        "--preset",
        "balanced",
        "--relay",
        &url,
        "--key",
        key.to_str().unwrap(),
    ];
    let mut volunteer = Guarded::start(&lend, &[], &path("volunteer.log"));
    let token = path("data/token");
    let [a, b, c] = ["a.npy", "b.npy", "c.npy"].map(path);
    let [a, b, c, token] = [&a, &b, &c, &token].map(|path| path.to_str().unwrap());
    let submit = ["submit", "matmul", a, b, "--out", c, "--relay", &url, "--token-file", token, "--json"];
    let mut submitter = Guarded::start(&submit, &[], &path("submit.log"));
    let id = relay.wait("the job is there", START_LIMIT, |relay| {
        Some(relay.get("/api/v1/jobs")?[0]["id"].as_str()?.to_owned())
    });

    let (mut before, mut units) = ([0_u64; 3], u64::MAX);
    for kill in 1..=KILLS {
        // Three in ten hit a relay that just starts; the others one that works. Where the job is ahead of the kills,
        // they come early as well, so that a fast machine does not finish it before the last one.
        let ahead = before[0].saturating_mul(KILLS as u64 + 2) > units.saturating_mul(kill as u64);
        let early = kill > 1 && (random.next() % 10 < 3 || ahead);
        if !early {
            let now = relay.wait("a shard is accepted", PROGRESS_LIMIT, |relay| {
                let now = counts(&state_of(relay, &id)?);
                (0..3).for_each(|i| assert!(i == 0 || now[i] >= before[i], "{now:?} after {before:?}"));
                (now[1] > before[1]).then_some(now)
            });
            before = now;
        }
        let pause = if early { random.millis(250) } else { random.millis(900) };
        std::thread::sleep(pause);
        if !early {
            // What is answered now was accepted before the kill.
            let job = state_of(&relay, &id).expect("the relay answers");
            assert_eq!(job["state"], "running", "the job ended before kill {kill}: it is too small");
            before = counts(&job);
            units = job["progress"]["units"].as_u64().unwrap();
        }
        relay.kill();
        println!(
            "kill {kill}: {} ms after {}, {before:?} units, shards, elements",
            pause.as_millis(),
            if early { "the start" } else { "progress" }
        );
        assert_eq!(submitter.ended(), None, "the submitter gave up");
        assert_eq!(volunteer.ended(), None, "the volunteer gave up");
        relay.start();
        if kill == KILLS {
            let job = relay.wait("the relay answers", START_LIMIT, |relay| state_of(relay, &id));
            let now = counts(&job);
            assert!((0..3).all(|i| now[i] >= before[i]), "{now:?} after {before:?}");
        }
    }

    let job = relay.wait("the job is done", END_LIMIT, |relay| {
        state_of(relay, &id).filter(|job| job["state"] == "done")
    });
    let [_, shards, elements] = counts(&job);
    assert!(shards >= before[1]);
    assert_eq!(elements, (M * N) as u64 * SLICES, "every unit counts once: {job}");
    assert_eq!(job["rejections"].as_array().map(Vec::len), Some(0), "{job}");
    let health = relay.get("/healthz").unwrap();
    assert_eq!(health["incarnation"].as_u64(), Some(KILLS as u64 + 1));

    let started = Instant::now();
    let status = loop {
        if let Some(status) = submitter.ended() {
            break status;
        }
        assert!(started.elapsed() < END_LIMIT, "the submitter does not end");
        std::thread::sleep(POLL);
    };
    let log = std::fs::read_to_string(path("submit.log")).unwrap();
    assert!(status.success(), "{status}: {log}");
    assert_eq!(known.first_wrong(&read(&path("c.npy"))), None, "row, column, found, expected");
}
