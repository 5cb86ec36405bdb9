//! Files of the corpora that are made from golden vectors of other crates, or by what writes the format.

#![allow(clippy::unwrap_used, reason = "a part of a test")]

use potluck_eval::items::{Item, Items};
use potluck_governance::{Key, Signature, SigningKey};
use potluck_ledger::{KeyKind, SignerKey};
use potluck_mesh::tree::tree_of;
use potluck_model::tokenizer::to_json;
use potluck_proto::{
    BlobRef, Fetching, Gained, Group, GroupRequest, Holds, PeerHello, PeerMessage, PeerTree, PeerTreeRequest,
    Refused, Seek, Unseek, encode_peer,
};
use potluck_train::data::{Characters, Tokenizer};
use potluck_train::gpt::{GptConfig, Kind, Layout, Sampling};
use potluck_types::limits::GROUP_BYTES;
use potluck_types::{BlobHash, LinkId};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// Decoder, file's name, bytes.
type Seed = (&'static str, String, Vec<u8>);

/// Golden vectors of other crates, as files of the corpora: decoder, file's name, bytes.
pub(crate) fn all() -> Vec<Seed> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut seeds = Vec::new();
    let files = |folder: &str| -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> =
            fs::read_dir(crates.join(folder)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        files.iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
    };
    for (name, hex) in files("proto/vectors/v1") {
        let of = if name.starts_with('c') { "peer_frame" } else { "frame" };
        seeds.push((of, name, bytes(&hex)));
    }
    for (name, text) in files("governance/vectors/v1") {
        let text = text.strip_suffix(b"\n").map_or(text.clone(), <[u8]>::to_vec);
        if name.starts_with("entry-") {
            let mut bundled = vec![0];
            bundled.extend((text.len() as u16).to_be_bytes());
            bundled.extend(&text);
            seeds.push(("bundle", name.clone(), bundled));
            seeds.push(("entry", name, text));
        } else if name.starts_with("statement-") {
            seeds.push(("statement", name, text));
        }
    }
    for (name, bytes) in files("ledger/vectors") {
        let of: &[_] = match name.as_str() {
            "add-checkpoint.txt" => &["witness_request"],
            "c2sp.note" | "go.note" | "cosigned.checkpoint" => &["note"],
            "fork-prefix.txt" | "fork-same-size.txt" => &["fork"],
            "receipt.tlog-proof" => &["receipt"],
            _ => &[],
        };
        seeds.extend(of.iter().map(|of| (*of, name.clone(), bytes.clone())));
        if name == "cosigned.checkpoint" {
            let end = bytes.windows(2).position(|two| two == b"\n\n").unwrap() + 1;
            seeds.push(("checkpoint", name, bytes[..end].to_vec()));
        }
    }
    seeds.push(("tile", "two".to_owned(), [&[1][..], &[7; 64]].concat()));
    for path in ["checkpoint", "tile/0/000", "tile/1/x001/067.p/3", "tile/entries/x001/067.p/200"] {
        seeds.push(("log_path", path.replace('/', "-"), path.as_bytes().to_vec()));
    }
    let encoded = |name| bytes(&fs::read(crates.join(format!("train/vectors/v1/{name}.hex"))).unwrap());
    // The same parameters in each encoding, but for the sparse one: two blocks and fifty.
    let dense = (encoded("f32-encoded").len() / 4) as u16;
    let encodings = [
        ("f32-encoded", dense),
        ("f16-encoded", dense),
        ("int8-encoded", dense),
        ("int4-encoded", dense),
        ("topk-encoded", 2 * 4096 + 50),
    ];
    for (codec, (name, count)) in encodings.into_iter().enumerate() {
        let mut seed = vec![codec as u8];
        seed.extend(count.to_le_bytes());
        seed.extend(encoded(name));
        seeds.push(("update", name.to_owned(), seed));
    }
    let config = GptConfig::tiny(65);
    let sampling = Sampling { temperature: 0.8, top_k: 5, seed: [3; 32] };
    let items = vec![
        Item::Score { tokens: vec![1, 2, 3, 4], from: 1 },
        Item::greedy(vec![5, 6], 4),
        Item::Generate { prompt: vec![7], count: 2, sampling },
    ];
    seeds.push(("eval_items", "three".to_owned(), Items::new(items, &config).unwrap().encode()));
    let characters = Characters::of("The quick brown fox\n").unwrap();
    seeds.push(("tokenizer", "characters.json".to_owned(), to_json(&Tokenizer::Characters(characters))));
    seeds.push(("tokenizer", "bytes.json".to_owned(), to_json(&Tokenizer::Bytes)));
    let request = format!(
        r#"{{"name":"whale","model":{{"vocabulary":65,"context":64,"layers":3,"heads":4,"width":64,"bias":true}},"tokenizer":"{}"}}"#,
        "ab".repeat(32)
    );
    seeds.push(("run_request", "gpt.json".to_owned(), request.into_bytes()));
    seeds.push(("run_request", "named.json".to_owned(), br#"{"model":"digits"}"#.to_vec()));
    let tokens: Vec<u8> = (0..100_u16).flat_map(|at| (at % 65).to_le_bytes()).collect();
    let head = [65_u32, 100, 0].map(u32::to_le_bytes).concat();
    seeds.push(("block", "only".to_owned(), [&head, &[0][..], &tokens].concat()));
    let tree = [65_u32, 20_000, 1].map(u32::to_le_bytes).concat();
    seeds.push(("block", "second".to_owned(), [&tree, &[1][..], &[7; 32], &tokens].concat()));
    let answers = [&1_500_000_i64.to_le_bytes()[..], &[4, 0, 0, 0].repeat(6)].concat();
    seeds.push(("eval_answers", "three".to_owned(), answers));
    seeds.extend(run_files());
    seeds.extend(model_folders());
    seeds.extend(signals());
    seeds.extend(datagrams());
    seeds.extend(peers());
    seeds.extend(words());
    // A beginning only.
    seeds.push(("eval_card", "none.json".to_owned(), br#"{"version":1}"#.to_vec()));
    seeds
}

/// The first line of hexadecimal digits.
fn bytes(hex: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.iter().filter_map(|digit| (*digit as char).to_digit(16).map(|digit| digit as u8)).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn run_files() -> Vec<Seed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| fs::read(root.join(path)).unwrap();
    vec![
        ("run_file", "defaults.toml".to_owned(), read("crates/cli/src/run_file/defaults.toml")),
        ("run_file", "digits.toml".to_owned(), read("examples/digits.toml")),
        (
            "run_file",
            "sizes.toml".to_owned(),
            b"corpus = [\"a\", \"b\"]\nmodel = { layers = 2, width = 8, heads = 2 }\n".to_vec(),
        ),
        ("run_file", "from.toml".to_owned(), b"corpus = \"a\"\n[model]\nfrom = \"folder\"\n".to_vec()),
    ]
}

/// The smallest GPT-2 that there can be, in each type of number.
fn model_folders() -> Vec<Seed> {
    let tokenizer = Tokenizer::Characters(Characters::of("ab").unwrap());
    let sizes = GptConfig {
        vocabulary: tokenizer.vocabulary(),
        context: 2,
        layers: 1,
        heads: 1,
        width: 2,
        bias: true,
    };
    let config = json!({
        "model_type": "gpt2", "vocab_size": sizes.vocabulary, "n_positions": sizes.context, "n_embd": sizes.width,
        "n_layer": sizes.layers, "n_head": sizes.heads,
    });
    let config = config.to_string().into_bytes();
    let tokenizer = to_json(&tokenizer);
    let lengths = [config.len() as u16, tokenizer.len() as u16].map(u16::to_le_bytes).concat();
    let of = |dtype: &str, width: usize| {
        let (mut header, mut end) = (Map::new(), 0);
        for tensor in &Layout::new(&sizes).tensors {
            let shape = match tensor.kind {
                Kind::Embedding => vec![tensor.rows, tensor.cols],
                Kind::Linear => vec![tensor.cols, tensor.rows],
                Kind::Norm | Kind::Bias => vec![tensor.rows * tensor.cols],
            };
            let start = end;
            end += tensor.rows * tensor.cols * width;
            let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
            header.insert(format!("transformer.{}", tensor.name), entry);
        }
        let header = Value::Object(header).to_string().into_bytes();
        let length = (header.len() as u64).to_le_bytes();
        let data = [0x3c, 0x00].repeat(end / 2);
        [&lengths[..], &config, &tokenizer, &length, &header, &data].concat()
    };
    [("F32", 4), ("F16", 2), ("BF16", 2)]
        .map(|(dtype, width)| ("model_folder", dtype.to_lowercase(), of(dtype, width)))
        .into()
}

/// What browsers say, and candidates in disguise.
fn signals() -> Vec<Seed> {
    let candidate =
        |address: &str| format!("candidate:1 1 udp 2122260223 {address} 50000 typ host generation 0");
    let (public, private) = (candidate("203.0.113.7"), candidate("192.168.1.1"));
    let tabs = private.replace(' ', "\t") + " 1 udp 1 203.0.113.7 50000 typ host";
    let offer = |line: &str| {
        format!(
            "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
             a=msid-semantic: WMS\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
             a={line}\r\na=ice-ufrag:9xkL\r\na=ice-pwd:Tq1mCCdJ7vH3E4DUJlkrsCsW\r\na=fingerprint:sha-256 00:01\r\n\
             a=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\na=end-of-candidates\r\n"
        )
    };
    let disguised = |line: &str| format!("{}{line}\r\n", offer(&public));
    let seeds = [
        ("offer", 0, offer(&public)),
        ("answer", 2, offer(&private)),
        ("near", 1, offer(&private)),
        ("candidate", 4, public.clone()),
        ("candidate-hidden", 4, candidate("5c2f1a9e-aa.local")),
        ("candidate-last", 4, String::new()),
        ("candidate-tabs", 4, tabs.clone()),
        ("offer-return", 0, disguised(&format!("\ra={private}"))),
        ("offer-space", 0, disguised(&format!("a= {private}"))),
        ("offer-tabs", 0, disguised(&format!("a={tabs}"))),
    ];
    seeds.map(|(name, first, body)| ("signal", name.to_owned(), [&[first], body.as_bytes()].concat())).into()
}

/// What clients of a STUN and TURN server say: in one input what one client says in turn.
fn datagrams() -> Vec<Seed> {
    let message = |kind: u16, attributes: &[(u16, &[u8])]| {
        let mut body = Vec::new();
        for (attribute, value) in attributes {
            body.extend(attribute.to_be_bytes());
            body.extend((value.len() as u16).to_be_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let head =
            [kind.to_be_bytes(), (body.len() as u16).to_be_bytes(), [0x21, 0x12], [0xa4, 0x42]].concat();
        [&head[..], &[7; 12], &body].concat()
    };
    // The peer 203.0.113.7:5000, its port and address combined with the cookie.
    let peer: (u16, &[u8]) = (0x12, &[0, 1, 0x32, 0x9a, 0xea, 0x12, 0xd5, 0x45]);
    let udp: (u16, &[u8]) = (0x19, &[17, 0, 0, 0]);
    let lifetime: (u16, &[u8]) = (0x0d, &[0, 0, 1, 0]);
    let channel: (u16, &[u8]) = (0x0c, &[0x40, 0, 0, 0]);
    let binding = message(0x0001, &[]);
    let allocate = message(0x0003, &[udp, lifetime]);
    let refresh = message(0x0004, &[lifetime]);
    let permission = message(0x0008, &[peer]);
    let bind = message(0x0009, &[channel, peer]);
    let send = message(0x0016, &[peer, (0x13, b"hello")]);
    let data = b"\x40\x00\x00\x05hello\x00\x00\x00".to_vec();
    let input = |datagrams: &[(u8, &[u8])]| {
        let framed = |(flags, datagram): &(u8, &[u8])| {
            [&[*flags], &(datagram.len() as u16).to_le_bytes()[..], datagram].concat()
        };
        datagrams.iter().flat_map(framed).collect::<Vec<_>>()
    };
    vec![
        ("turn", "binding".to_owned(), input(&[(0, &binding)])),
        ("turn", "stranger".to_owned(), input(&[(0, &allocate), (0, &permission), (0, &send), (0, &data)])),
        (
            "turn",
            "volunteer".to_owned(),
            input(&[
                (1, &allocate),
                (1, &permission),
                (1, &bind),
                (0, &send),
                (0, &data),
                (1, &refresh),
                (9, &refresh),
            ]),
        ),
        ("turn", "two".to_owned(), input(&[(1, &allocate), (3, &allocate), (5, &allocate), (11, &allocate)])),
    ]
}

/// What peers say to a volunteer: one that gives what is wanted, one that asks for what is there, one that lies.
fn peers() -> Vec<Seed> {
    let blobs = potluck_fuzz::blobs();
    let refs = blobs.each_ref().map(|blob| BlobRef { hash: BlobHash::of(blob), bytes: blob.len() as u64 });
    let [held, wanted] = refs;
    let hash = wanted.hash;
    let hello = |link: u8| PeerMessage::from(PeerHello { link: LinkId([link; 16]) });
    let groups: Vec<_> = blobs[1].chunks(GROUP_BYTES).map(<[u8]>::to_vec).collect();
    let group = |index: u32| PeerMessage::from(Group { hash, index, data: groups[index as usize].clone() });
    let tree = || PeerMessage::from(PeerTree { hash, groups: tree_of(&blobs[1]) });
    let holds = || PeerMessage::from(Holds { hash, groups: vec![0b11] });
    let input = |said: &[(u8, PeerMessage)]| {
        let framed = |(flags, message): &(u8, PeerMessage)| {
            let frame = encode_peer(message).unwrap();
            [&[*flags], &(frame.len() as u16).to_le_bytes()[..], &frame].concat()
        };
        said.iter().flat_map(framed).collect::<Vec<_>>()
    };
    let gives = [(0, hello(1)), (0, holds()), (2, tree()), (2, group(0)), (2, group(1))];
    let asks = [
        (0, hello(1)),
        (0, Seek { blob: held, draw: 7 }.into()),
        (0, PeerTreeRequest { hash: held.hash }.into()),
        (2, GroupRequest { hash: held.hash, first: 0, count: 2 }.into()),
        (2, Unseek { hash: held.hash }.into()),
    ];
    let lies = [
        (0, hello(1)),
        (1, hello(2)),
        (0, Gained { hash, first: 0, count: 2 }.into()),
        (1, Fetching { hash, first: 0, count: 1 }.into()),
        (0, tree()),
        (4, Refused { hash, first: 0, count: 2 }.into()),
        (1, Group { hash, index: 1, data: vec![7; 500] }.into()),
    ];
    vec![
        ("peers", "gives".to_owned(), input(&gives)),
        ("peers", "asks".to_owned(), input(&asks)),
        ("peers", "lies".to_owned(), input(&lies)),
    ]
}

fn words() -> Vec<Seed> {
    let secret = SigningKey::from_bytes(&[7; 32]);
    let key = SignerKey::from_seed("relay.example", KeyKind::Ed25519, &[7; 32]).unwrap();
    let public = Key(secret.verifying_key().to_bytes());
    let seeds = [
        ("half-id", "00".repeat(16)),
        ("id", public.to_string()),
        ("signature", Signature::sign(&secret, b"text").to_string()),
        ("verifier", key.verifier().to_string()),
        ("secret", String::clone(&key.secret_text())),
        ("none", "potluck".to_owned()),
    ];
    seeds.map(|(name, word)| ("words", name.to_owned(), word.into_bytes())).into()
}
