//! The server on loopback, with the crate's client and with requests written by hand.

use super::settings::TurnConfig;
use super::*;
use crate::Config;
use std::net::IpAddr;
use std::time::Duration as StdDuration;
use stun::attributes::{
    ATTR_ERROR_CODE, ATTR_EVEN_PORT, ATTR_NONCE, ATTR_REALM, ATTR_USERNAME, ATTR_XORMAPPED_ADDRESS,
};
use stun::error_code::{CODE_BAD_REQUEST, CODE_INSUFFICIENT_CAPACITY, ErrorCodeAttribute};
use stun::integrity::MessageIntegrity;
use stun::message::{
    BINDING_REQUEST, CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, Getter as _, METHOD_ALLOCATE,
    METHOD_CREATE_PERMISSION, METHOD_REFRESH, Message, MessageType, Method, Setter,
};
use stun::textattrs::TextAttribute;
use tokio::net::UdpSocket;
use tokio::time::timeout;
use turn::client::{Client, ClientConfig};
use turn::proto::PROTO_UDP;
use turn::proto::lifetime::Lifetime;
use turn::proto::peeraddr::PeerAddress;
use turn::proto::reqtrans::RequestedTransport;
use webrtc_util::Conn;

/// Nothing on loopback takes longer.
const LIMIT: StdDuration = StdDuration::from_secs(20);
/// A datagram that did not come by then is sent again.
const AGAIN: StdDuration = StdDuration::from_secs(1);

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("it takes too long")
}

/// Waits until a condition holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(StdDuration::from_millis(2)).await;
    }
}

fn config() -> TurnConfig {
    TurnConfig {
        listen: Some(([127, 0, 0, 1], 0).into()),
        bytes_per_s_per_session: 1_000_000_000,
        allow_private_peers: true,
        ..TurnConfig::default()
    }
}

async fn serve(config: TurnConfig) -> (TurnServers, Server) {
    let (servers, server) = start(Some(&config)).await.unwrap();
    (servers, server.unwrap())
}

/// Name and password of a session.
fn credentials(servers: &TurnServers, session: u64, now_unix_s: u64) -> (String, String) {
    let (servers, _) = servers.for_session(SessionId(session), now_unix_s);
    let turn = servers.into_iter().find(|server| !server.username.is_empty()).unwrap();
    (turn.username, turn.credential)
}

async fn client(server: SocketAddr, (username, password): (String, String)) -> Client {
    let conn = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(ClientConfig {
        stun_serv_addr: server.to_string(),
        turn_serv_addr: server.to_string(),
        username,
        password,
        realm: String::new(),
        software: String::new(),
        rto_in_ms: 0,
        conn: Arc::new(conn),
        vnet: None,
    });
    let client = client.await.unwrap();
    client.listen().await.unwrap();
    client
}

/// An allocation of a session, with the client that keeps it.
async fn allocate(
    servers: &TurnServers,
    server: &Server,
    session: u64,
) -> Option<(Client, impl Conn + use<>)> {
    let client = client(server.address, credentials(servers, session, server::unix_s())).await;
    let conn = within(client.allocate()).await.ok()?;
    Some((client, conn))
}

/// Sends until it comes back.
async fn echo(conn: &impl Conn, peer: SocketAddr, bytes: &[u8]) {
    let mut buffer = [0; 2048];
    for _ in 0..20 {
        within(conn.send_to(bytes, peer)).await.unwrap();
        while let Ok(received) = timeout(AGAIN, conn.recv_from(&mut buffer)).await {
            let (length, from) = received.unwrap();
            assert_eq!(from, peer);
            if buffer[..length] == *bytes {
                return;
            }
        }
    }
    panic!("nothing comes back from {peer}");
}

/// Sends everything back, once it has told the peer hello.
fn answer(conn: impl Conn + Send + Sync + 'static, peer: SocketAddr) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        // The server lets in only whom one has sent to.
        conn.send_to(b"hello", peer).await.unwrap();
        while let Ok((length, from)) = conn.recv_from(&mut buffer).await {
            conn.send_to(&buffer[..length], from).await.unwrap();
        }
    })
}

#[tokio::test]
async fn volunteers_are_told_the_servers() {
    let text = "listen = \"127.0.0.1:0\"\n[[servers]]\nurls = [\"turn:turn.example.org:3478?transport=udp\"]\n\
        secret = \"north\"\n[[servers]]\nurls = [\"stun:stun.example.org\"]";
    let (servers, server) = serve(toml::from_str(text).unwrap()).await;
    let (told, valid_for) = servers.for_session(SessionId(1), 1_700_000_000);
    assert_eq!(valid_for, Duration::from_secs(3600));
    let urls: Vec<_> = told.iter().flat_map(|server| &server.urls).map(String::as_str).collect();
    let port = server.address.port();
    assert_eq!(
        urls,
        [
            &format!("stun::{port}"),
            &format!("turn::{port}?transport=udp"),
            "turn:turn.example.org:3478?transport=udp",
            "stun:stun.example.org",
        ]
    );
    let [stun, own, other, other_stun] = &told[..] else { panic!("{told:?}") };
    assert!(stun.username.is_empty() && other_stun.username.is_empty() && other_stun.credential.is_empty());
    let label = own.username.strip_prefix("1700003600:").unwrap();
    assert_eq!((label.len(), &other.username), (2 * LABEL_BYTES, &own.username));
    assert_eq!(other.credential, Credentials::new(b"north").password(&own.username));
    assert_ne!(other.credential, own.credential);
    let (again, _) = servers.for_session(SessionId(1), 1_700_000_000);
    let (another, _) = servers.for_session(SessionId(2), 1_700_000_000);
    assert!(again == told && another[1].username != own.username);
    server.stop().await;

    let named = TurnConfig { public_ip: Some([203, 0, 113, 7].into()), ..config() };
    let (servers, server) = serve(named).await;
    let (told, _) = servers.for_session(SessionId(1), 0);
    assert_eq!(told[0].urls, [format!("stun:203.0.113.7:{}", server.address.port())]);
    assert_eq!(told[1].urls, [format!("turn:203.0.113.7:{}?transport=udp", server.address.port())]);

    let (none, server) = start(None).await.unwrap();
    assert!(none.for_session(SessionId(1), 0).0.is_empty() && server.is_none());
}

#[tokio::test]
async fn two_volunteers_exchange_a_megabyte() {
    let (servers, server) = serve(config()).await;
    let (client_a, a) = allocate(&servers, &server, 1).await.unwrap();
    let (client_b, b) = allocate(&servers, &server, 2).await.unwrap();
    assert_eq!(servers.totals().allocations, 2);
    let address_b = b.local_addr().unwrap();
    let answering = answer(b, a.local_addr().unwrap());
    let chunk =
        |number: u32| -> Vec<u8> { (0..250).flat_map(|word| (number * 250 + word).to_le_bytes()).collect() };
    for number in 0..1000 {
        echo(&a, address_b, &chunk(number)).await;
    }
    // Out of one allocation, into the other, and back.
    assert!(servers.totals().bytes >= 4_000_000, "{:?}", servers.totals());
    within(a.close()).await.unwrap();
    until("an allocation ends", || servers.totals().allocations == 1).await;
    answering.abort();
    client_a.close().await.unwrap();
    client_b.close().await.unwrap();
    server.stop().await;
    until("the server ends", || servers.totals().allocations == 0).await;
}

#[tokio::test]
async fn allocations_reach_each_other_under_an_address_that_is_not_this_machines() {
    let public_ip = IpAddr::from([203, 0, 113, 7]);
    let (servers, server) =
        serve(TurnConfig { public_ip: Some(public_ip), allow_private_peers: false, ..config() }).await;
    let (_client_a, a) = allocate(&servers, &server, 1).await.unwrap();
    let (_client_b, b) = allocate(&servers, &server, 2).await.unwrap();
    let address_b = b.local_addr().unwrap();
    assert_eq!(address_b.ip(), public_ip);
    let answering = answer(b, a.local_addr().unwrap());
    echo(&a, address_b, b"over there").await;
    // Other ports of that address are the operator's.
    let refused = servers.totals().refused;
    within(a.send_to(b"?", (public_ip, 9).into())).await.unwrap();
    until("a datagram is refused", || servers.totals().refused > refused).await;
    answering.abort();
}

#[tokio::test]
async fn clients_of_both_families_are_served_by_one_socket() {
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
    let (servers, server) =
        serve(TurnConfig { listen: Some(any), public_ip: Some([127, 0, 0, 1].into()), ..config() }).await;
    let address = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    let client = client(address, credentials(&servers, 1, server::unix_s())).await;
    let mapped = within(client.send_binding_request()).await.unwrap();
    assert!(mapped.ip().is_ipv4() && mapped.ip().is_loopback(), "{mapped}");
    let conn = within(client.allocate()).await.unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    within(conn.send_to(b"out", peer.local_addr().unwrap())).await.unwrap();
    let mut buffer = [0; 16];
    let (length, from) = within(peer.recv_from(&mut buffer)).await.unwrap();
    assert_eq!((&buffer[..length], from), (&b"out"[..], conn.local_addr().unwrap()));
}

#[tokio::test]
async fn wrong_and_ended_credentials_are_refused() {
    let (servers, server) = serve(config()).await;
    let now = server::unix_s();
    let (username, password) = credentials(&servers, 1, now);
    let (other_start, other_server) = serve(config()).await;
    let wrong = [
        (username.clone(), "x".to_owned()),
        (username.clone(), credentials(&servers, 2, now).1),
        (username.replace(':', ":0"), password.clone()),
        (format!("{}:0123456789abcdef", now + 9999), password.clone()),
        ("nobody".to_owned(), password.clone()),
        credentials(&other_start, 1, now),
        // An hour and a minute ago.
        credentials(&servers, 1, now - 3660),
    ];
    for (tried, pair) in wrong.into_iter().enumerate() {
        let client = client(server.address, pair).await;
        assert!(within(client.allocate()).await.is_err(), "{tried}");
        let TurnTotals { allocations, bytes, refused } = servers.totals();
        assert!(allocations == 0 && bytes == 0 && refused > tried as u64, "{tried}");
    }
    let client = client(server.address, (username, password)).await;
    assert!(within(client.allocate()).await.is_ok());
    other_server.stop().await;
}

#[tokio::test]
async fn a_session_has_only_so_many_allocations() {
    let limits = TurnConfig { max_allocations: 3, max_allocations_per_session: 2, ..config() };
    let (servers, server) = serve(limits).await;
    let first = allocate(&servers, &server, 1).await.unwrap();
    let _second = allocate(&servers, &server, 1).await.unwrap();
    assert!(allocate(&servers, &server, 1).await.is_none());
    let _third = allocate(&servers, &server, 2).await.unwrap();
    assert!(allocate(&servers, &server, 3).await.is_none());
    within(first.1.close()).await.unwrap();
    until("an allocation ends", || servers.totals().allocations == 2).await;
    assert!(allocate(&servers, &server, 3).await.is_some());
    assert!(servers.totals().refused >= 2);
}

#[tokio::test]
async fn ports_are_those_of_the_range() {
    let (servers, server) = serve(TurnConfig { ports: [21_421, 21_422], ..config() }).await;
    let mut ports = Vec::new();
    let mut held = Vec::new();
    for session in 0..3 {
        if let Some((client, conn)) = allocate(&servers, &server, session).await {
            ports.push(conn.local_addr().unwrap().port());
            held.push((client, conn));
        }
    }
    ports.sort_unstable();
    assert_eq!(ports, [21_421, 21_422]);
    assert!(servers.totals().allocations == 2 && servers.totals().refused >= 1);
}

/// Counts what waits at a socket.
fn arrived(peer: &UdpSocket) -> usize {
    let mut buffer = [0; 2048];
    std::iter::from_fn(|| peer.try_recv(&mut buffer).ok()).count()
}

#[tokio::test]
async fn the_quota_ends_what_a_session_has_relayed() {
    let (servers, server) = serve(TurnConfig { bytes_per_session: 20_500, ..config() }).await;
    let (client, conn) = allocate(&servers, &server, 1).await.unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    peer.writable().await.unwrap();
    for _ in 0..50 {
        within(conn.send_to(&[7; 1000], peer.local_addr().unwrap())).await.unwrap();
    }
    // The server does one after the other: what was sent before is done when this is answered.
    within(client.send_binding_request()).await.unwrap();
    peer.readable().await.unwrap();
    let refused = servers.totals().refused;
    assert_eq!((arrived(&peer), servers.totals().bytes), (20, 20_000));
    assert!(refused >= 30, "{refused}");
    // Nor does anything come in.
    for _ in 0..100 {
        peer.send_to(&[8; 100], conn.local_addr().unwrap()).await.unwrap();
    }
    until("what comes in is refused", || servers.totals().refused >= refused + 100).await;
    // Another allocation of the session does not help: not even permissions are given any more.
    let (client, second) = allocate(&servers, &server, 1).await.unwrap();
    assert!(within(second.send_to(&[9; 10], peer.local_addr().unwrap())).await.is_err());
    within(client.send_binding_request()).await.unwrap();
    assert_eq!((arrived(&peer), servers.totals().bytes), (0, 20_000));
}

#[tokio::test]
async fn nothing_passes_into_the_operators_network() {
    let (servers, server) = serve(TurnConfig { allow_private_peers: false, ..config() }).await;
    let (client, conn) = allocate(&servers, &server, 1).await.unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..5 {
        within(conn.send_to(b"in", peer.local_addr().unwrap())).await.unwrap();
    }
    within(client.send_binding_request()).await.unwrap();
    until("all is refused", || servers.totals().refused == 5).await;
    peer.send_to(b"out", conn.local_addr().unwrap()).await.unwrap();
    until("the answer is refused", || servers.totals().refused == 6).await;
    assert_eq!((arrived(&peer), servers.totals().bytes), (0, 0));
    let mut buffer = [0; 16];
    assert!(timeout(StdDuration::from_millis(50), conn.recv_from(&mut buffer)).await.is_err());
}

/// A client that writes its own requests.
struct Hand {
    socket: UdpSocket,
    server: SocketAddr,
    nonce: String,
}

impl Hand {
    async fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut hand = Self { socket, server, nonce: String::new() };
        let told = hand.send(&message(METHOD_ALLOCATE, &[])).await.unwrap();
        hand.nonce = TextAttribute::get_from_as(&told, ATTR_NONCE).unwrap().text;
        hand
    }

    /// Sends a datagram, and returns the answer if there is one: a binding request that is sent behind is
    /// always answered.
    async fn send(&self, datagram: &[u8]) -> Option<Message> {
        self.socket.send_to(datagram, self.server).await.unwrap();
        let mut binding = Message::new();
        binding.new_transaction_id().unwrap();
        binding.set_type(BINDING_REQUEST);
        binding.write_header();
        self.socket.send_to(&binding.raw, self.server).await.unwrap();
        let mut answer = None;
        loop {
            let mut buffer = [0; 2048];
            let (length, _) = within(self.socket.recv_from(&mut buffer)).await.unwrap();
            let mut message = Message { raw: buffer[..length].to_vec(), ..Message::default() };
            message.decode().unwrap();
            if message.transaction_id == binding.transaction_id {
                assert!(message.contains(ATTR_XORMAPPED_ADDRESS));
                return answer;
            }
            answer = Some(message);
        }
    }

    fn request(
        &self,
        method: Method,
        (username, password): &(String, String),
        attributes: Vec<Box<dyn Setter>>,
    ) -> Vec<u8> {
        let mut all = attributes;
        all.push(Box::new(TextAttribute::new(ATTR_USERNAME, username.clone())));
        all.push(Box::new(TextAttribute::new(ATTR_REALM, server::REALM.to_owned())));
        all.push(Box::new(TextAttribute::new(ATTR_NONCE, self.nonce.clone())));
        let realm = server::REALM.to_owned();
        all.push(Box::new(MessageIntegrity::new_long_term_integrity(
            username.clone(),
            realm,
            password.clone(),
        )));
        message(method, &all)
    }

    async fn ask(
        &self,
        method: Method,
        credentials: &(String, String),
        attributes: Vec<Box<dyn Setter>>,
    ) -> Option<Result<(), u16>> {
        let request = self.request(method, credentials, attributes);
        let answer = self.send(&request).await?;
        assert_eq!(answer.typ.method, method);
        if answer.typ.class == CLASS_SUCCESS_RESPONSE {
            return Some(Ok(()));
        }
        assert!(answer.contains(ATTR_ERROR_CODE));
        let mut error = ErrorCodeAttribute::default();
        error.get_from(&answer).unwrap();
        Some(Err(error.code.0))
    }
}

fn message(method: Method, attributes: &[Box<dyn Setter>]) -> Vec<u8> {
    let mut message = Message::new();
    message.new_transaction_id().unwrap();
    message.set_type(MessageType::new(method, CLASS_REQUEST));
    message.write_header();
    for attribute in attributes {
        attribute.add_to(&mut message).unwrap();
    }
    message.raw
}

fn udp() -> Vec<Box<dyn Setter>> {
    vec![Box::new(RequestedTransport { protocol: PROTO_UDP })]
}

fn peer(last: u8) -> Vec<Box<dyn Setter>> {
    vec![Box::new(PeerAddress { ip: [127, 0, 0, last].into(), port: 9 })]
}

#[tokio::test]
async fn an_allocation_obeys_only_its_session_also_after_the_credentials_ended() {
    let (servers, server) = serve(config()).await;
    let hand = Hand::new(server.address).await;
    let now = server::unix_s();
    let (own, stranger) = (credentials(&servers, 1, now), credentials(&servers, 2, now));
    let ended = credentials(&servers, 1, now - 7200);
    assert_eq!(hand.ask(METHOD_ALLOCATE, &ended, udp()).await, Some(Err(CODE_BAD_REQUEST.0)));
    assert_eq!(hand.ask(METHOD_ALLOCATE, &own, udp()).await, Some(Ok(())));
    assert_eq!(hand.ask(METHOD_CREATE_PERMISSION, &stranger, peer(1)).await, Some(Err(CODE_BAD_REQUEST.0)));
    assert_eq!(hand.ask(METHOD_REFRESH, &stranger, vec![]).await, Some(Err(CODE_BAD_REQUEST.0)));
    assert_eq!(hand.ask(METHOD_CREATE_PERMISSION, &own, peer(1)).await, Some(Ok(())));
    assert_eq!(hand.ask(METHOD_REFRESH, &ended, vec![]).await, Some(Ok(())));
    assert_eq!(servers.totals().allocations, 1);
    let zero: Vec<Box<dyn Setter>> = vec![Box::new(Lifetime(StdDuration::ZERO))];
    assert_eq!(hand.ask(METHOD_REFRESH, &ended, zero).await, Some(Ok(())));
    until("the allocation ends", || servers.totals().allocations == 0).await;
}

#[tokio::test]
async fn what_a_session_could_pile_up_is_bounded() {
    let (servers, server) = serve(config()).await;
    let hand = Hand::new(server.address).await;
    let own = credentials(&servers, 1, server::unix_s());
    assert_eq!(hand.ask(METHOD_ALLOCATE, &own, udp()).await, Some(Ok(())));
    let mut made = 0;
    for last in 0..200 {
        made += usize::from(hand.ask(METHOD_CREATE_PERMISSION, &own, peer(last)).await.is_some());
    }
    // The burst, and what came back meanwhile.
    assert!((127..150).contains(&made), "{made}");
    // Others are not kept from theirs.
    let (other, another) = (Hand::new(server.address).await, credentials(&servers, 2, server::unix_s()));
    assert_eq!(other.ask(METHOD_ALLOCATE, &another, udp()).await, Some(Ok(())));
}

#[tokio::test]
async fn odd_datagrams_do_no_harm() {
    // Of two ports, none is even: whoever looks for one, looks for long.
    let (servers, server) = serve(TurnConfig { ports: [21_431, 21_431], ..config() }).await;
    let hand = Hand::new(server.address).await;
    let own = credentials(&servers, 1, server::unix_s());
    let even: Vec<Box<dyn Setter>> = vec![
        Box::new(RequestedTransport { protocol: PROTO_UDP }),
        Box::new(stun::attributes::RawAttribute { typ: ATTR_EVEN_PORT, length: 1, value: vec![0x80] }),
    ];
    assert_eq!(hand.ask(METHOD_ALLOCATE, &own, even).await, None);
    assert_eq!(servers.totals().refused, 1);
    assert!(hand.send(&[0; 1501]).await.is_none() && servers.totals().refused == 2);

    // Every request, with bytes changed and cut.
    let whole = [
        hand.request(METHOD_ALLOCATE, &own, udp()),
        hand.request(METHOD_REFRESH, &own, vec![Box::new(Lifetime(StdDuration::from_mins(10)))]),
        hand.request(METHOD_CREATE_PERMISSION, &own, peer(1)),
        message(METHOD_ALLOCATE, &udp()),
        vec![0x40, 0, 0, 4, 1, 2, 3, 4],
    ];
    let mut state = 1u32;
    let mut random = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for round in 0..4000 {
        let mut datagram = whole[round % whole.len()].clone();
        for _ in 0..=random(3) {
            let at = random(datagram.len());
            datagram[at] = random(256) as u8;
        }
        if random(4) == 0 {
            datagram.truncate(random(datagram.len()));
        }
        hand.send(&datagram).await;
    }
    let second = Hand::new(server.address).await;
    let another = credentials(&servers, 2, server::unix_s());
    // Chance may have left one that was whole.
    let expected = [Some(Ok(())), Some(Err(CODE_INSUFFICIENT_CAPACITY.0))];
    let got = second.ask(METHOD_ALLOCATE, &another, udp()).await;
    assert!(expected.contains(&got), "{got:?}");
}

#[tokio::test]
async fn the_relay_serves_turn_while_it_runs() {
    let relay = |listen: SocketAddr| {
        let data = tempfile::tempdir().unwrap();
        let turn = Some(TurnConfig { listen: Some(listen), ..config() });
        let listen = ([127, 0, 0, 1], 0).into();
        (Config { listen, data: data.path().to_owned(), turn, ..Config::default() }, data)
    };
    let (config, _data) = relay(([127, 0, 0, 1], 0).into());
    let running = crate::start(config).await.unwrap();
    let address = running.turn_address().unwrap();
    let client = client(address, (String::new(), String::new())).await;
    assert!(within(client.send_binding_request()).await.unwrap().ip().is_loopback());
    let (second, _second_data) = relay(address);
    let error = crate::start(second).await.unwrap_err();
    assert!(matches!(error, StartError::Turn { .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let wildcard = SocketAddr::from(([0, 0, 0, 0], 0));
    let (third, _third_data) = relay(wildcard);
    let error = crate::start(third).await.unwrap_err();
    assert!(error.to_string().contains("public_ip"), "{error}");
    running.shut_down().await;
    assert!(UdpSocket::bind(address).await.is_ok());
}
