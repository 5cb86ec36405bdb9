//! `[turn]` of `potluck.toml`, and what follows from it.

use potluck_types::limits::{MAX_ICE_SERVERS, MAX_TEXT_BYTES};
use serde::Deserialize;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Which STUN and TURN servers volunteers use to reach each other.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TurnConfig {
    /// UDP address of the relay's own server, for STUN and TURN alike. Without it there is none.
    pub listen: Option<SocketAddr>,
    /// Address that relayed addresses are announced with. Without it that of `listen`.
    pub public_ip: Option<IpAddr>,
    /// First and last port of relayed addresses.
    pub ports: [u16; 2],
    /// Allocations of all sessions together.
    pub max_allocations: usize,
    /// Allocations of one session.
    pub max_allocations_per_session: usize,
    /// Bytes per second that are relayed for a session, both ways together.
    pub bytes_per_s_per_session: u64,
    /// Bytes that are relayed for a session in all.
    pub bytes_per_session: u64,
    /// Relays to loopback, private and link-local addresses too.
    pub allow_private_peers: bool,
    /// Servers of others, which volunteers are told as well.
    pub servers: Vec<TurnServerConfig>,
}

impl Default for TurnConfig {
    fn default() -> Self {
        Self {
            listen: None,
            public_ip: None,
            ports: [49152, 65535],
            max_allocations: 256,
            // One for each link of a volunteer: `MAX_NEIGHBORS`.
            max_allocations_per_session: 8,
            bytes_per_s_per_session: 1_000_000,
            bytes_per_session: 2_000_000_000,
            allow_private_peers: false,
            servers: Vec::new(),
        }
    }
}

/// A STUN or TURN server that somebody else runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TurnServerConfig {
    /// Its addresses: `stun:`, `stuns:`, `turn:` and `turns:` URLs.
    pub urls: Vec<String>,
    /// What credentials are derived from: coturn's `static-auth-secret`. Not needed for STUN alone.
    #[serde(default)]
    pub secret: Option<SharedSecret>,
}

/// A secret that is shared with a server. Never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SharedSecret(pub String);

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(..)")
    }
}

/// What is wrong with `[turn]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TurnConfigError {
    /// There is nothing in it.
    #[error("[turn] has neither `listen` nor [[turn.servers]]: set one of them, or remove the section")]
    Empty,
    /// An address for a server that is not wanted.
    #[error("[turn] has `public_ip` but no `listen`: set `listen`, such as \"0.0.0.0:3478\"")]
    NoListen,
    /// Nobody can be told a wildcard.
    #[error(
        "[turn] `listen` is {0}, which names no address that volunteers could reach: set `public_ip` to the \
         one under which they reach this machine"
    )]
    NoPublicIp(SocketAddr),
    /// An address that no host has.
    #[error("[turn] `public_ip` {0} is no address of one machine")]
    PublicIp(IpAddr),
    /// IPv4 here and IPv6 there.
    #[error("[turn] `listen` {listen} and `public_ip` {public_ip} are not both IPv4 or both IPv6")]
    Families {
        /// Address to listen on.
        listen: SocketAddr,
        /// Address to announce.
        public_ip: IpAddr,
    },
    /// No ports.
    #[error("[turn] `ports` = [{0}, {1}] is no range: the first is at least 1 and at most the last")]
    Ports(u16, u16),
    /// A limit that nothing passes.
    #[error("[turn] `{0}` is 0, so nothing could be relayed: remove `listen` to have no server")]
    Zero(&'static str),
    /// More servers than volunteers read.
    #[error("[[turn.servers]] has {0} entries; at most {1} fit")]
    Servers(usize, usize),
    /// A server without, or with too many addresses.
    #[error("[[turn.servers]] has an entry with {0} `urls`; it takes 1 to {MAX_ICE_SERVERS}")]
    Urls(usize),
    /// An address that browsers refuse.
    #[error(
        "[[turn.servers]] {0:?} is no address of a server: \"stun:HOST:PORT\" or \
         \"turn:HOST:PORT?transport=udp\", of at most {MAX_TEXT_BYTES} bytes"
    )]
    Url(String),
    /// TURN without credentials.
    #[error("[[turn.servers]] {0:?} needs `secret`, coturn's static-auth-secret")]
    Secret(String),
}

/// What the relay's own server does, with every default filled in.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) listen: SocketAddr,
    /// What relayed addresses are announced with.
    pub(super) public_ip: IpAddr,
    /// Whether the operator set it.
    pub(super) public_ip_set: bool,
    /// What relayed sockets are bound to.
    pub(super) bind: IpAddr,
    pub(super) ports: (u16, u16),
    pub(super) max_allocations: usize,
    pub(super) max_allocations_per_session: usize,
    pub(super) bytes_per_s_per_session: u64,
    pub(super) bytes_per_session: u64,
    pub(super) allow_private_peers: bool,
}

/// Volunteers are told the own server as two: STUN and TURN.
const OWN_SERVERS: usize = 2;

impl TurnConfig {
    /// Whether the settings can be used.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), TurnConfigError> {
        let plan = self.plan()?;
        if plan.is_none() && self.servers.is_empty() {
            return Err(TurnConfigError::Empty);
        }
        let room = MAX_ICE_SERVERS - if plan.is_some() { OWN_SERVERS } else { 0 };
        if self.servers.len() > room {
            return Err(TurnConfigError::Servers(self.servers.len(), room));
        }
        self.servers.iter().try_for_each(TurnServerConfig::check)
    }

    /// What the own server does, if there is one.
    pub(super) fn plan(&self) -> Result<Option<Plan>, TurnConfigError> {
        let Some(listen) = self.listen else {
            return if self.public_ip.is_some() { Err(TurnConfigError::NoListen) } else { Ok(None) };
        };
        let anywhere = listen.ip().is_unspecified();
        let public_ip = match self.public_ip {
            Some(ip) if ip.is_unspecified() || ip.is_multicast() => {
                return Err(TurnConfigError::PublicIp(ip));
            }
            Some(ip) if !anywhere && ip.is_ipv4() != listen.is_ipv4() => {
                return Err(TurnConfigError::Families { listen, public_ip: ip });
            }
            Some(ip) => ip,
            None if anywhere => return Err(TurnConfigError::NoPublicIp(listen)),
            None => listen.ip(),
        };
        let bind = match public_ip {
            _ if !anywhere => listen.ip(),
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let [first, last] = self.ports;
        if first == 0 || first > last {
            return Err(TurnConfigError::Ports(first, last));
        }
        let limits = [
            ("max_allocations", self.max_allocations as u64),
            ("max_allocations_per_session", self.max_allocations_per_session as u64),
            ("bytes_per_s_per_session", self.bytes_per_s_per_session),
            ("bytes_per_session", self.bytes_per_session),
        ];
        if let Some((name, _)) = limits.into_iter().find(|(_, limit)| *limit == 0) {
            return Err(TurnConfigError::Zero(name));
        }
        Ok(Some(Plan {
            listen,
            public_ip,
            public_ip_set: self.public_ip.is_some(),
            bind,
            ports: (first, last),
            max_allocations: self.max_allocations,
            max_allocations_per_session: self.max_allocations_per_session,
            bytes_per_s_per_session: self.bytes_per_s_per_session,
            bytes_per_session: self.bytes_per_session,
            allow_private_peers: self.allow_private_peers,
        }))
    }
}

impl TurnServerConfig {
    fn check(&self) -> Result<(), TurnConfigError> {
        if self.urls.is_empty() || self.urls.len() > MAX_ICE_SERVERS {
            return Err(TurnConfigError::Urls(self.urls.len()));
        }
        for url in &self.urls {
            let turn = match url.split_once(':') {
                Some(("stun" | "stuns", host)) if !host.is_empty() => false,
                Some(("turn" | "turns", host)) if !host.is_empty() => true,
                _ => return Err(TurnConfigError::Url(url.clone())),
            };
            let printable = url.bytes().all(|byte| byte.is_ascii_graphic());
            if url.len() > MAX_TEXT_BYTES || !printable || url.contains("//") {
                return Err(TurnConfigError::Url(url.clone()));
            }
            if turn && self.secret.as_ref().is_none_or(|secret| secret.0.is_empty()) {
                return Err(TurnConfigError::Secret(url.clone()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<TurnConfig, String> {
        let config: TurnConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn an_address_is_enough_and_the_rest_has_defaults() {
        let config = check("listen = \"192.0.2.1:3478\"").unwrap();
        let plan = config.plan().unwrap().unwrap();
        assert_eq!((plan.public_ip, plan.bind), (plan.listen.ip(), plan.listen.ip()));
        assert!(!plan.public_ip_set && !plan.allow_private_peers);
        assert_eq!(plan.ports, (49152, 65535));
        let plan =
            check("listen = \"[::]:3478\"\npublic_ip = \"192.0.2.1\"").unwrap().plan().unwrap().unwrap();
        assert_eq!(
            (plan.public_ip.to_string(), plan.bind.to_string()),
            ("192.0.2.1".into(), "0.0.0.0".into())
        );
        let only_others = "[[servers]]\nurls = [\"stun:stun.example.org:3478\"]";
        assert!(check(only_others).unwrap().plan().unwrap().is_none());
    }

    #[test]
    fn mistakes_are_named() {
        let own = "listen = \"192.0.2.1:3478\"\n";
        let cases = [
            (String::new(), "neither `listen` nor"),
            ("public_ip = \"192.0.2.1\"".into(), "no `listen`"),
            ("listen = \"0.0.0.0:3478\"".into(), "set `public_ip`"),
            ("listen = \"0.0.0.0:3478\"\npublic_ip = \"0.0.0.0\"".into(), "no address of one machine"),
            (format!("{own}public_ip = \"2001:db8::1\""), "not both IPv4"),
            (format!("{own}ports = [0, 9]"), "no range"),
            (format!("{own}ports = [10, 9]"), "no range"),
            (format!("{own}max_allocations = 0"), "`max_allocations` is 0"),
            (format!("{own}bytes_per_session = 0"), "`bytes_per_session` is 0"),
            (format!("{own}byts_per_session = 1"), "byts_per_session"),
            ("[[servers]]\nurls = []".into(), "0 `urls`"),
            ("[[servers]]\nurls = [\"http://example.org\"]".into(), "no address of a server"),
            ("[[servers]]\nurls = [\"turn:\"]".into(), "no address of a server"),
            ("[[servers]]\nurls = [\"turn://example.org\"]".into(), "no address of a server"),
            ("[[servers]]\nurls = [\"turn:example.org\"]".into(), "needs `secret`"),
            ("[[servers]]\nurl = [\"turn:example.org\"]".into(), "url"),
            (format!("{own}{}", "[[servers]]\nurls = [\"stun:example.org\"]\n".repeat(3)), "at most 2"),
            ("[[servers]]\nurls = [\"stun:example.org\"]\n".repeat(5), "at most 4"),
        ];
        for (text, expected) in cases {
            let error = check(&text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = check("[[servers]]\nurls = [\"turn:example.org\"]\nsecret = \"hush\"").unwrap();
        assert!(!format!("{config:?}").contains("hush"));
    }
}
