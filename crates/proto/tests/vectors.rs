//! Golden frames: one hex file a message. A change of the wire fails here first.
//!
//! After a deliberate change of the protocol, write the files anew with `POTLUCK_BLESS=1 cargo test -p
//! potluck-proto` and read the difference.

use potluck_proto::*;
use potluck_types::*;
use proptest::prelude::*;
use std::path::PathBuf;

const CHALLENGE: Challenge = Challenge { nonce: [0x88; 32], relay: [0x99; 32] };

fn examples() -> Vec<Message> {
    let hash = BlobHash(std::array::from_fn(|i| i as u8));
    let blob = BlobRef { hash, bytes: 65_536 };
    let (lease, fence, job) = (LeaseId(300), Fence(0x2_0000_012c), JobId([0xab; 16]));
    let link = LinkId([0x66; 16]);
    vec![
        Hello::answer(&CHALLENGE, &VolunteerKey([0x11; 32]), "potluck/0.1".into()).into(),
        Consent {
            text_version: 1,
            origin: "https://relay.example".into(),
            preset: Preset::Balanced,
            valid_for: Duration(3_600_000),
        }
        .into(),
        Withdraw {}.into(),
        LeaseRequest {
            consent: ConsentToken([0x22; 16]),
            backend: Backend::WasmSimd,
            mflops: 40_000,
            memory_bytes: 1 << 28,
            held: vec![hash],
            kept: vec![Kept { run: job, round: 40, worker: 1, counted: true }],
        }
        .into(),
        Commit { lease, fence, result: blob, compute_ms: 1500, backend: Backend::WebGpu }.into(),
        Release { lease, reason: ReleaseReason::DeviceFailed }.into(),
        Ping { nonce: 7 }.into(),
        Membership { team: "Café Zürich".into(), listed: true }.into(),
        Fetch { consent: ConsentToken([0x22; 16]), blob }.into(),
        Welcome {
            version: 1,
            session: SessionId(9),
            session_timeout: Duration(60_000),
            max_chunk_bytes: 262_144,
            max_chunks_in_flight: 8,
        }
        .into(),
        ConsentGranted { token: ConsentToken([0x22; 16]), valid_for: Duration(3_600_000) }.into(),
        Lease {
            lease,
            fence,
            job,
            shard: 5,
            deadline: Duration(10_000),
            task: Task::Matmul(MatmulTask {
                dtype: DType::Int8,
                rows: 128,
                cols: 64,
                depth: 512,
                a: vec![blob],
                bt: vec![blob, blob],
            }),
        }
        .into(),
        Lease {
            lease,
            fence,
            job,
            shard: 6,
            deadline: Duration(60_000),
            task: Task::Train(Box::new(train(blob))),
        }
        .into(),
        Lease {
            lease,
            fence,
            job,
            shard: 7,
            deadline: Duration(60_000),
            task: Task::Eval(EvalTask {
                model: train(blob).model,
                parameters: blob,
                items: blob,
                result_bytes: 96,
                memory_bytes: 5_000_000,
                flops: 1_000_000_000,
            }),
        }
        .into(),
        NoWork { reason: NoWorkReason::Idle, retry_after: Duration(2000) }.into(),
        Verdict { lease, outcome: Outcome::Rejected(RejectReason::WrongProduct) }.into(),
        Revoke { lease, reason: RevokeReason::Superseded }.into(),
        Picture {
            job,
            name: "digits".into(),
            columns: 2,
            cells: vec![cell::FREE, cell::LEASED, cell::ACCEPTED, cell::YOURS_ACCEPTED],
            accepted_permille: 500,
            volunteers: 2,
        }
        .into(),
        Refusal { code: RefusalCode::Limit, message: "slow down".into(), retry_after: Duration(30_000) }
            .into(),
        Pong { nonce: 7 }.into(),
        BlobRequest { hash, offset: 262_144, bytes: 1024 }.into(),
        BlobChunk { hash, offset: 0, data: vec![1, 2, 3] }.into(),
        BlobMissing { hash }.into(),
        JoinMesh {
            consent: ConsentToken([0x22; 16]),
            seed: false,
            links: vec![Neighbor { link, offers: true }],
        }
        .into(),
        LeaveMesh {}.into(),
        MeshSettings {
            servers: vec![IceServer {
                urls: vec!["turn::3478?transport=udp".into()],
                username: "1893456000:5f1d".into(),
                credential: "secret".into(),
            }],
            valid_for: Duration(3_600_000),
        }
        .into(),
        Neighbor { link, offers: true }.into(),
        Signal {
            link,
            attempt: 256,
            kind: SignalKind::Candidate,
            body: "candidate:1 1 udp 2 x.local 9 typ host".into(),
        }
        .into(),
        Unlink { link, reason: UnlinkReason::Unreachable }.into(),
        LinkReport { link, path: Some(LinkPath::Turn), received: 65_536, sent: 0 }.into(),
        TreeRequest { hash }.into(),
        BlobTree { hash, groups: vec![[0x77; 32]; 2] }.into(),
        CHALLENGE.into(),
    ]
}

fn peer_examples() -> Vec<PeerMessage> {
    let hash = BlobHash(std::array::from_fn(|i| i as u8));
    vec![
        PeerHello { link: LinkId([0x66; 16]) }.into(),
        Seek { blob: BlobRef { hash, bytes: 65_536 }, draw: 0x0102_0304 }.into(),
        Unseek { hash }.into(),
        Holds { hash, groups: vec![0b11] }.into(),
        Gained { hash, first: 1, count: 1 }.into(),
        Fetching { hash, first: 0, count: 2 }.into(),
        PeerTreeRequest { hash }.into(),
        PeerTree { hash, groups: vec![[0x77; 32]; 2] }.into(),
        GroupRequest { hash, first: 0, count: 2 }.into(),
        Group { hash, index: 1, data: vec![1, 2, 3] }.into(),
        Refused { hash, first: 0, count: 2 }.into(),
    ]
}

fn train(blob: BlobRef) -> TrainTask {
    TrainTask {
        model: ModelSizes { vocabulary: 65, context: 64, layers: 3, heads: 4, width: 64, bias: false }.into(),
        round: 41,
        worker: 2,
        steps: 10,
        steps_before: 410,
        sequences: 8,
        length: 64,
        rate: LearningRate {
            peak_nano: 2_000_000,
            least_nano: 100_000,
            warmup: 100,
            steps: 600,
            fresh_warmup: 4,
        },
        seed: [0x33; 32],
        blocks_dealt: 8,
        codec: UpdateCodec::TopK,
        streak: vec![PastUpdate { round: 40, worker: 1, result: Some(blob.hash) }],
        data: DataSetSpec { tokens: 1_003_854, tree: [0x44; 32] },
        blocks: vec![TokenBlock { index: 7, blob, proof: vec![[0x55; 32]; 2] }],
        checkpoint_round: 40,
        checkpoint_every: 20,
        checkpoint: blob,
        outer_steps: vec![blob],
        parameters: blob.hash,
    }
}

/// A lease has an example for each kind of task.
fn file_name(message: &Message) -> String {
    let task = match message {
        Message::Lease(Lease { task: Task::Train(_), .. }) => "-Train",
        Message::Lease(Lease { task: Task::Eval(_), .. }) => "-Eval",
        _ => "",
    };
    format!("{:02x}-{}{task}.hex", message.kind(), message.name())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn frames_match_their_golden_vectors() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors/v1");
    let mut kinds = std::collections::BTreeSet::new();
    let golden = |name: String, frame: &[u8]| {
        let path = folder.join(&name);
        if std::env::var_os("POTLUCK_BLESS").is_some() {
            std::fs::write(&path, hex(frame) + "\n").unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(hex(frame), golden.trim(), "{name}");
    };
    for message in examples() {
        let frame = encode(&message).unwrap();
        golden(file_name(&message), &frame);
        assert_eq!(decode(&frame), Ok(message.clone()));
        kinds.insert(message.kind());
    }
    for message in peer_examples() {
        let frame = encode_peer(&message).unwrap();
        golden(format!("{:02x}-{}.hex", message.kind(), message.name()), &frame);
        assert_eq!(decode_peer(&frame), Ok(message.clone()));
        assert!(decode(&frame).is_err(), "a peer's frame is none of a relay's");
        kinds.insert(message.kind());
    }
    assert_eq!(kinds.len(), 21 + 10 + 11, "each message has an example");
    let files = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(files, examples().len() + peer_examples().len(), "each file has an example");
}

#[test]
fn refusals_are_told_apart() {
    assert_eq!(decode(&[]), Err(DecodeError::TooShort { bytes: 0 }));
    assert_eq!(decode(&[2, 1]), Err(DecodeError::UnsupportedVersion { version: 2 }));
    assert_eq!(decode(&[1, 0x7f, 0]), Err(DecodeError::UnknownKind { kind: 0x7f, version: 1 }));
    assert!(matches!(decode(&[1, 0x01, 0xff]), Err(DecodeError::Body { kind: "Hello", .. })));
    assert_eq!(decode(&[1, 0x03, 0, 0]), Err(DecodeError::TrailingBytes { kind: "Withdraw", extra: 2 }));
    let large = vec![0; limits::MAX_FRAME_BYTES + 1];
    assert_eq!(decode(&large), Err(DecodeError::TooLarge { bytes: large.len(), most: large.len() - 1 }));
    let chunk = BlobChunk { hash: BlobHash([0; 32]), offset: 0, data: large };
    assert!(matches!(encode(&chunk.into()), Err(EncodeError::TooLarge { .. })));
}

#[test]
fn lists_and_texts_are_bounded() {
    let refused = |message: Message| {
        assert!(matches!(decode(&encode(&message).unwrap()), Err(DecodeError::Body { .. })));
    };
    let hash = BlobHash([0; 32]);
    let request = LeaseRequest {
        consent: ConsentToken([0; 16]),
        backend: Backend::WebGpu,
        mflops: 0,
        memory_bytes: 0,
        held: vec![hash; limits::MAX_HELD_BLOBS + 1],
        kept: Vec::new(),
    };
    refused(request.into());
    let agent = "x".repeat(limits::MAX_TEXT_BYTES + 1);
    refused(Hello::answer(&CHALLENGE, &VolunteerKey([0; 32]), agent).into());
    let blob = BlobRef { hash, bytes: 0 };
    let lease = |task| {
        let (lease, fence, job) = (LeaseId(0), Fence(0), JobId([0; 16]));
        refused(Lease { lease, fence, job, shard: 0, deadline: Duration(0), task }.into());
    };
    let panels = vec![blob; limits::MAX_TASK_PANELS + 1];
    lease(Task::Matmul(MatmulTask { dtype: DType::F32, rows: 1, cols: 1, depth: 1, a: panels, bt: vec![] }));
    let changed = |change: &dyn Fn(&mut TrainTask)| {
        let mut task = train(blob);
        change(&mut task);
        lease(Task::Train(Box::new(task)));
    };
    let block = TokenBlock { index: 0, blob, proof: Vec::new() };
    changed(&|task| task.outer_steps = vec![blob; limits::MAX_TASK_STEPS + 1]);
    changed(&|task| task.blocks = vec![block.clone(); limits::MAX_TASK_BLOCKS + 1]);
    changed(&|task| task.blocks[0].proof = vec![[0; 32]; limits::MAX_PROOF_HASHES + 1]);
}

#[test]
fn the_largest_chunk_fits_into_a_frame() {
    let data = vec![0xff; limits::MAX_CHUNK_BYTES];
    let chunk = BlobChunk { hash: BlobHash([0xff; 32]), offset: u64::MAX, data };
    assert!(encode(&chunk.into()).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_bytes_decode_or_fail_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn damaged_frames_decode_to_something_that_encodes_again(which in 0usize..19, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut frame = encode(&examples()[which]).unwrap();
        let at = at.index(frame.len());
        frame[at] = byte;
        if let Ok(message) = decode(&frame) {
            prop_assert_eq!(decode(&encode(&message).unwrap()), Ok(message));
        }
    }
}
