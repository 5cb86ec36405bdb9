//! Lines that fail: most of what is sent arrives late and some of it never, or nothing arrives any more and nobody is told.
//! Work goes on, each unit counts once, nobody is blamed, and the audit passes.

use super::mesh_netns::{Relay, lending, potluck, volunteer};
use potluck_tests::netns::{Host, Lab, Net};
use potluck_tests::npy::{self, LowRank, f32_file};
use potluck_tests::process::Process;
use potluck_tests::wait_until;
use potluck_types::MatmulShape;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Of packets that are lost, each way.
const LOST_PERCENT: u8 = 30;
/// How long whatever arrives was on its way, each way.
const DELAY: Duration = Duration::from_millis(500);
/// Chunks that are on their way at once, each way and connection.
const ON_THE_WAY: usize = 1024;
/// A lost packet is sent again after 200 ms and longer each time: some kilobytes a second.
const LIMIT: Duration = Duration::from_secs(480);
/// A session that says nothing is given up within this.
const SILENCE_LIMIT: Duration = Duration::from_secs(150);
/// Inputs and result of 16 kB each: what a bad line carries in half a minute.
const SMALL: MatmulShape = MatmulShape { m: 64, k: 64, n: 64 };
/// 64 units: two volunteers are under way for some seconds.
const LARGE: MatmulShape = MatmulShape { m: 2048, k: 1024, n: 2048 };

/// Passes on what arrives at an address of this host, each way later by [`DELAY`]. It ends with the test.
fn late_line(host: &Host, relay: SocketAddr) -> SocketAddr {
    host.within(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Threads stay on the host of the one that started them.
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let Ok(far) = TcpStream::connect(relay) else { return };
                    let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
                    std::thread::spawn(move || pass_on(back.0, back.1));
                    pass_on(near, far);
                });
            }
        });
        address
    })
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    let (sender, due) = sync_channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let writer = std::thread::spawn(move || {
        for (at, bytes) in due {
            // This is what is tried, not a wait for something.
            std::thread::sleep((at + DELAY).saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        drop(to.shutdown(Shutdown::Both));
    });
    let mut buffer = vec![0; 1 << 14];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if sender.send((Instant::now(), buffer[..count].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    drop(writer.join());
}

fn submitted(relay: &Relay, shape: MatmulShape, known: &LowRank) -> String {
    let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
    let files = [f32_file(&[m, k], &known.a), f32_file(&[k, n], &known.b)];
    relay.ask(|api| api.submit(&files[0], &files[1], &json!({ "name": "over a bad line" })))
}

/// The job ends, and all is as if nothing had happened.
fn ends_well(relay: &Relay, folder: &Path, id: &str, known: &LowRank, others: &[&Process]) {
    let done = || relay.ask(|api| api.job(id))["state"] == "done";
    let started = Instant::now();
    while !done() {
        let stories = || others.iter().map(|one| one.story()).collect::<Vec<_>>().join("\n");
        assert!(started.elapsed() < LIMIT, "{}\n{}", relay.ask(|api| api.job(id)), stories());
        std::thread::sleep(Duration::from_millis(250));
    }
    let result = relay.ask(|api| api.get(&format!("/api/v1/jobs/{id}/result")));
    assert!(npy::read(&result.body).1 == known.c, "the product is wrong");
    let job = relay.ask(|api| api.job(id));
    assert_eq!(job["rejections"], json!([]), "nobody is blamed");
    let elements =
        job["contributors"].as_array().unwrap().iter().map(|one| one["elements"].as_u64().unwrap());
    assert_eq!(elements.sum::<u64>(), known.c.len() as u64, "each unit counts once: {job}");
    let entries = 3 + job["shards"].as_u64().unwrap();
    wait_until("the log is published", LIMIT, || {
        relay.ask(|api| api.get("/api/v1/log").json()["entries"].as_u64().unwrap()) >= entries
    });
    let remember = folder.join("seen");
    let audit = ["audit", relay.url(), "--json", "--remember", remember.to_str().unwrap()];
    Process::start("the audit", &mut potluck(relay.host(), &audit)).succeeds(LIMIT);
}

#[test]
fn a_line_that_loses_a_third_and_is_half_a_second_long_carries_a_job() {
    let Some(mut lab) = Lab::new() else { return };
    let keys = tempfile::tempdir().unwrap();
    let relay = Relay::start(lab.host("relay", Net::Public), false);
    let far = lab.host("far", Net::Nat);
    let late = late_line(&far, relay.url().trim_start_matches("http://").parse().unwrap());
    far.loses(LOST_PERCENT);
    let known = LowRank::new(SMALL, 3);
    let started = Instant::now();
    let id = submitted(&relay, SMALL, &known);
    let one = lending(&far, &format!("http://{late}"), keys.path(), "far", false);
    ends_well(&relay, keys.path(), &id, &known, &[&one]);
    println!("done within {:.1} s", started.elapsed().as_secs_f64());
}

#[test]
fn a_volunteer_that_vanishes_without_a_word_holds_nothing_up() {
    let Some(mut lab) = Lab::new() else { return };
    let keys = tempfile::tempdir().unwrap();
    let relay = Relay::start(lab.host("relay", Net::Public), false);
    let hosts = ["first", "second"].map(|name| lab.host(name, Net::Public));
    let url = relay.url().to_owned();
    let volunteers =
        [0, 1].map(|one| volunteer(&hosts[one], &url, keys.path(), ["first", "second"][one], false));
    let known = LowRank::new(LARGE, 4);
    let id = submitted(&relay, LARGE, &known);
    let shards = || relay.ask(|api| api.job(&id))["shards"].as_u64().unwrap();
    wait_until("a part is accepted", LIMIT, || shards() > 0);
    // Its connection stays open at the relay: there is nobody who could close it.
    hosts[0].cut();
    ends_well(&relay, keys.path(), &id, &known, &[&volunteers[1]]);
    wait_until("its session is given up", SILENCE_LIMIT, || relay.ask(|api| api.metric("sessions")) == 1);
    hosts[0].join();
    wait_until("it comes back", SILENCE_LIMIT, || relay.ask(|api| api.metric("sessions")) == 2);
}
