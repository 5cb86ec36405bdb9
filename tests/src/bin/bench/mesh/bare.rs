//! Bare data channels: messages as large as a blob's groups, pumped as fast as the channel takes them. Between two tabs
//! nothing but the browser's own API; towards a native end, the connection that a native volunteer would have.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use potluck_cli::cdp::{Browser, Tab};
use potluck_mesh::io::{CHANNEL_LABEL, SEND_BUFFER_BYTES};
use potluck_mesh::native::{EVENT_QUEUE, NativeLinks, NativeOptions, bind_addresses};
use potluck_mesh::{LinkAction, LinkEvent, Links as _};
use potluck_proto::SignalKind;
use potluck_types::LinkId;
use potluck_types::limits::GROUP_BYTES;
use serde_json::Value;
use tokio::sync::mpsc;

/// Messages of one pump: as many as a checkpoint of 16 MB has groups.
const MESSAGES: u32 = 482;
/// Bytes that a page's channel may hold, and at which it is filled again: more than ours, so that the peer is not slow for
/// want of them.
const PAGE_BUFFER_BYTES: usize = 8 << 20;
const PAGE_LOW_BYTES: usize = PAGE_BUFFER_BYTES / 2;
/// Time for a channel to open, and for all to arrive.
const LIMIT: Duration = Duration::from_secs(120);
const LINK: LinkId = LinkId([9; 16]);

/// Bytes that have arrived by then: what [`rate`] is read from.
pub(crate) type Sample = (f64, f64);

/// The rate, in MB/s, over the middle of a transfer: from a tenth to nine tenths of its bytes. How it begins and ends is
/// a matter of round trips, not of throughput.
///
/// # Errors
/// Too few samples lie between.
pub(crate) fn rate(samples: &[Sample]) -> Result<f64> {
    let (Some((_, first)), Some((_, last))) = (samples.first(), samples.last()) else {
        bail!("no samples");
    };
    let at = |share: f64| {
        let wanted = first + share * (last - first);
        samples.iter().find(|(_, bytes)| *bytes >= wanted).copied().unwrap_or_default()
    };
    let ((begin, before), (end, after)) = (at(0.1), at(0.9));
    if end <= begin {
        bail!("{} samples do not show a rate: {samples:?}", samples.len());
    }
    Ok((after - before) / (end - begin) / 1e6)
}

/// The page's end: one connection, whose received bytes are noted with their times, in seconds.
fn script() -> String {
    format!(
        "{{
  self.bare = {{ samples: [] }};
  const peer = bare.peer = new RTCPeerConnection();
  const gathered = () => new Promise((resolve) => {{
    const look = () => peer.iceGatheringState === 'complete' && resolve(peer.localDescription.sdp);
    peer.addEventListener('icegatheringstatechange', look);
    look();
  }});
  const use = (channel) => {{
    bare.channel = channel;
    channel.binaryType = 'arraybuffer';
    channel.bufferedAmountLowThreshold = {PAGE_LOW_BYTES};
    let bytes = 0;
    channel.onmessage = ({{ data }}) => {{
      bytes += data.byteLength;
      bare.samples.push([performance.now() / 1e3, bytes]);
    }};
  }};
  bare.offer = async () => {{
    use(peer.createDataChannel('{CHANNEL_LABEL}'));
    await peer.setLocalDescription();
    return gathered();
  }};
  bare.answer = async (sdp) => {{
    peer.ondatachannel = ({{ channel }}) => use(channel);
    await peer.setRemoteDescription({{ type: 'offer', sdp }});
    await peer.setLocalDescription();
    return gathered();
  }};
  bare.accept = (sdp) => peer.setRemoteDescription({{ type: 'answer', sdp }});
  bare.candidate = (candidate) => peer.addIceCandidate({{ candidate, sdpMid: '0', sdpMLineIndex: 0 }});
  bare.pump = (messages) => {{
    const message = new Uint8Array({GROUP_BYTES}), {{ channel }} = bare;
    let left = messages;
    const more = () => {{
      while (left > 0 && channel.bufferedAmount + message.length <= {PAGE_BUFFER_BYTES}) {{
        channel.send(message);
        left -= 1;
      }}
    }};
    channel.onbufferedamountlow = more;
    more();
  }};
}}"
    )
}

async fn call<T: serde::de::DeserializeOwned>(tab: &Tab, name: &str, argument: &str) -> Result<T> {
    let argument = Value::from(argument);
    Ok(tab.evaluate(&format!("bare.{name}({argument})")).await?)
}

/// A page of the relay's without an engine, with the script in it.
async fn page(browser: &Browser, relay: &str) -> Result<Tab> {
    let tab = browser.new_tab().await?;
    tab.goto(relay).await?;
    let _: Value = tab.evaluate(&format!("{} null", script())).await?;
    Ok(tab)
}

/// What a page received, once that is all.
async fn arrived(tab: &Tab) -> Result<Vec<Sample>> {
    let all = f64::from(MESSAGES) * GROUP_BYTES as f64;
    tab.wait_for(&format!("(bare.samples.at(-1)?.[1] ?? 0) >= {all}"), LIMIT).await?;
    Ok(tab.evaluate("bare.samples").await?)
}

/// MB/s from one tab to another.
pub(crate) async fn between_tabs(browser: &Browser, relay: &str) -> Result<f64> {
    let [from, to] = [page(browser, relay).await?, page(browser, relay).await?];
    let offer: String = call(&from, "offer", "").await?;
    let answer: String = call(&to, "answer", &offer).await?;
    let _: Value = call(&from, "accept", &answer).await?;
    from.wait_for("bare.channel?.readyState === 'open'", LIMIT).await?;
    to.wait_for("bare.channel?.readyState === 'open'", LIMIT).await?;
    // As a blob: the connection is new, and has not learned how much it may send.
    let _: Value = from.evaluate(&format!("bare.pump({MESSAGES})")).await?;
    let rate = rate(&arrived(&to).await?);
    from.close().await?;
    to.close().await?;
    rate
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToTab,
    ToNative,
}

/// MB/s between a tab and a native end.
pub(crate) async fn with_native(browser: &Browser, relay: &str, way: Way) -> Result<f64> {
    let tab = page(browser, relay).await?;
    let (sender, mut events) = mpsc::channel(EVENT_QUEUE);
    let bind = bind_addresses("127.0.0.1", 80).await;
    let mut links = NativeLinks::new(NativeOptions { bind }, sender);
    links.carry_out(LinkAction::Open { link: LINK, attempt: 1, offers: true, servers: Arc::default() });
    let rate = tokio::time::timeout(LIMIT, async {
        connect(&tab, &mut links, &mut events).await?;
        match way {
            Way::ToTab => to_tab(&tab, &mut links, &mut events).await,
            Way::ToNative => to_native(&tab, &mut events).await,
        }
    });
    let rate = rate.await.with_context(|| format!("a bare channel, {way:?}"))?;
    links.carry_out(LinkAction::Close { link: LINK });
    tab.close().await?;
    rate
}

/// Opens the channel; the page says all of its candidates in its answer.
async fn connect(tab: &Tab, links: &mut NativeLinks, events: &mut mpsc::Receiver<LinkEvent>) -> Result<()> {
    let mut open = false;
    while !open {
        match events.recv().await.context("the link ended")? {
            LinkEvent::Signal { kind: SignalKind::Offer, body, attempt, .. } => {
                let body: String = call(tab, "answer", &body).await?;
                let kind = SignalKind::Answer;
                links.carry_out(LinkAction::Signal { link: LINK, attempt, kind, body });
            }
            LinkEvent::Signal { kind: SignalKind::Candidate, body, .. } if !body.is_empty() => {
                let _: Value = call(tab, "candidate", &body).await?;
            }
            LinkEvent::Opened { .. } => open = true,
            LinkEvent::Failed { .. } => bail!("the link failed"),
            _ => {}
        }
    }
    tab.wait_for("bare.channel?.readyState === 'open'", LIMIT).await?;
    Ok(())
}

async fn to_tab(tab: &Tab, links: &mut NativeLinks, events: &mut mpsc::Receiver<LinkEvent>) -> Result<f64> {
    let (mut left, mut buffered) = (MESSAGES, 0);
    loop {
        while left > 0 && buffered + GROUP_BYTES as u64 <= SEND_BUFFER_BYTES {
            links.carry_out(LinkAction::Send { link: LINK, frame: vec![1; GROUP_BYTES] });
            left -= 1;
            buffered += GROUP_BYTES as u64;
        }
        if left == 0 {
            return rate(&arrived(tab).await?);
        }
        match events.recv().await.context("the link ended")? {
            LinkEvent::Drained { buffered: now, .. } => buffered = now,
            LinkEvent::Failed { .. } => bail!("the link failed"),
            _ => {}
        }
    }
}

async fn to_native(tab: &Tab, events: &mut mpsc::Receiver<LinkEvent>) -> Result<f64> {
    let _: Value = tab.evaluate(&format!("bare.pump({MESSAGES})")).await?;
    let started = Instant::now();
    let (mut samples, mut bytes) = (Vec::new(), 0);
    while samples.len() < MESSAGES as usize {
        match events.recv().await.context("the link ended")? {
            LinkEvent::Frame { frame, .. } => {
                bytes += frame.len();
                samples.push((started.elapsed().as_secs_f64(), bytes as f64));
            }
            LinkEvent::Failed { .. } => bail!("the link failed"),
            _ => {}
        }
    }
    rate(&samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_middle() {
        // A slow start and end, 10 MB/s between.
        let mut samples = vec![(0.0, 0.0), (5.0, 1e6)];
        samples.extend(
            (2..=9).map(|megabytes| (5.0 + 0.1 * f64::from(megabytes - 1), f64::from(megabytes) * 1e6)),
        );
        samples.push((20.0, 1e7));
        assert!((rate(&samples).unwrap() - 10.0).abs() < 1e-6, "{:?}", rate(&samples));
        assert!(rate(&[]).is_err());
        assert!(rate(&[(0.0, 0.0), (1.0, 5.0)]).is_err());
    }
}
