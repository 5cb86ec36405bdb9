//! A model that is written with burn, in real tabs: two on WebGPU and a native volunteer train the classifier of digits,
//! the relay and `potluck replay` repeat every update on the CPU, and the classifier is right about images that nobody
//! trained on.

use potluck_burn::{Backend, BurnEngine, Digits};
use potluck_cli::args::{PresetArg, RelayAddress, ReplayArgs, TabBackend, TokenArgs, TrainArgs};
use potluck_cli::cdp::{Browser, Gpu, LaunchOptions, find_chromium};
use potluck_cli::client::Client;
use potluck_cli::runs::digits;
use potluck_cli::runs::{replay, submit};
use potluck_cli::stop::Stop;
use potluck_cli::tabs::{Lending, lend};
use potluck_proto::Preset;
use potluck_tests::runs::{done, record, updates};
use potluck_tests::{TestRelay, Volunteer, alone, has_page};
use potluck_train::Engine as _;
use potluck_train::digits::{CLASSES, PIXELS, RECORD};
use potluck_volunteer::Choice;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROUNDS: u64 = 4;
/// Time for rounds of tabs whose WebGPU is software, on two cores; each compiles burn's kernels first.
const LIMIT: Duration = Duration::from_secs(300);
/// Images that are held out: the last tenth.
const HELD_OUT: usize = 180;
/// Share of these that the classifier must be right about after so few rounds. Guessing has 0.1.
const RIGHT: f64 = 0.75;

fn samples() -> [PathBuf; 2] {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data");
    ["digits.npy", "digits-labels.npy"].map(|name| data.join(name).canonicalize().unwrap())
}

/// The run as somebody would write it down.
fn run_file(folder: &Path) -> PathBuf {
    let [images, labels] = samples();
    let text = format!(
        "model = \"digits\"\ncorpus = ['{}', '{}']\nrounds = {ROUNDS}\nsteps = 10\nvolunteers = 3\nbatch = 32\n\
         learning-rate.peak = 0.004\nlearning-rate.warmup = 5\naudit.start = 1.0\naudit.least = 1.0\n",
        images.display(),
        labels.display(),
    );
    let path = folder.join("run.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Share of the held-out images that parameters are right about.
async fn accuracy(parameters: &[f32]) -> f64 {
    let mut engine = BurnEngine::<Digits>::new(Backend::cpu()).unwrap();
    engine.load(parameters).await.unwrap();
    let records = digits::read(&samples()).unwrap();
    let held_out: Vec<&[u32]> = records.chunks(RECORD).rev().take(HELD_OUT).collect();
    let images: Vec<u32> = held_out.iter().flat_map(|record| record[..PIXELS].to_vec()).collect();
    let logits = engine.logits(&images).await.unwrap();
    let right = logits.chunks(CLASSES).zip(&held_out).filter(|(row, record)| {
        let best = (0..CLASSES).max_by(|a, b| row[*a].total_cmp(&row[*b]));
        best == Some(record[PIXELS] as usize)
    });
    right.count() as f64 / HELD_OUT as f64
}

#[test]
fn tabs_train_a_burn_model_and_every_update_is_replayed() {
    let _alone = alone();
    let relay = TestRelay::start();
    let api = relay.api.clone();
    if !has_page(&api) {
        return;
    }
    assert!(
        find_chromium().is_some(),
        "no Chromium: install it, set CHROME, or let `cargo xtask test` do it"
    );
    let folder = tempfile::tempdir().unwrap();
    let address = || RelayAddress { relay: api.url.clone() };
    let token = std::fs::read_to_string(relay.data.path().join("token")).unwrap();
    let client = Client::new(&api.url, Some(token.trim().to_owned()), Stop::default()).unwrap();
    let args = TrainArgs {
        proposal: None,
        run: run_file(folder.path()),
        name: None,
        watch: false,
        json: false,
        relay: address(),
        token: TokenArgs { token: None, token_file: None },
    };
    submit::train(&args, None, &client).unwrap();
    let id = api.get("/api/v1/runs").json()[0]["id"].as_str().unwrap().to_owned();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (browser, tabs) = runtime.block_on(async {
        let options = LaunchOptions { gpu: Gpu::Software, ..LaunchOptions::default() };
        let browser = Browser::launch(&options).await.unwrap();
        let mut tabs = Vec::new();
        for _ in 0..2 {
            let tab = browser.new_tab().await.unwrap();
            let lending =
                Lending { relay: api.url.clone(), backend: TabBackend::Webgpu, preset: PresetArg::Full };
            lend(&tab, &lending).await.unwrap();
            tabs.push(tab);
        }
        (browser, tabs)
    });
    let native = Volunteer::choosing(&api.url, 1, Preset::Full, Choice::Gpu);
    let info = done(&api, &id, LIMIT);
    drop(native);

    for round in 0..ROUNDS {
        let record = record(&api, &id, round);
        let mut backends: BTreeMap<String, usize> = BTreeMap::new();
        updates(&record, true)
            .into_iter()
            .for_each(|(_, backend, _)| *backends.entry(backend).or_default() += 1);
        assert_eq!(backends.remove("webgpu"), Some(2), "{record}");
        assert_eq!(backends.values().sum::<usize>(), 1, "{record}");
        assert!(
            record["updates"].as_array().unwrap().iter().all(|update| update["audited"] == true),
            "{record}"
        );
        assert!(updates(&record, false).is_empty(), "nobody is refused: {record}");
        println!(
            "round {round}: validation loss {}, {backends:?}",
            info["history"][round as usize]["validation_loss"]
        );
    }
    let anybody = Client::new(&api.url, None, Stop::default()).unwrap();
    let args =
        ReplayArgs { run: id.clone(), round: ROUNDS - 1, volunteer: None, json: true, relay: address() };
    replay::command(&args, &anybody).unwrap();

    let bytes = api.get(&format!("/api/v1/runs/{id}/rounds/{ROUNDS}/parameters")).body;
    let parameters: Vec<f32> = bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    let right = runtime.block_on(accuracy(&parameters));
    println!("right about {:.1} % of the images that were held out", 100.0 * right);
    assert!(right >= RIGHT, "{right}");
    runtime.block_on(async {
        for tab in tabs {
            tab.close().await.unwrap();
        }
        browser.close().await;
    });
}
