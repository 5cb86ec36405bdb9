//! Links over webrtc-rs. Each has a task that owns its connection: actions come through bounded queues, events go into
//! the one queue that whoever made [`NativeLinks`] reads. Who reads slowly slows the network down, never its timers.

use crate::io::{CHANNEL_LABEL, LinkAction, LinkEvent, Links, SEND_BUFFER_BYTES, SEND_LOW_BYTES};
use bytes::{Bytes, BytesMut};
use potluck_proto::{IceServer, LinkPath, SignalKind};
use potluck_types::LinkId;
use potluck_types::limits::MAX_CANDIDATES;
use rtc::ice::mdns::MulticastDnsMode;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use webrtc::data_channel::{DataChannel, DataChannelEvent, RTCDataChannelInit};
use webrtc::error::Error;
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfiguration,
    RTCConfigurationBuilder, RTCIceCandidateInit, RTCIceCandidateType, RTCIceConnectionState,
    RTCIceGatheringState, RTCIceServer, RTCPeerConnectionIceEvent, RTCPeerConnectionState,
    RTCSessionDescription, SettingEngineBuilder,
};

/// Events that may wait for whoever reads them, of all links together; then the links wait.
pub const EVENT_QUEUE: usize = 256;
/// Frames of one link that may wait for its channel: the groups of [`SEND_BUFFER_BYTES`] are 128, and in the 15 s until a
/// link that nothing comes through has failed, 60 pieces of news a second still fit. At most 33 MiB.
const FRAME_QUEUE: usize = 1024;
/// Signals and restarts of one link that may wait: what a peer says in two attempts.
const ORDER_QUEUE: usize = 2 * (MAX_CANDIDATES + 2);
/// Candidates of this end that may wait for the link's task, and the end of them.
const GATHERED_QUEUE: usize = MAX_CANDIDATES + 1;
/// Channels that a peer may make besides the one that counts. An honest one makes none; each could hold 256 messages.
const MAX_EXTRA_CHANNELS: usize = 4;
/// Nothing came for so long, not even an answer to [`KEEPALIVE`]: the link is interrupted.
const DISCONNECTED_AFTER: Duration = Duration::from_secs(3);
/// An interruption of so long is a failure, after 15 s in all: enough for two restarts through a busy relay.
const FAILED_AFTER: Duration = Duration::from_secs(12);
/// How often a link that is connected asks for a sign of life: two may be lost before it counts as interrupted.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// How often it is looked at which way a link runs: browsers change it without a word.
const PATH_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is looked at how much of a channel's buffer is left, while who sends waits for that. The buffer's lower
/// half lasts for longer than that up to 200 Mbit/s.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);

/// How links reach the network.
#[derive(Debug, Clone)]
pub struct NativeOptions {
    /// UDP addresses to bind; port 0 takes a free one. A wildcard stands for every interface but loopback, those of the
    /// moment when a connection is made or restarted. See [`bind_addresses`].
    pub bind: Vec<String>,
}

/// Links over webrtc-rs. Dropping it closes them.
pub struct NativeLinks {
    options: NativeOptions,
    events: mpsc::Sender<LinkEvent>,
    links: HashMap<LinkId, Handle>,
}

/// One link, seen from outside its task. Dropping it closes the link.
struct Handle {
    orders: mpsc::Sender<Order>,
    frames: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.leave(CLOSED);
    }
}

/// The link is wanted.
const WANTED: u8 = 0;
/// Nothing of the link may be heard any more.
const CLOSED: u8 = 1;
/// A queue of the link was full: only its failure is heard.
const OVERFLOWED: u8 = 2;

/// What a link's task and its handle both know.
#[derive(Default)]
struct Shared {
    /// One of the three above.
    fate: AtomicU8,
    /// Bytes that were given to the link to send, since it began.
    sent: AtomicU64,
}

impl Shared {
    /// Decides the link's fate, unless it is decided.
    fn leave(&self, fate: u8) {
        // Fails if it was decided before, which stands.
        let _ = self.fate.compare_exchange(WANTED, fate, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// What a link's task is told besides frames.
enum Order {
    Signal { attempt: u32, kind: SignalKind, body: String },
    Restart { attempt: u32, servers: Arc<[IceServer]> },
}

impl NativeLinks {
    /// Links whose events go to `events`. An event that was in that queue when its link was closed stays there.
    ///
    /// Actions can be carried out only within a tokio runtime with time and network.
    pub fn new(options: NativeOptions, events: mpsc::Sender<LinkEvent>) -> Self {
        Self { options, events, links: HashMap::new() }
    }

    /// Links that are open or being opened.
    pub fn count(&self) -> usize {
        self.links.values().filter(|link| !link.orders.is_closed()).count()
    }

    fn open(&mut self, link: LinkId, attempt: u32, offers: bool, servers: &[IceServer]) {
        self.links.retain(|_, link| !link.orders.is_closed());
        let shared = Arc::new(Shared::default());
        let (orders, order_queue) = mpsc::channel(ORDER_QUEUE);
        let (frames, frame_queue) = mpsc::channel(FRAME_QUEUE);
        let opening = Opening {
            bind: self.options.bind.clone(),
            attempt,
            offers,
            configuration: configuration(servers),
            orders: order_queue,
            frames: frame_queue,
        };
        let output = Output { link, events: self.events.clone(), shared: shared.clone() };
        tokio::spawn(opening.run(output));
        // A link that was there is dropped, which closes it.
        self.links.insert(link, Handle { orders, frames, shared });
    }

    /// Ends a link that does not take what it is given: its queue is full, which its task says, or its task has ended,
    /// which it has said.
    fn overflow(&mut self, link: LinkId) {
        if let Some(handle) = self.links.remove(&link) {
            handle.shared.leave(OVERFLOWED);
        }
    }
}

impl Links for NativeLinks {
    fn carry_out(&mut self, action: LinkAction) {
        let (link, order) = match action {
            LinkAction::Open { link, attempt, offers, servers } => {
                return self.open(link, attempt, offers, &servers);
            }
            LinkAction::Close { link } => {
                self.links.remove(&link);
                return;
            }
            LinkAction::Send { link, frame } => {
                let Some(handle) = self.links.get(&link) else { return };
                handle.shared.sent.fetch_add(frame.len() as u64, Ordering::AcqRel);
                if handle.frames.try_send(frame).is_err() {
                    self.overflow(link);
                }
                return;
            }
            LinkAction::Signal { link, attempt, kind, body } => (link, Order::Signal { attempt, kind, body }),
            LinkAction::Restart { link, attempt, servers } => (link, Order::Restart { attempt, servers }),
        };
        let Some(handle) = self.links.get(&link) else { return };
        if handle.orders.try_send(order).is_err() {
            self.overflow(link);
        }
    }
}

/// Addresses to bind for links that a relay at this host and port brokers.
///
/// A relay on this machine's loopback means that its peers are on this machine too: then loopback is enough, and nothing
/// is said about the network. Otherwise the wildcard of each address family that leads anywhere: webrtc-rs binds the
/// addresses of all interfaces then, and those that there are then when a link is restarted on another network. A family
/// that leads nowhere is left out, as its wildcard would be named to peers as an address.
pub async fn bind_addresses(host: &str, port: u16) -> Vec<String> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // A name that is not found leaves what a default route says.
    let relay = tokio::net::lookup_host((host, port)).await.map(Vec::from_iter).unwrap_or_default();
    bind_addresses_towards(&relay)
}

fn bind_addresses_towards(relay: &[SocketAddr]) -> Vec<String> {
    let loopback = relay.iter().filter(|to| to.ip().is_loopback()).min_by_key(|to| to.is_ipv6());
    if let Some(loopback) = loopback {
        return vec![SocketAddr::new(loopback.ip(), 0).to_string()];
    }
    // Addresses that are nobody's (RFC 5737, RFC 3849): where they would be sent to, everything else is.
    let nobody = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])];
    let anybody = relay.iter().copied().chain(nobody.map(|ip| SocketAddr::new(ip, 9)));
    let mut wildcards: Vec<_> = anybody.filter(|to| leads_somewhere(*to)).map(|to| wildcard(to, 0)).collect();
    wildcards.sort_unstable();
    wildcards.dedup();
    if wildcards.is_empty() {
        wildcards.push(SocketAddr::from(([127, 0, 0, 1], 0)));
    }
    wildcards.iter().map(ToString::to_string).collect()
}

const fn wildcard(like: SocketAddr, port: u16) -> SocketAddr {
    let ip = match like {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, port)
}

/// Whether this machine has an address from which it would send there. Connecting a UDP socket sends nothing.
fn leads_somewhere(to: SocketAddr) -> bool {
    let from = UdpSocket::bind(wildcard(to, 0)).and_then(|socket| {
        socket.connect(to)?;
        socket.local_addr()
    });
    from.is_ok_and(|from| !from.ip().is_loopback() && !from.ip().is_unspecified())
}

/// Servers in webrtc-rs's words, without those that it cannot use: one of them would spoil the whole configuration.
fn configuration(servers: &[IceServer]) -> RTCConfiguration {
    let usable = servers.iter().flat_map(|server| {
        server.urls.iter().map(|url| RTCIceServer {
            urls: vec![url.clone()],
            username: server.username.clone(),
            credential: server.credential.clone(),
        })
    });
    let usable = usable.filter(|server| {
        let outcome = server.urls();
        if let Err(error) = &outcome {
            tracing::debug!(%error, "a STUN or TURN server cannot be used");
        }
        outcome.is_ok()
    });
    RTCConfigurationBuilder::new().with_ice_servers(usable.collect()).build()
}

/// How a link's task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody wants the link, or to hear of it.
    Closed,
    /// It failed, which is to be said.
    Failed,
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        tracing::debug!(%error, "a link fails");
        Self::Failed
    }
}

/// Where a link's events go.
#[derive(Clone)]
struct Output {
    link: LinkId,
    events: mpsc::Sender<LinkEvent>,
    shared: Arc<Shared>,
}

impl Output {
    /// Says something, once there is room, unless nothing is to be heard of the link any more.
    async fn say(&self, event: LinkEvent) -> Result<(), End> {
        let Ok(room) = self.events.reserve().await else { return Err(End::Closed) };
        let failed = matches!(event, LinkEvent::Failed { .. });
        match self.shared.fate.load(Ordering::Acquire) {
            WANTED => room.send(event),
            OVERFLOWED if failed => room.send(event),
            OVERFLOWED => return Err(End::Failed),
            _ => return Err(End::Closed),
        }
        Ok(())
    }

    /// How the task ends when the handle is gone.
    fn end(&self) -> End {
        if self.shared.fate.load(Ordering::Acquire) == OVERFLOWED { End::Failed } else { End::Closed }
    }
}

/// Says that the link failed if its task panics.
struct Guard(Output);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Best effort: with a full queue, the other end's silence tells.
            let _ = self.0.events.try_send(LinkEvent::Failed { link: self.0.link });
        }
    }
}

/// A connection that is closed in any case: webrtc-rs goes on with one that is only dropped.
struct Connection(Arc<dyn PeerConnection>);

impl Connection {
    async fn close(&self) {
        if let Err(error) = self.0.close().await {
            tracing::debug!(%error, "a connection could not be closed");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Closing twice is fine; without a runtime, its tasks are gone too.
        if std::thread::panicking()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let connection = self.0.clone();
            runtime.spawn(async move { connection.close().await });
        }
    }
}

/// What the connection tells of itself: only the last state counts.
#[derive(Debug, Clone, Copy, Default)]
struct States {
    ice: RTCIceConnectionState,
    connection: RTCPeerConnectionState,
}

/// Runs within webrtc-rs's own task, which must not wait: states replace each other, the rest is dropped when too much
/// comes.
struct Handler {
    states: watch::Sender<States>,
    /// Candidates of this end; empty after the last one.
    gathered: mpsc::Sender<String>,
    channels: mpsc::Sender<Arc<dyn DataChannel>>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        if let Ok(init) = event.candidate.to_json() {
            // More than a peer takes are of no use.
            let _ = self.gathered.try_send(init.candidate);
        }
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            // Only spares the other end some waiting.
            let _ = self.gathered.try_send(String::new());
        }
    }

    async fn on_ice_connection_state_change(&self, state: RTCIceConnectionState) {
        self.states.send_modify(|states| states.ice = state);
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        self.states.send_modify(|states| states.connection = state);
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        // An honest peer makes one.
        let _ = self.channels.try_send(channel);
    }
}

/// What a link's task begins with.
struct Opening {
    bind: Vec<String>,
    attempt: u32,
    offers: bool,
    configuration: RTCConfiguration,
    orders: mpsc::Receiver<Order>,
    frames: mpsc::Receiver<Vec<u8>>,
}

impl Opening {
    async fn run(self, output: Output) {
        let guard = Guard(output);
        let output = &guard.0;
        if self.connect(output).await == End::Failed {
            // Nobody listens any more if this fails.
            let _ = output.say(LinkEvent::Failed { link: output.link }).await;
        }
    }

    async fn connect(self, output: &Output) -> End {
        let (states, states_seen) = watch::channel(States::default());
        let (gathered, gathered_queue) = mpsc::channel(GATHERED_QUEUE);
        let (channels, channel_queue) = mpsc::channel(MAX_EXTRA_CHANNELS);
        let settings = SettingEngineBuilder::new()
            // A restart is for a network that is not what it was: bind and gather anew.
            .with_discard_local_candidates_during_ice_restart(true)
            // Candidates of browsers on this network are names that only multicast resolves. They reach this end
            // nevertheless, as this one names addresses; a multicast socket for every link would cost more.
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_ice_timeouts(Some(DISCONNECTED_AFTER), Some(FAILED_AFTER), Some(KEEPALIVE))
            .build();
        let builder = PeerConnectionBuilder::new()
            .with_configuration(self.configuration)
            .with_setting_engine(settings)
            .with_handler(Arc::new(Handler { states, gathered, channels }))
            .with_udp_addrs(self.bind)
            .with_data_channel_send_buffer_limit(SEND_BUFFER_BYTES as usize);
        let connection = match Box::pin(builder.build()).await {
            Ok(connection) => Connection(Arc::new(connection)),
            Err(error) => return error.into(),
        };
        let link = Link {
            output,
            connection: &*connection.0,
            offers: self.offers,
            attempt: self.attempt,
            described: false,
            waiting: Vec::new(),
            taken: 0,
            told: 0,
            extra_channels: 0,
            channel: None,
            interrupted: false,
            path: None,
            gathered: gathered_queue,
            states: states_seen,
        };
        let end = match link.run(self.orders, self.frames, channel_queue).await {
            Err(end) => end,
            Ok(never) => match never {},
        };
        connection.close().await;
        end
    }
}

/// A link's task, once it has a connection.
struct Link<'a> {
    output: &'a Output,
    connection: &'a dyn PeerConnection,
    offers: bool,
    attempt: u32,
    /// The other end's description of this attempt is known.
    described: bool,
    /// Candidates of the other end that wait for its description, with their attempt.
    waiting: Vec<(u32, String)>,
    /// Candidates of the other end that were taken in this attempt.
    taken: usize,
    /// Candidates of this end that were told in this attempt.
    told: usize,
    extra_channels: usize,
    channel: Option<Arc<dyn DataChannel>>,
    interrupted: bool,
    path: Option<LinkPath>,
    gathered: mpsc::Receiver<String>,
    states: watch::Receiver<States>,
}

impl Link<'_> {
    async fn run(
        mut self,
        mut orders: mpsc::Receiver<Order>,
        frames: mpsc::Receiver<Vec<u8>>,
        mut channels: mpsc::Receiver<Arc<dyn DataChannel>>,
    ) -> Result<Infallible, End> {
        let link = self.output.link;
        let drained = Notify::new();
        let (open, opened) = oneshot::channel();
        let mut open = Some(open);
        let writer = Writer { output: self.output, drained: &drained };
        let mut writing = std::pin::pin!(writer.run(opened, frames));
        if self.offers {
            // Reliable and in order.
            let init = RTCDataChannelInit::default();
            self.channel = Some(self.connection.create_data_channel(CHANNEL_LABEL, Some(init)).await?);
            self.offer().await?;
        }
        let mut look = tokio::time::interval(PATH_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order).await?,
                    None => return Err(self.output.end()),
                },
                event = next_of(self.channel.as_ref()) => match event {
                    Some(DataChannelEvent::OnOpen) => if let (Some(open), Some(channel)) = (open.take(), &self.channel) {
                        channel.set_buffered_amount_low_threshold(SEND_LOW_BYTES as u32).await?;
                        self.output.say(LinkEvent::Opened { link }).await?;
                        // The writer waits for it as long as this task runs.
                        let _ = open.send(channel.clone());
                        self.look_at_path().await?;
                    },
                    Some(DataChannelEvent::OnMessage(message)) => {
                        let frame = if message.is_string { Vec::new() } else { message.data.into() };
                        self.output.say(LinkEvent::Frame { link, frame }).await?;
                    }
                    Some(DataChannelEvent::OnBufferedAmountLow) => drained.notify_one(),
                    Some(DataChannelEvent::OnClose) | None => return Err(End::Failed),
                    Some(_) => {}
                },
                end = &mut writing => return Err(end),
                Some(candidate) = self.gathered.recv() => self.tell(candidate).await?,
                Some(channel) = channels.recv() => self.accept(channel).await?,
                changed = self.states.changed() => match changed {
                    Ok(()) => self.changed().await?,
                    Err(_) => return Err(End::Failed),
                },
                _ = look.tick() => self.look_at_path().await?,
            }
        }
    }

    async fn obey(&mut self, order: Order) -> Result<(), End> {
        match order {
            Order::Signal { attempt, kind, body } => match kind {
                SignalKind::Offer => self.offered(attempt, body).await,
                SignalKind::Answer => self.answered(attempt, body).await,
                SignalKind::Candidate => self.candidate(attempt, body).await,
            },
            Order::Restart { attempt, servers } => {
                if !self.offers {
                    return Ok(());
                }
                self.begin(attempt);
                self.connection.set_configuration(configuration(&servers)).await?;
                self.connection.restart_ice().await?;
                self.offer().await
            }
        }
    }

    /// A new attempt: what belongs to older ones is forgotten.
    fn begin(&mut self, attempt: u32) {
        self.attempt = attempt;
        self.described = false;
        self.waiting.retain(|(of, _)| *of >= attempt);
        self.taken = 0;
        self.told = 0;
        while self.gathered.try_recv().is_ok() {}
    }

    async fn offer(&mut self) -> Result<(), End> {
        let offer = self.connection.create_offer(None).await?;
        let body = offer.sdp.clone();
        self.connection.set_local_description(offer).await?;
        self.signal(SignalKind::Offer, body).await
    }

    async fn offered(&mut self, attempt: u32, sdp: String) -> Result<(), End> {
        let news = attempt > self.attempt || (attempt == self.attempt && !self.described);
        if self.offers || !news {
            return Ok(());
        }
        self.begin(attempt);
        self.connection.set_remote_description(RTCSessionDescription::offer(sdp)?).await?;
        let answer = self.connection.create_answer(None).await?;
        let body = answer.sdp.clone();
        self.connection.set_local_description(answer).await?;
        self.signal(SignalKind::Answer, body).await?;
        self.described().await
    }

    async fn answered(&mut self, attempt: u32, sdp: String) -> Result<(), End> {
        if !self.offers || attempt != self.attempt || self.described {
            return Ok(());
        }
        self.connection.set_remote_description(RTCSessionDescription::answer(sdp)?).await?;
        self.described().await
    }

    /// The other end's description is known: its candidates need not wait any more.
    async fn described(&mut self) -> Result<(), End> {
        self.described = true;
        let (now, later) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(of, _)| *of == self.attempt);
        self.waiting = later;
        let now: Vec<_> = now;
        for (_, candidate) in now {
            self.take(candidate).await;
        }
        Ok(())
    }

    async fn candidate(&mut self, attempt: u32, candidate: String) -> Result<(), End> {
        if attempt == self.attempt && self.described {
            self.take(candidate).await;
        } else if attempt >= self.attempt && self.waiting.len() < MAX_CANDIDATES {
            self.waiting.push((attempt, candidate));
        }
        Ok(())
    }

    /// Tries a candidate of the other end. One that cannot be used is none: there are kinds that webrtc-rs does not know.
    async fn take(&mut self, candidate: String) {
        if self.taken >= MAX_CANDIDATES {
            return;
        }
        self.taken += 1;
        let init = RTCIceCandidateInit {
            candidate,
            sdp_mid: Some("0".to_owned()),
            sdp_mline_index: Some(0),
            ..RTCIceCandidateInit::default()
        };
        if let Err(error) = self.connection.add_ice_candidate(init).await {
            tracing::debug!(%error, "a candidate cannot be used");
        }
    }

    /// Tells the other end a candidate of this one; the last one that it takes is kept for the end of them.
    async fn tell(&mut self, candidate: String) -> Result<(), End> {
        if self.told >= MAX_CANDIDATES - usize::from(!candidate.is_empty()) {
            return Ok(());
        }
        self.told += 1;
        self.signal(SignalKind::Candidate, candidate).await
    }

    async fn signal(&self, kind: SignalKind, body: String) -> Result<(), End> {
        let Self { attempt, output, .. } = *self;
        output.say(LinkEvent::Signal { link: output.link, attempt, kind, body }).await
    }

    /// A channel that the other end made: the link's, or none of ours.
    async fn accept(&mut self, channel: Arc<dyn DataChannel>) -> Result<(), End> {
        if !self.offers && self.channel.is_none() && channel.label().await? == CHANNEL_LABEL {
            self.channel = Some(channel);
            return Ok(());
        }
        self.extra_channels += 1;
        if self.extra_channels > MAX_EXTRA_CHANNELS {
            tracing::debug!("a peer makes channel after channel");
            return Err(End::Failed);
        }
        Ok(channel.close().await?)
    }

    async fn changed(&mut self) -> Result<(), End> {
        let link = self.output.link;
        let States { ice, connection } = *self.states.borrow_and_update();
        if matches!(connection, RTCPeerConnectionState::Failed | RTCPeerConnectionState::Closed) {
            return Err(End::Failed);
        }
        match ice {
            RTCIceConnectionState::Failed | RTCIceConnectionState::Closed => Err(End::Failed),
            RTCIceConnectionState::Disconnected if !self.interrupted => {
                self.interrupted = true;
                self.output.say(LinkEvent::Interrupted { link }).await
            }
            RTCIceConnectionState::Connected | RTCIceConnectionState::Completed => {
                if std::mem::take(&mut self.interrupted) {
                    self.output.say(LinkEvent::Restored { link }).await?;
                }
                self.look_at_path().await
            }
            _ => Ok(()),
        }
    }

    /// Says how the link runs, if that is news.
    async fn look_at_path(&mut self) -> Result<(), End> {
        let path = path(self.connection).await;
        if path.is_none() || path == self.path {
            return Ok(());
        }
        self.path = path;
        let link = self.output.link;
        match path {
            Some(path) => self.output.say(LinkEvent::Path { link, path }).await,
            None => Ok(()),
        }
    }
}

/// How a connection runs; `None` while it does not.
async fn path(connection: &dyn PeerConnection) -> Option<LinkPath> {
    let ice = connection.sctp().await?.transport().ice_transport();
    let pair = ice.get_selected_candidate_pair().await.ok()??;
    let (local, remote) = (pair.local(), pair.remote());
    // A relayed address that was heard from before it was told of counts as peer-reflexive, and stays that.
    let told = ice.get_remote_candidates().await.ok()?;
    let relayed = told
        .iter()
        .chain([remote])
        .filter(|told| (&told.address, told.port) == (&remote.address, remote.port))
        .chain([local])
        .any(|candidate| candidate.typ == RTCIceCandidateType::Relay);
    Some(if relayed { LinkPath::Turn } else { LinkPath::Direct })
}

/// The next event of the channel; never, while there is none.
async fn next_of(channel: Option<&Arc<dyn DataChannel>>) -> Option<DataChannelEvent> {
    match channel {
        Some(channel) => channel.poll().await,
        None => std::future::pending().await,
    }
}

/// Passes frames on to the channel, as fast as it takes them, and says when it has drained.
struct Writer<'a> {
    output: &'a Output,
    /// The channel says that it has room.
    drained: &'a Notify,
}

impl Writer<'_> {
    /// Ends only if the channel does.
    async fn run(
        self,
        opened: oneshot::Receiver<Arc<dyn DataChannel>>,
        mut frames: mpsc::Receiver<Vec<u8>>,
    ) -> End {
        let Ok(channel) = opened.await else { return std::future::pending().await };
        let shared = &self.output.shared;
        // Bytes that went into the channel, and what who sends believes that the buffer holds: what it was told last,
        // and all that it sent since.
        let mut written = 0;
        let mut told = 0;
        let mut sent_when_told = 0;
        loop {
            let believed = told + (shared.sent.load(Ordering::Acquire) - sent_when_told);
            let waits = believed > SEND_LOW_BYTES;
            tokio::select! {
                frame = frames.recv() => {
                    // The handle is gone, which ends the task.
                    let Some(frame) = frame else { return std::future::pending().await };
                    written += frame.len() as u64;
                    if let Err(error) = channel.send(BytesMut::from(Bytes::from(frame))).await {
                        return error.into();
                    }
                }
                () = self.drained.notified(), if waits => {}
                () = tokio::time::sleep(DRAIN_INTERVAL), if waits => {}
            }
            if !waits {
                continue;
            }
            // Not the channel's buffered amount, which leaves out what has not become packets yet.
            let outstanding = match channel.outstanding_bytes().await {
                Ok(bytes) => bytes as u64,
                Err(error) => return error.into(),
            };
            let sent = shared.sent.load(Ordering::Acquire);
            let buffered = sent - written + outstanding;
            if buffered <= SEND_LOW_BYTES {
                (told, sent_when_told) = (buffered, sent);
                let link = self.output.link;
                if let Err(end) = self.output.say(LinkEvent::Drained { link, buffered }).await {
                    return end;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_relay_on_this_machine_needs_loopback_alone() {
        for (host, bound) in
            [("127.0.0.1", "127.0.0.1:0"), ("[::1]", "[::1]:0"), ("127.1.2.3", "127.1.2.3:0")]
        {
            assert_eq!(bind_addresses(host, 8787).await, [bound]);
        }
        // With both of them, the older one: it is there on every machine.
        let both = ["[::1]:1", "127.0.0.1:1"].map(|to| to.parse().unwrap());
        assert_eq!(bind_addresses_towards(&both), ["127.0.0.1:0"]);
    }

    #[tokio::test]
    async fn another_relay_needs_every_interface() {
        // Which there are depends on the machine: those that lead somewhere, and loopback only without any.
        let somewhere: SocketAddr = "192.0.2.7:1".parse().unwrap();
        let bound = bind_addresses_towards(&[somewhere]);
        assert_eq!(bound.contains(&"0.0.0.0:0".to_owned()), leads_somewhere(somewhere), "{bound:?}");
        assert!(!bound.is_empty() && bound.len() <= 2, "{bound:?}");
        assert!(bound == ["127.0.0.1:0"] || bound.iter().all(|to| !to.starts_with("127")), "{bound:?}");
        // A name that nobody has is no reason to fail.
        assert_eq!(bind_addresses("nobody.invalid", 1).await, bind_addresses_towards(&[]));
    }

    #[test]
    fn servers_keep_their_credentials() {
        let server = |url: &str, username: &str, credential: &str| IceServer {
            urls: vec![url.to_owned(), "stun:192.0.2.1:3478".to_owned()],
            username: username.to_owned(),
            credential: credential.to_owned(),
        };
        let configuration = configuration(&[
            server("turn:192.0.2.1:3478?transport=udp", "name", "word"),
            server("turn:192.0.2.2:3478", "", ""),
            server("http://192.0.2.3", "name", "word"),
        ]);
        let servers = configuration.ice_servers();
        // Of the last two, only what needs no credentials is left.
        assert_eq!(servers.len(), 4, "{servers:?}");
        assert_eq!((&*servers[0].username, &*servers[0].credential), ("name", "word"));
        assert!(servers[1..].iter().all(|server| server.urls == ["stun:192.0.2.1:3478"]));
    }
}
