//! The relay's own STUN and TURN server: the crate `turn` answers, behind a gate that bounds what it keeps.
//!
//! The crate's `Server` keeps each nonce that it hands out, and lets whoever holds credentials make
//! permissions and channels without limit. So its loop is here: each datagram is looked at first, and then
//! handled by the crate's `Request`.

use super::credentials::{self, Credentials};
use super::ledger::{Ledger, lock};
use super::relayed::{Generator, Next, unused};
use async_trait::async_trait;
use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use stun::attributes::{ATTR_EVEN_PORT, ATTR_MESSAGE_INTEGRITY, ATTR_RESERVATION_TOKEN, ATTR_USERNAME};
use stun::integrity::MessageIntegrity;
use stun::message::{
    CLASS_REQUEST, METHOD_ALLOCATE, METHOD_CHANNEL_BIND, METHOD_CREATE_PERMISSION, METHOD_REFRESH, Message,
};
use stun::textattrs::TextAttribute;
use tokio::net::UdpSocket;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use turn::allocation::allocation_manager::{Manager, ManagerConfig};
use turn::allocation::five_tuple::FiveTuple;
use turn::auth::{AuthHandler, generate_auth_key};
use turn::proto::PROTO_UDP;
use turn::proto::chandata::ChannelData;
use turn::server::request::Request;
use webrtc_util::Conn;

/// What passwords are hashed with, besides the name.
pub(super) const REALM: &str = "potluck";
/// Largest datagram that is read: what fits an Ethernet frame. Nothing larger is cut to fit, it is dropped.
const MAX_DATAGRAM: usize = 1500;
/// Nonces that count at once, about 100 bytes each. A client needs one an hour, but anybody can ask for more:
/// then the older half is forgotten, and clients with one of those are given another.
const MAX_NONCES: usize = 16_384;
/// Pause after an error of the socket, so that one that stays costs no processor.
const ERROR_PAUSE: Duration = Duration::from_millis(100);
/// An end that waits for a send may take so long.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Ends the server, also when it is dropped.
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(ledger: Arc<Ledger>, credentials: Credentials) -> io::Result<Self> {
        let gate = Gate::open(ledger, credentials).await?;
        let address = gate.address;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(gate.run(stopped));
        Ok(Self { address, stop, task })
    }

    /// Ends the server and every allocation.
    pub(crate) async fn stop(mut self) {
        let _ = self.stop.send(());
        if tokio::time::timeout(STOP_GRACE, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// The key that a request is checked with, if its sender may be who it says.
struct Verdict(Option<Vec<u8>>);

impl AuthHandler for Verdict {
    fn auth_handle(&self, _: &str, _: &str, _: SocketAddr) -> Result<Vec<u8>, turn::Error> {
        self.0.clone().ok_or(turn::Error::ErrNoSuchUser)
    }
}

/// What happens with a datagram.
enum Admission {
    /// It is handled; requests are checked with this key, or refused without one.
    Handle(Verdict),
    /// It is dropped.
    Drop,
}

/// Everything of the server.
pub(super) struct Gate {
    conn: Arc<Listening>,
    pub(super) address: SocketAddr,
    manager: Arc<Manager>,
    pub(super) nonces: Arc<Mutex<HashMap<String, tokio::time::Instant>>>,
    next: Next,
    ledger: Arc<Ledger>,
    credentials: Credentials,
}

impl Gate {
    /// Binds the socket.
    pub(super) async fn open(ledger: Arc<Ledger>, credentials: Credentials) -> io::Result<Self> {
        let socket = UdpSocket::bind(ledger.plan.listen).await?;
        let address = socket.local_addr()?;
        let next = Next::default();
        let generator = Generator { ledger: Arc::clone(&ledger), next: Arc::clone(&next) };
        let manager = Manager::new(ManagerConfig {
            relay_addr_generator: Box::new(generator),
            alloc_close_notify: None,
        });
        Ok(Self {
            conn: Arc::new(Listening(socket)),
            address,
            manager: Arc::new(manager),
            nonces: Arc::default(),
            next,
            ledger,
            credentials,
        })
    }

    async fn run(self, mut stopped: oneshot::Receiver<()>) {
        // One byte more than may come tells what was cut.
        let mut buffer = vec![0; MAX_DATAGRAM + 1];
        loop {
            let received = tokio::select! {
                received = self.conn.recv_from(&mut buffer) => received,
                _ = &mut stopped => break,
            };
            match received {
                Ok((bytes, from)) if bytes <= MAX_DATAGRAM => self.handle(&buffer[..bytes], from).await,
                Ok(_) => self.ledger.counters.refuse(),
                Err(error) => {
                    tracing::debug!(%error, "the TURN server's socket fails");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
        self.close().await;
    }

    /// Ends every allocation.
    pub(super) async fn close(&self) {
        let _ = self.manager.close().await;
    }

    /// Answers a datagram.
    pub(super) async fn handle(&self, datagram: &[u8], from: SocketAddr) {
        let Admission::Handle(verdict) = self.admit(datagram, from).await else {
            self.ledger.counters.refuse();
            return;
        };
        let conn = Arc::clone(&self.conn);
        let mut request = Request {
            conn,
            src_addr: from,
            buff: datagram.to_vec(),
            allocation_manager: Arc::clone(&self.manager),
            nonces: Arc::clone(&self.nonces),
            auth_handler: Arc::new(verdict),
            realm: REALM.to_owned(),
            channel_bind_timeout: turn::proto::lifetime::DEFAULT_LIFETIME,
        };
        if let Err(error) = request.handle_request().await {
            tracing::debug!(%error, %from, "a TURN request is refused");
        }
        *lock(&self.next) = None;
        forget_old(&mut *self.nonces.lock().await);
    }

    async fn admit(&self, datagram: &[u8], from: SocketAddr) -> Admission {
        const OPEN: Admission = Admission::Handle(Verdict(None));
        if ChannelData::is_channel_data(datagram) {
            return OPEN;
        }
        let mut message = Message { raw: datagram.to_vec(), ..Message::default() };
        if message.decode().is_err() {
            return Admission::Drop;
        }
        let method = message.typ.method;
        let needs_credentials =
            [METHOD_ALLOCATE, METHOD_REFRESH, METHOD_CREATE_PERMISSION, METHOD_CHANNEL_BIND]
                .contains(&method);
        // Without a MAC it is only told the nonce.
        if message.typ.class != CLASS_REQUEST
            || !needs_credentials
            || !message.contains(ATTR_MESSAGE_INTEGRITY)
        {
            return OPEN;
        }
        // Pairs of ports are for RTP. The crate would look for one as long as it takes.
        if message.contains(ATTR_EVEN_PORT) || message.contains(ATTR_RESERVATION_TOKEN) {
            return Admission::Drop;
        }
        let refused = || {
            self.ledger.counters.refuse();
            OPEN
        };
        let Ok(username) = TextAttribute::get_from_as(&message, ATTR_USERNAME) else { return refused() };
        let Some((until, label)) = credentials::parse(&username.text) else { return refused() };
        let password = self.credentials.password(&username.text);
        let key = generate_auth_key(&username.text, REALM, &password);
        if MessageIntegrity(key.clone()).check(&mut message).is_err() {
            return refused();
        }
        let now_unix_s = unix_s();
        let meter = if method == METHOD_ALLOCATE {
            if until < now_unix_s {
                return refused();
            }
            self.ledger.open(label, until, now_unix_s)
        } else {
            // Only whoever allocated may go on, then also after the credentials ended: as with coturn, a link
            // does not break for that. It breaks when the quota is used up.
            if self.owner(from).await.as_deref() != Some(label) {
                return refused();
            }
            self.ledger.find(label).filter(|meter| !meter.is_spent())
        };
        let Some(meter) = meter else { return refused() };
        if !meter.request(Instant::now()) {
            return Admission::Drop;
        }
        if method == METHOD_ALLOCATE {
            *lock(&self.next) = Some(meter);
        }
        Admission::Handle(Verdict(Some(key)))
    }

    /// The session whose allocation a client uses.
    async fn owner(&self, from: SocketAddr) -> Option<String> {
        let five_tuple = FiveTuple { protocol: PROTO_UDP, src_addr: from, dst_addr: self.address };
        let found = self.manager.get_allocations_info(Some(vec![five_tuple])).await;
        let (_, label) = credentials::parse(&found.get(&five_tuple)?.username)?;
        Some(label.to_owned())
    }
}

/// Forgets the older half of too many nonces.
fn forget_old(nonces: &mut HashMap<String, tokio::time::Instant>) {
    if nonces.len() > MAX_NONCES {
        let mut times: Vec<_> = nonces.values().copied().collect();
        let (_, median, _) = times.select_nth_unstable(MAX_NONCES / 2);
        let median = *median;
        nonces.retain(|_, made| *made > median);
    }
}

pub(super) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The socket that clients send to. Clients with IPv4 are known by it, also where the socket is one for both
/// families.
#[derive(Debug)]
struct Listening(UdpSocket);

#[async_trait]
impl Conn for Listening {
    async fn connect(&self, _: SocketAddr) -> webrtc_util::Result<()> {
        Err(unused())
    }

    async fn recv(&self, _: &mut [u8]) -> webrtc_util::Result<usize> {
        Err(unused())
    }

    async fn recv_from(&self, buf: &mut [u8]) -> webrtc_util::Result<(usize, SocketAddr)> {
        let (bytes, from) = self.0.recv_from(buf).await?;
        Ok((bytes, SocketAddr::new(from.ip().to_canonical(), from.port())))
    }

    async fn send(&self, _: &[u8]) -> webrtc_util::Result<usize> {
        Err(unused())
    }

    async fn send_to(&self, buf: &[u8], target: SocketAddr) -> webrtc_util::Result<usize> {
        let target = match target.ip() {
            IpAddr::V4(ip) if self.0.local_addr()?.is_ipv6() => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), target.port())
            }
            _ => target,
        };
        Ok(self.0.send_to(buf, target).await?)
    }

    fn local_addr(&self) -> webrtc_util::Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        None
    }

    async fn close(&self) -> webrtc_util::Result<()> {
        // The crate closes it with each allocation.
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_nonces_the_older_half_is_forgotten() {
        let start = tokio::time::Instant::now();
        let made = |number: usize| start + Duration::from_micros(number as u64);
        let mut nonces: HashMap<_, _> =
            (0..MAX_NONCES).map(|number| (number.to_string(), made(number))).collect();
        forget_old(&mut nonces);
        assert_eq!(nonces.len(), MAX_NONCES);
        nonces.insert("last".to_owned(), made(MAX_NONCES));
        forget_old(&mut nonces);
        assert_eq!(nonces.len(), MAX_NONCES / 2);
        assert!(nonces.contains_key("last") && !nonces.contains_key("0"));
    }
}
