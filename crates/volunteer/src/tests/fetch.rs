//! A blob instead of work.

use super::*;

const BYTES: usize = 40_000;

fn blob() -> (BlobRef, Vec<u8>) {
    let bytes: Vec<u8> = (0..BYTES).map(|i| (i * i) as u8).collect();
    (BlobRef { hash: BlobHash::of(&bytes), bytes: BYTES as u64 }, bytes)
}

fn started() -> (World, BlobRef, Vec<u8>) {
    let (blob, bytes) = blob();
    let mut world = World::new();
    world.event(Event::Peers(true));
    world.event(Event::Fetch { blob, valid_for: Duration(3_600_000) });
    assert_eq!(world.others, ["connect"], "the device is not measured");
    world.connected();
    (world, blob, bytes)
}

fn asked(world: &mut World) -> Option<Fetch> {
    world.said(|message| if let Message::Fetch(fetch) = message { Some(*fetch) } else { None })
}

fn requested(world: &mut World) -> Vec<BlobRequest> {
    let fits = |message: &Message| {
        if let Message::BlobRequest(request) = message { Some(request.clone()) } else { None }
    };
    std::iter::from_fn(|| world.said(fits)).collect()
}

fn granted(world: &mut World) {
    world.hear(ConsentGranted { token: TOKEN, valid_for: Duration(3_600_000) });
}

#[test]
fn a_blob_is_fetched_after_the_relay_allows_it_and_then_passed_on() {
    let (mut world, blob, bytes) = started();
    assert!(asked(&mut world).is_none(), "not before consent");
    granted(&mut world);
    let said: Vec<&str> = world.sent.iter().map(Message::name).collect();
    assert_eq!(
        said,
        ["Hello", "Consent", "Fetch", "JoinMesh"],
        "the relay knows it when it chooses neighbors"
    );
    assert_eq!(asked(&mut world), Some(Fetch { consent: TOKEN, blob }));
    world.wait(5_000);
    assert!(requested(&mut world).is_empty(), "not before the relay allows it");
    assert_eq!(world.engine.state(), State::Waiting(WaitReason::FetchingInputs));
    world.hear(BlobTree { hash: blob.hash, groups: potluck_mesh::tree::tree_of(&bytes) });
    world.wait(5_000);
    let mut requests = requested(&mut world);
    assert!(!requests.is_empty());
    while let Some(BlobRequest { hash, offset, bytes: length }) = requests.pop() {
        let (from, to) = (offset as usize, offset as usize + length as usize);
        world.hear(BlobChunk { hash, offset, data: bytes[from..to].to_vec() });
        requests.extend(requested(&mut world));
    }
    let (hash, came) = world.fetched.pop().unwrap();
    assert_eq!((hash, came.as_deref()), (blob.hash, Some(&bytes)));
    assert_eq!(world.engine.state(), State::Waiting(WaitReason::PassingOn));
    world.wait(60_000);
    assert!(world.runs.is_empty() && world.fetched.is_empty());
    assert!(world.said(|message| matches!(message, Message::LeaseRequest(_)).then_some(())).is_none());

    // Another session: the relay is told what is here, and nothing comes a second time.
    world.event(Event::Disconnected);
    world.wait(60_000);
    world.connected();
    granted(&mut world);
    assert!(asked(&mut world).is_some());
    world.hear(BlobTree { hash: blob.hash, groups: potluck_mesh::tree::tree_of(&bytes) });
    world.wait(5_000);
    assert!(requested(&mut world).is_empty() && world.fetched.is_empty());
    world.event(Event::Stop);
    assert_eq!(world.engine.state(), State::Stopped);
}

#[test]
fn a_blob_that_the_relay_does_not_give_is_said_to_be_missing_and_nothing_follows() {
    let (mut world, blob, _) = started();
    granted(&mut world);
    world.hear(BlobMissing { hash: blob.hash });
    assert_eq!(world.fetched, [(blob.hash, None)]);
    assert_eq!(world.engine.state(), State::Stopped);
    assert_eq!(world.others.last(), Some(&"disconnect"));
    world.sent.clear();
    world.wait(60_000);
    assert!(world.sent.is_empty() && world.fetched.len() == 1);
    // Another try is one.
    world.event(Event::Fetch { blob, valid_for: Duration(3_600_000) });
    assert_eq!(world.others.last(), Some(&"connect"));
}

#[test]
fn a_fetch_outlives_sessions_and_pauses() {
    let (mut world, blob, bytes) = started();
    let tree = BlobTree { hash: blob.hash, groups: potluck_mesh::tree::tree_of(&bytes) };
    granted(&mut world);
    world.hear(tree.clone());
    assert!(!requested(&mut world).is_empty());

    // In the middle of it the relay goes, and comes back.
    world.event(Event::Disconnected);
    world.wait(60_000);
    world.connected();
    world.wait(5_000);
    assert!(requested(&mut world).is_empty(), "the relay does not know what is fetched");
    granted(&mut world);
    assert!(asked(&mut world).is_some());
    world.wait(5_000);
    assert!(requested(&mut world).is_empty());
    world.hear(tree.clone());
    world.wait(5_000);
    assert!(!requested(&mut world).is_empty());

    // Then it is paused for a while.
    world.event(Event::Pause);
    world.wait(5_000);
    assert!(requested(&mut world).is_empty(), "consent is withdrawn");
    world.event(Event::Resume);
    granted(&mut world);
    assert!(asked(&mut world).is_some());
    world.hear(tree);
    world.wait(5_000);
    assert!(!requested(&mut world).is_empty() && world.fetched.is_empty());
}

#[test]
fn who_starts_to_lend_fetches_no_more() {
    let (mut world, blob, bytes) = started();
    granted(&mut world);
    world.hear(BlobTree { hash: blob.hash, groups: potluck_mesh::tree::tree_of(&bytes) });
    assert!(!requested(&mut world).is_empty());
    world.sent.clear();
    world.start(Preset::Full);
    assert_eq!(world.others.last(), Some(&"calibrate"));
    let said: Vec<&str> = world.sent.iter().map(Message::name).collect();
    assert_eq!(said, ["Withdraw", "Consent"], "lending is agreed to by itself");
    world.wait(5_000);
    assert!(requested(&mut world).is_empty() && world.fetched.is_empty());
}

#[test]
fn who_lends_and_then_fetches_gives_the_work_back_and_agrees_anew() {
    let (blob, _) = blob();
    let mut world = World::lending();
    world.sent.clear();
    world.event(Event::Fetch { blob, valid_for: Duration(3_600_000) });
    let said: Vec<&str> = world.sent.iter().map(Message::name).collect();
    assert_eq!(said, ["Withdraw", "Consent"]);
    granted(&mut world);
    assert_eq!(asked(&mut world), Some(Fetch { consent: TOKEN, blob }));
    world.wait(5_000);
    assert!(world.said(|message| matches!(message, Message::LeaseRequest(_)).then_some(())).is_none());
}
