//! Relayed sockets: what an allocation sends and receives, counted and filtered.

use super::ledger::{Ledger, Meter, Slot, lock};
use super::peers;
use async_trait::async_trait;
use std::any::Any;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;
use turn::relay::RelayAddressGenerator;
use webrtc_util::Conn;

/// Ports that are tried for an allocation, one after the other, from a random one on.
const PORT_TRIES: u32 = 64;

/// For whom the next allocation is. The server handles one request after the other, so there is only one.
pub(super) type Next = Arc<Mutex<Option<Arc<Meter>>>>;

/// Opens relayed sockets.
pub(super) struct Generator {
    pub(super) ledger: Arc<Ledger>,
    pub(super) next: Next,
}

impl Generator {
    async fn open(&self, use_ipv4: bool) -> Option<Relayed> {
        let plan = &self.ledger.plan;
        // IPv4 is also what clients get that name no family.
        if !use_ipv4 && plan.public_ip.is_ipv4() {
            return None;
        }
        let meter = lock(&self.next).take()?;
        let mut slot = self.ledger.slot(&meter)?;
        let (first, last) = plan.ports;
        let ports = u32::from(last - first) + 1;
        let start = getrandom::u32().ok()? % ports;
        for offset in 0..PORT_TRIES.min(ports) {
            let port = first + ((start + offset) % ports) as u16;
            if let Ok(socket) = UdpSocket::bind((plan.bind, port)).await {
                slot.relays(port);
                return Some(Relayed { socket, port, slot });
            }
        }
        None
    }
}

#[async_trait]
impl RelayAddressGenerator for Generator {
    fn validate(&self) -> Result<(), turn::Error> {
        Ok(())
    }

    async fn allocate_conn(
        &self,
        use_ipv4: bool,
        _requested_port: u16,
    ) -> Result<(Arc<dyn Conn + Send + Sync>, SocketAddr), turn::Error> {
        let Some(relayed) = self.open(use_ipv4).await else {
            self.ledger.counters.refuse();
            return Err(turn::Error::ErrMaxRetriesExceeded);
        };
        let address = SocketAddr::new(self.ledger.plan.public_ip, relayed.port);
        Ok((Arc::new(relayed), address))
    }
}

/// The socket of one allocation.
#[derive(Debug)]
struct Relayed {
    socket: UdpSocket,
    port: u16,
    slot: Slot,
}

impl Relayed {
    /// Where relayed sockets of this server reach each other: not every router returns what a host sends to
    /// its own public address.
    fn inside(&self) -> IpAddr {
        match self.slot.ledger.plan.bind {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        }
    }

    fn is_refused(&self, ip: IpAddr) -> bool {
        let plan = &self.slot.ledger.plan;
        !plan.allow_private_peers && (peers::is_private(ip) || ip == plan.public_ip)
    }

    /// Where a datagram to a peer goes, if it may.
    fn toward(&self, peer: SocketAddr) -> Option<SocketAddr> {
        let ledger = &self.slot.ledger;
        let ip = peer.ip().to_canonical();
        if ip == ledger.plan.public_ip && ledger.is_relayed(peer.port()) {
            return Some(SocketAddr::new(self.inside(), peer.port()));
        }
        (!self.is_refused(ip)).then_some(SocketAddr::new(ip, peer.port()))
    }

    /// Who sent a datagram, if it may.
    fn origin(&self, source: SocketAddr) -> Option<SocketAddr> {
        let ledger = &self.slot.ledger;
        let ip = source.ip().to_canonical();
        if ip == self.inside() && ledger.is_relayed(source.port()) {
            return Some(SocketAddr::new(ledger.plan.public_ip, source.port()));
        }
        (!self.is_refused(ip)).then_some(SocketAddr::new(ip, source.port()))
    }
}

#[async_trait]
impl Conn for Relayed {
    async fn connect(&self, _: SocketAddr) -> webrtc_util::Result<()> {
        Err(unused())
    }

    async fn recv(&self, _: &mut [u8]) -> webrtc_util::Result<usize> {
        Err(unused())
    }

    async fn recv_from(&self, buf: &mut [u8]) -> webrtc_util::Result<(usize, SocketAddr)> {
        loop {
            let (bytes, source) = match self.socket.recv_from(buf).await {
                Ok(received) => received,
                // On some systems: an earlier datagram found nobody.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                Err(error) => return Err(error.into()),
            };
            match self.origin(source) {
                Some(source) if self.slot.spend(bytes) => return Ok((bytes, source)),
                _ => self.slot.ledger.counters.refuse(),
            }
        }
    }

    async fn send(&self, _: &[u8]) -> webrtc_util::Result<usize> {
        Err(unused())
    }

    async fn send_to(&self, buf: &[u8], target: SocketAddr) -> webrtc_util::Result<usize> {
        match self.toward(target) {
            Some(target) if self.slot.spend(buf.len()) => Ok(self.socket.send_to(buf, target).await?),
            _ => {
                self.slot.ledger.counters.refuse();
                // As if it were lost on its way.
                Ok(buf.len())
            }
        }
    }

    fn local_addr(&self) -> webrtc_util::Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        None
    }

    async fn close(&self) -> webrtc_util::Result<()> {
        // It closes when the allocation is dropped.
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}

/// Nothing here has one fixed peer.
pub(super) fn unused() -> webrtc_util::Error {
    io::Error::from(io::ErrorKind::Unsupported).into()
}
