//! What two peers say to a volunteer that has a blob and wants another: the volunteer's own machine hears it.

use potluck_mesh::{LinkAction, LinkEvent, Mesh, MeshOptions, Output};
use potluck_proto::{BlobRef, Neighbor};
use potluck_types::limits::{GROUP_BYTES, MAX_PEER_FRAME_BYTES};
use potluck_types::{BlobHash, ConsentToken, Duration, Instant, LinkId};

/// Frames of one input.
const MAX_FRAMES: usize = 64;
/// The links to the two.
const LINKS: [LinkId; 2] = [LinkId([1; 16]), LinkId([2; 16])];
/// Time that goes by before a frame, in steps.
const STEP: Duration = Duration(250);
/// Bytes that may wait for peers after each frame: what their requests may ask for at once, and as much again.
const MAX_WAITING: usize = 64 * GROUP_BYTES;

/// The blob that the volunteer has, and the one that it wants: two groups each, the second one small.
pub fn blobs() -> [Vec<u8>; 2] {
    [3, 5].map(|factor: usize| (0..GROUP_BYTES + 500).map(|at| (at * factor % 251) as u8).collect())
}

fn volunteer(held: &[u8], wanted: BlobRef) -> Mesh {
    let mut mesh = Mesh::new(MeshOptions {
        dice: 1,
        store_bytes: 1 << 20,
        upload_bytes_per_s: None,
        seed: false,
        relay_host: "127.0.0.1".to_owned(),
    });
    mesh.want_peers(true);
    mesh.consented(ConsentToken([0; 16]));
    mesh.stored(held.to_vec());
    for link in LINKS {
        mesh.neighbor(Neighbor { link, offers: true });
    }
    mesh.advance();
    for link in LINKS {
        mesh.event(LinkEvent::Opened { link });
    }
    mesh.want(wanted);
    mesh.advance();
    mesh
}

/// Frames in turn: one byte that says from whom it is and how much time goes by before, its length (u16, little-endian), and
/// what it is. Whether the wanted blob came.
pub(crate) fn peers(mut bytes: &[u8]) -> bool {
    let [held, wanted] = blobs();
    let blob = BlobRef { hash: BlobHash::of(&wanted), bytes: wanted.len() as u64 };
    let (mut mesh, mut now, mut done) = (volunteer(&held, blob), Instant(0), false);
    for _ in 0..MAX_FRAMES {
        let Some(([flags, low, high], rest)) = bytes.split_first_chunk::<3>() else { break };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()).min(MAX_PEER_FRAME_BYTES);
        let (frame, rest) = rest.split_at(length);
        bytes = rest;
        let link = LINKS[usize::from(flags & 1)];
        now += Duration(u64::from(flags >> 1) * STEP.0);
        mesh.set_now(now);
        mesh.event(LinkEvent::Frame { link, frame: frame.to_vec() });
        let mut waiting = 0;
        for output in mesh.advance() {
            match output {
                Output::Link(LinkAction::Send { frame, .. }) => {
                    assert!(frame.len() <= MAX_PEER_FRAME_BYTES);
                    waiting += frame.len();
                }
                Output::Done(hash, came) => {
                    assert_eq!((hash, &*came), (blob.hash, &wanted));
                    done = true;
                }
                _ => {}
            }
        }
        assert!(waiting <= MAX_WAITING, "{waiting} bytes for one frame");
        // Nothing of it stays in the channel.
        for link in LINKS {
            mesh.event(LinkEvent::Drained { link, buffered: 0 });
        }
    }
    done
}
