//! The lab of network namespaces is what it says: who reaches whom, from which address, and that nothing of it stays.

use potluck_tests::netns::{Host, Lab, Net, Traffic};
use potluck_tests::wait_until;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time for one datagram to come back on a busy machine.
const ANSWER: Duration = Duration::from_millis(200);
/// Datagrams until a way counts as closed: nothing is lost here, but the first may wait for ARP.
const TRIES: usize = 10;
/// Time for what must happen.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest datagram of these tests.
const LONGEST: usize = 64;

/// Tells everyone where its datagrams come from, as a STUN server does.
struct Reflector {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reflector {
    fn start(host: &Host) -> Self {
        let socket = udp(host);
        let address = socket.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let heeded = Arc::clone(&stop);
        let serve = move || {
            while !heeded.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut [0; LONGEST]) {
                    socket.send_to(from.to_string().as_bytes(), from).unwrap();
                }
            }
        };
        Self { address, stop, thread: Some(std::thread::spawn(serve)) }
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn udp(host: &Host) -> UdpSocket {
    let socket = host.within(|| UdpSocket::bind((host.address(), 0)).unwrap());
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    socket
}

/// The address under which a reflector sees a socket; `None` if no datagram comes back.
fn seen(socket: &UdpSocket, by: &Reflector) -> Option<SocketAddr> {
    (0..TRIES).find_map(|_| {
        socket.send_to(b"?", by.address).ok()?;
        let mut text = [0; LONGEST];
        let (length, from) = socket.recv_from(&mut text).ok()?;
        assert_eq!(from, by.address);
        Some(std::str::from_utf8(&text[..length]).unwrap().parse().unwrap())
    })
}

/// Both send to the address that the reflector saw of the other. Who of them hears the other?
fn punch(hosts: [&Host; 2], by: &Reflector) -> [bool; 2] {
    let sockets = hosts.map(udp);
    let addresses =
        [&sockets[0], &sockets[1]].map(|socket| seen(socket, by).expect("both reach the reflector"));
    let mut heard = [false; 2];
    for _ in 0..TRIES {
        for (me, socket) in sockets.iter().enumerate() {
            socket.send_to(&[me as u8], addresses[1 - me]).unwrap();
        }
        for (me, socket) in sockets.iter().enumerate() {
            let mut byte = [0];
            // Answers of the reflector that came late are longer, and from another address.
            heard[me] |= socket.recv_from(&mut byte).is_ok_and(|(_, from)| from == addresses[1 - me]);
        }
        if heard == [true; 2] {
            break;
        }
    }
    heard
}

/// A server that sends back what it gets, to one client.
fn echo(host: &Host) -> SocketAddr {
    let listener = host.within(|| TcpListener::bind((host.address(), 0)).unwrap());
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = stream.try_clone().unwrap();
        // The client's end is this one's too.
        drop(std::io::copy(&mut reader, &mut stream));
    });
    address
}

fn connect(from: &Host, to: SocketAddr) -> TcpStream {
    let stream = from.within(|| TcpStream::connect_timeout(&to, LIMIT).unwrap());
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn echoes(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

fn namespaces() -> String {
    let output = Command::new("ip").args(["netns", "list"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn public_hosts_reach_each_other_and_see_their_own_addresses() {
    let Some(mut lab) = Lab::new() else { return };
    let [a, b] = ["a", "b"].map(|name| lab.host(name, Net::Public));
    let (reflector, socket) = (Reflector::start(&b), udp(&a));
    assert_eq!(seen(&socket, &reflector), Some(socket.local_addr().unwrap()));
    assert_eq!(punch([&a, &b], &reflector), [true; 2]);
    echoes(&mut connect(&a, echo(&b)), b"over TCP");
}

#[test]
fn a_plain_router_keeps_one_port_for_all_and_can_be_punched() {
    let Some(mut lab) = Lab::new() else { return };
    let reflectors = ["x", "y"].map(|name| Reflector::start(&lab.host(name, Net::Public)));
    let [a, b] = ["a", "b"].map(|name| lab.host(name, Net::Nat));
    assert_ne!(a.address(), a.public_address());
    let socket = udp(&a);
    let public = SocketAddr::from((a.public_address(), socket.local_addr().unwrap().port()));
    assert_eq!([0, 1].map(|one| seen(&socket, &reflectors[one])), [Some(public); 2]);
    // Nobody inside asked for this one: it does not arrive.
    let stranger = udp(&b);
    stranger.send_to(b"!", public).unwrap();
    assert!(socket.recv_from(&mut [0; LONGEST]).is_err());
    assert_eq!(punch([&a, &b], &reflectors[0]), [true; 2]);
}

#[test]
fn a_symmetric_router_has_another_port_for_everybody_and_cannot_be_punched() {
    let Some(mut lab) = Lab::new() else { return };
    let reflectors = ["x", "y"].map(|name| Reflector::start(&lab.host(name, Net::Public)));
    let [a, b] = ["a", "b"].map(|name| lab.host(name, Net::SymmetricNat));
    let socket = udp(&a);
    let [first, second] = [0, 1].map(|one| seen(&socket, &reflectors[one]).unwrap());
    println!("one socket, seen as {first} and as {second}");
    assert_eq!([first, second].map(|address| address.ip()), [a.public_address(); 2]);
    assert_ne!(first.port(), second.port());
    assert_eq!(punch([&a, &b], &reflectors[0]), [false; 2]);
    let plain = lab.host("plain", Net::Nat);
    assert_eq!(punch([&a, &plain], &reflectors[0]), [false; 2]);
}

#[test]
fn where_udp_is_blocked_tcp_passes() {
    let Some(mut lab) = Lab::new() else { return };
    let server = lab.host("server", Net::Public);
    let a = lab.host("a", Net::UdpBlocked);
    echoes(&mut connect(&a, echo(&server)), b"over TCP");
    assert_eq!(seen(&udp(&a), &Reflector::start(&server)), None);
}

#[test]
fn a_connection_outlives_a_pulled_cable() {
    let Some(mut lab) = Lab::new() else { return };
    let server = lab.host("server", Net::Public);
    for net in [Net::Public, Net::Nat] {
        let host = lab.host(&format!("{net:?}"), net);
        let mut stream = connect(&host, echo(&server));
        echoes(&mut stream, b"before");
        host.cut();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        stream.write_all(b"during").unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        host.join();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut back = [0; 6];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"during");
        echoes(&mut stream, b"after");
    }
}

#[test]
fn a_slow_link_is_slow_and_its_bytes_are_counted() {
    const BYTES: usize = 2_000_000;
    const MBIT: u32 = 16;
    let Some(mut lab) = Lab::new() else { return };
    let [server, client] = ["server", "client"].map(|name| lab.host(name, Net::Public));
    let mut stream = connect(&client, echo(&server));
    echoes(&mut stream, b"warm");
    server.shape_mbit(MBIT);
    let before = server.traffic();
    let started = Instant::now();
    echoes(&mut stream, &vec![7; BYTES]);
    let took = started.elapsed().as_secs_f64();
    let Traffic { received, sent } = server.traffic();
    // The first burst leaves at once.
    let least = (BYTES - 64_000) as f64 * 8.0 / f64::from(MBIT) / 1e6;
    println!("{BYTES} bytes at {MBIT} Mbit/s took {took:.2} s; with headers {}", sent - before.sent);
    assert!(took > least, "{took} s; a link of that speed takes {least} s");
    for counted in [received - before.received, sent - before.sent] {
        assert!((BYTES as u64..BYTES as u64 * 5 / 4).contains(&counted), "{counted}");
    }
}

#[test]
fn nothing_is_left_of_a_lab_and_others_stay() {
    let Some(mut other) = Lab::new() else { return };
    let other_host = other.host("stays", Net::Nat);
    let panicked = std::panic::catch_unwind(|| {
        let mut lab = Lab::new().unwrap();
        let host = lab.host("goes", Net::SymmetricNat);
        let child = host.command("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        wait_until("the program runs in there", LIMIT, || {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", child.id()));
            name.is_ok_and(|name| name.trim() == "sleep")
        });
        assert_eq!(namespaces().matches("-goes").count(), 2, "the host and its router");
        std::panic::resume_unwind(Box::new(child));
    });
    let mut child = panicked.unwrap_err().downcast::<std::process::Child>().unwrap();
    assert!(!child.wait().unwrap().success(), "it was killed");
    let after = namespaces();
    assert!(!after.contains("-goes"), "{after}");
    let socket = udp(&other_host);
    let reflector = Reflector::start(&other.host("reflector", Net::Public));
    assert!(seen(&socket, &reflector).is_some(), "the other lab works");
}
