//! A real relay in this process, a native volunteer, and the submitter's client: the product is right, also when the
//! relay restarts in the middle.

use potluck_cli::args::{Cli, Command, MatmulArgs, SubmitJob};
use potluck_cli::client::Client;
use potluck_cli::error::Exit;
use potluck_cli::ledger::prove::Witnesses;
use potluck_cli::stop::Stop;
use potluck_cli::volunteer::{Exchange, Lending, lend};
use potluck_cli::{jobs, submit};
use potluck_relay::{Config, Running};
use potluck_types::VolunteerKey;
use potluck_volunteer::{Choice, State};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn write_npy(path: &Path, rows: usize, cols: usize, element: impl Fn(usize, usize) -> f32) {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    for row in 0..rows {
        bytes.extend((0..cols).flat_map(|col| element(row, col).to_le_bytes()));
    }
    std::fs::write(path, bytes).unwrap();
}

fn read_f32(path: &Path) -> (Vec<u64>, Vec<f32>) {
    let file = npyz::NpyFile::new(std::io::BufReader::new(std::fs::File::open(path).unwrap())).unwrap();
    (file.shape().to_vec(), file.into_vec().unwrap())
}

async fn start_relay(data: &Path, listen: SocketAddr) -> Running {
    potluck_relay::start(Config { listen, data: data.to_owned(), ..Config::default() }).await.unwrap()
}

fn matmul_args(line: &[&str]) -> MatmulArgs {
    let cli =
        <Cli as clap::Parser>::try_parse_from([&["potluck", "submit", "matmul"], line].concat()).unwrap();
    match cli.command {
        Command::Submit(submit) => match submit.job {
            SubmitJob::Matmul(args) => args,
            SubmitJob::Train(_) => panic!("another job"),
        },
        _ => panic!("another command"),
    }
}

fn client(running: &Running) -> Client {
    let token = std::fs::read_to_string(&running.token_path).unwrap().trim().to_owned();
    Client::new(&running.url(), Some(token), Stop::default()).unwrap()
}

fn lending(relay: String) -> Lending {
    Lending {
        relay,
        choice: Choice::Cpu,
        preset: potluck_proto::Preset::Full,
        key: VolunteerKey([9; 32]),
        count: None,
        exchange: Exchange::default(),
        witnesses: Witnesses::default(),
        remember: None,
        membership: None,
    }
}

/// Values with a pattern that no transposition or shift keeps.
fn a_element(row: usize, col: usize) -> f32 {
    ((row * 31 + col * 17 + row * col) % 257) as f32 / 64.0 - 2.0
}

fn b_element(row: usize, col: usize) -> f32 {
    ((row * 13 + col * 7 + row * col * 3) % 251) as f32 / 64.0 - 2.0
}

fn assert_product(path: &Path, m: usize, k: usize, n: usize) {
    let (shape, values) = read_f32(path);
    assert_eq!(shape, [m as u64, n as u64]);
    for row in 0..m {
        for col in 0..n {
            let exact: f64 =
                (0..k).map(|inner| f64::from(a_element(row, inner)) * f64::from(b_element(inner, col))).sum();
            let found = f64::from(values[row * n + col]);
            assert!((found - exact).abs() < 1e-2, "C[{row}, {col}] is {found}, not {exact}");
        }
    }
}

struct Files {
    folder: tempfile::TempDir,
    a: PathBuf,
    b: PathBuf,
    c: PathBuf,
}

fn files(m: usize, k: usize, n: usize) -> Files {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (a, b, c) = (path("a.npy"), path("b.npy"), path("c.npy"));
    write_npy(&a, m, k, a_element);
    write_npy(&b, k, n, b_element);
    Files { folder, a, b, c }
}

#[test]
fn a_native_volunteer_computes_a_product() {
    let (m, k, n) = (211, 97, 83);
    let files = files(m, k, n);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let running =
        runtime.block_on(start_relay(&files.folder.path().join("data"), "127.0.0.1:0".parse().unwrap()));
    let stop = Stop::default();
    let volunteer = {
        let (lending, stop) = (lending(running.url()), stop.clone());
        runtime.spawn(async move { lend(&lending, &stop, |_| {}).await })
    };
    let client = client(&running);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let args = matmul_args(&[&text(&files.a), &text(&files.b), "--out", &text(&files.c)]);
    submit::matmul(&args, &client).unwrap();
    assert_product(&files.c, m, k, n);
    let leftovers = std::fs::read_dir(files.folder.path()).unwrap().flatten();
    assert!(leftovers.into_iter().all(|entry| !entry.file_name().to_string_lossy().contains(".part")));

    // The first request finishes the shard at hand, and the volunteer knows what it did.
    stop.request();
    let status = runtime.block_on(volunteer).unwrap().unwrap();
    assert_eq!(status.state, State::Stopped);
    assert!(status.accepted > 0 && status.rejected == 0, "{status:?}");

    // A job that is done cannot be canceled; one that nobody knows is not found.
    let list: Vec<potluck_cli::client::JobInfo> = client.get("/api/v1/jobs", |_| {}).unwrap();
    assert_eq!(list.len(), 1);
    let status_args = |job: &str| potluck_cli::args::StatusArgs {
        job: job.to_owned(),
        json: true,
        relay: potluck_cli::args::RelayAddress { relay: running.url() },
        token: potluck_cli::args::TokenArgs::default(),
    };
    jobs::status(&status_args(&list[0].id[..5]), &client).unwrap();
    assert_eq!(jobs::cancel(&status_args(&list[0].id), &client).unwrap_err().exit(), Exit::Failed);
    let unknown = if list[0].id.starts_with('0') { "1" } else { "0" };
    assert_eq!(jobs::status(&status_args(unknown), &client).unwrap_err().exit(), Exit::NotFound);
    let stranger = Client::new(&running.url(), None, Stop::default()).unwrap();
    assert_eq!(jobs::status(&status_args("0"), &stranger).unwrap_err().exit(), Exit::NotAllowed);
    runtime.block_on(running.shut_down());
}

#[test]
fn a_wait_survives_a_restart_of_the_relay() {
    let (m, k, n) = (640, 256, 512);
    let files = files(m, k, n);
    let data = files.folder.path().join("data");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let running = runtime.block_on(start_relay(&data, "127.0.0.1:0".parse().unwrap()));
    let (address, url) = (running.address, running.url());
    let client = client(&running);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let args = matmul_args(&[&text(&files.a), &text(&files.b), "--out", &text(&files.c)]);
    std::thread::scope(|scope| {
        // Nobody computes yet, so the job cannot be done before the relay goes.
        let waiting = scope.spawn(move || submit::matmul(&args, &client));
        let watcher = self::client(&running);
        loop {
            let list: Vec<potluck_cli::client::JobInfo> = watcher.get("/api/v1/jobs", |_| {}).unwrap();
            if !list.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        runtime.block_on(running.shut_down());
        let again = runtime.block_on(start_relay(&data, address));
        let stop = Stop::default();
        let volunteer = {
            let (lending, stop) = (lending(url), stop.clone());
            runtime.spawn(async move { lend(&lending, &stop, |_| {}).await })
        };
        waiting.join().unwrap().unwrap();
        stop.request();
        stop.request();
        assert_eq!(runtime.block_on(volunteer).unwrap().unwrap().state, State::Stopped);
        runtime.block_on(again.shut_down());
    });
    assert_product(&files.c, m, k, n);
}

#[test]
fn a_volunteer_stops_at_once_even_where_no_relay_is() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (lending, stop) = (lending(format!("http://{unused}")), Stop::default());
        let asked = stop.clone();
        let mut seen = 0;
        let outcome = lend(&lending, &stop, |_| {
            seen += 1;
            if seen == 3 {
                asked.request();
                asked.request();
            }
        });
        let status = tokio::time::timeout(Duration::from_secs(20), outcome).await.unwrap().unwrap();
        assert_eq!((status.state, status.accepted), (State::Stopped, 0));
    });
}
