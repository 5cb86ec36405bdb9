//! A small internet on one machine, made of Linux network namespaces: hosts with public addresses, hosts behind
//! routers that translate addresses or let no UDP through, cables that are pulled, links that are slow.
//!
//! ```text
//!  relay 198.51.100.11 ─────┐
//!                           │ internet (a bridge, 198.51.100.0/24)
//!  a 10.12.0.2 ── router 198.51.100.12 ─┤
//!  b 10.13.0.2 ── router 198.51.100.13 ─┘
//! ```
//!
//! Needs Linux, root, `ip`, `nft`, and `tc` for slow links. Addresses are of IPv4 alone: what a test finds about a way
//! between two hosts is then due to the routers between them.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Set where a lab must be possible, such as on CI: [`Lab::new`] then fails instead of saying that it is skipped.
pub const REQUIRED: &str = "POTLUCK_REQUIRE_NETNS";
/// Hosts of one lab: their numbers are the last part of an address, and hosts behind routers begin at 10.11.
const MAX_HOSTS: u8 = 200;
/// Number of the first host; the internet itself has 1.
const FIRST_HOST: u8 = 11;
/// The namespace with the bridge.
const INTERNET: &str = "internet";
/// The cable of a host, and of a router towards the internet.
const UPLINK: &str = "eth0";
/// The cable of a router towards its host.
const INSIDE: &str = "lan0";
/// Bytes that may leave a slow link at once. At least what a rate sends in a tick of the kernel's timer: 100 Mbit/s and
/// 250 ticks/s make 50 kB. Larger packets of the local kernel (up to 64 KiB before they are cut) pass whole.
const BURST: &str = "64kb";
/// How long a packet may wait before a slow link: what a usual home router buffers.
const QUEUE: &str = "100ms";

/// How a host is connected to the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// With a public address of its own.
    Public,
    /// Behind a router that keeps ports: a socket has the same public address whomever it talks to, and hears those that
    /// it has talked to. Two of these reach each other when both speak first.
    Nat,
    /// Behind a router that gives a socket another port for every destination: what one destination sees helps no other,
    /// so two of these reach each other only through a third.
    SymmetricNat,
    /// Behind a router that forwards TCP only.
    UdpBlocked,
}

/// Namespaces, which are removed when this is dropped, with whatever still runs in them.
pub struct Lab {
    /// Unique in this machine: other labs stay as they are.
    prefix: String,
    spaces: Vec<String>,
    hosts: u8,
}

/// What [`Lab`] names its namespaces after, beside the process.
static LABS: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// An internet without hosts. `None` where this machine does not allow it; the reason is printed.
    ///
    /// # Panics
    /// The machine does not allow it and [`REQUIRED`] is set.
    pub fn new() -> Option<Self> {
        match Self::try_new() {
            Ok(lab) => Some(lab),
            Err(reason) => {
                assert!(
                    std::env::var_os(REQUIRED).is_none(),
                    "{REQUIRED} is set, and there is no lab: {reason}"
                );
                eprintln!("skipped: no network namespaces here: {reason}");
                None
            }
        }
    }

    /// As [`Lab::new`].
    ///
    /// # Errors
    /// Why there is none.
    pub fn try_new() -> Result<Self, String> {
        if !cfg!(target_os = "linux") {
            return Err("they are of Linux".into());
        }
        run(Command::new("nft").arg("--version"), "")?;
        let prefix = format!("potluck-{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let mut lab = Self { prefix, spaces: Vec::new(), hosts: 0 };
        let internet = lab.space(INTERNET)?;
        ip(
            &internet,
            "link add br0 type bridge forward_delay 0\naddr add 198.51.100.1/24 dev br0\nlink set br0 up",
        )?;
        Ok(lab)
    }

    /// A host that is connected in this way.
    ///
    /// # Panics
    /// The name was used before in this lab, there are more than [`MAX_HOSTS`], or a command fails.
    pub fn host(&mut self, name: &str, net: Net) -> Host {
        assert!(self.hosts < MAX_HOSTS, "a lab has room for {MAX_HOSTS} hosts");
        self.hosts += 1;
        let number = FIRST_HOST + self.hosts - 1;
        self.connect(name, net, number).unwrap_or_else(|error| panic!("the host {name}: {error}"))
    }

    fn connect(&mut self, name: &str, net: Net, number: u8) -> Result<Host, String> {
        let public_address = Ipv4Addr::new(198, 51, 100, number);
        let space = self.space(name)?;
        if net == Net::Public {
            let uplink = self.plug_in(&space, number)?;
            return Ok(Host { space, address: public_address, public_address, uplink });
        }
        let router = self.space(&format!("{name}-router"))?;
        self.plug_in(&router, number)?;
        let [address, gateway] = [2, 1].map(|last| Ipv4Addr::new(10, number, 0, last));
        ip(
            &router,
            &format!(
                "link add {INSIDE} type veth peer name {UPLINK} netns {space}\naddr add {gateway}/24 dev {INSIDE}\n\
                 link set {INSIDE} up"
            ),
        )?;
        ip(
            &space,
            &format!(
                "addr add {address}/24 dev {UPLINK}\nlink set {UPLINK} up\nroute add default via {gateway}"
            ),
        )?;
        run(&mut inside(&router, "nft", &["-f", "-"]), &rules(net))?;
        set(&router, "ipv4/ip_forward", 1)?;
        Ok(Host { space, address, public_address, uplink: (router, INSIDE.to_owned()) })
    }

    /// Connects a namespace to the bridge. Returns the far end of its cable.
    fn plug_in(&self, space: &str, number: u8) -> Result<(String, String), String> {
        let internet = self.name(INTERNET);
        let far = format!("port{number}");
        ip(
            &internet,
            &format!(
                "link add {far} type veth peer name {UPLINK} netns {space}\nlink set {far} master br0\nlink set {far} up"
            ),
        )?;
        ip(
            space,
            &format!(
                "addr add 198.51.100.{number}/24 dev {UPLINK}\nlink set {UPLINK} up\n\
                 route add default via 198.51.100.1"
            ),
        )?;
        Ok((internet, far))
    }

    fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    /// A namespace that has nothing but its own loopback.
    fn space(&mut self, part: &str) -> Result<String, String> {
        let name = self.name(part);
        run(Command::new("ip").args(["netns", "add", &name]), "")?;
        self.spaces.push(name.clone());
        for which in ["all", "default"] {
            // A kernel without IPv6 has no such file, and nothing to turn off.
            drop(set(&name, &format!("ipv6/conf/{which}/disable_ipv6"), 1));
        }
        ip(&name, "link set lo up")?;
        Ok(name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Programs first: a namespace lives as long as one of them. Only ours can be in it.
        for space in &self.spaces {
            let pids = run(Command::new("ip").args(["netns", "pids", space]), "").unwrap_or_default();
            pids.split_whitespace().filter_map(|pid| pid.parse().ok()).for_each(kill);
        }
        for space in self.spaces.iter().rev() {
            if let Err(error) = run(Command::new("ip").args(["netns", "del", space]), "") {
                eprintln!("{space} is left behind: {error}");
            }
        }
    }
}

/// What a router does. A packet that nobody inside asked for is dropped without an answer and without a trace: an entry of
/// it in the table of connections would take the port away from the host inside that is about to use it.
fn rules(net: Net) -> String {
    let (only, random) = match net {
        Net::UdpBlocked => ("meta l4proto tcp ", ""),
        Net::SymmetricNat => ("", " fully-random"),
        Net::Nat | Net::Public => ("", ""),
    };
    format!(
        "table ip router {{
            chain input {{
                type filter hook input priority filter; policy drop;
                iifname {INSIDE} accept
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                iifname {INSIDE} {only}accept
            }}
            chain translate {{
                type nat hook postrouting priority srcnat;
                oifname {UPLINK} masquerade{random}
            }}
        }}"
    )
}

/// A host of a [`Lab`].
#[derive(Debug, Clone)]
pub struct Host {
    space: String,
    address: Ipv4Addr,
    public_address: Ipv4Addr,
    /// Namespace and name of its cable's other end.
    uplink: (String, String),
}

/// Bytes that went over a host's cable, in packets with all their headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// To the host.
    pub received: u64,
    /// From the host.
    pub sent: u64,
}

impl Host {
    /// Its own address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The address that others see: its own, or its router's.
    pub fn public_address(&self) -> Ipv4Addr {
        self.public_address
    }

    /// A program that will run on this host. Its process id is the program's own.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space]).arg(program.as_ref());
        command
    }

    /// Runs a closure on this host. Sockets that it opens, and threads that it starts, stay there.
    ///
    /// # Panics
    /// The closure panics, or the namespace is gone.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        // A thread of its own, so that no other code of this process is moved.
        std::thread::scope(|scope| {
            let run = || {
                enter(&self.space).unwrap_or_else(|error| panic!("{}: {error}", self.space));
                work()
            };
            scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Pulls the cable: nothing arrives and nothing leaves, and nobody is told. Connections stay open.
    ///
    /// # Panics
    /// The lab is gone.
    pub fn cut(&self) {
        self.switch("down");
    }

    /// Plugs the cable in again.
    ///
    /// # Panics
    /// The lab is gone.
    pub fn join(&self) {
        self.switch("up");
    }

    fn switch(&self, state: &str) {
        // The other end: on this one the kernel would forget the routes too.
        let (space, link) = &self.uplink;
        ip(space, &format!("link set {link} {state}")).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Limits what the host sends, in Mbit/s.
    ///
    /// # Panics
    /// There is no `tc`, or the lab is gone.
    pub fn shape_mbit(&self, mbit: u32) {
        let args = format!(
            "-n {} qdisc replace dev {UPLINK} root tbf rate {mbit}mbit burst {BURST} latency {QUEUE}",
            self.space
        );
        run(Command::new("tc").args(args.split(' ')), "").unwrap_or_else(|error| panic!("{error}"));
    }

    /// Loses so many of a hundred packets, each way, by chance.
    ///
    /// # Panics
    /// The lab is gone, or the kernel cannot draw.
    pub fn loses(&self, percent: u8) {
        let lost = format!("numgen random mod 100 < {percent} drop");
        let rules = format!(
            "table ip line {{
                chain arriving {{ type filter hook input priority filter; iifname {UPLINK} {lost}; }}
                chain leaving {{ type filter hook output priority filter; oifname {UPLINK} {lost}; }}
            }}"
        );
        run(&mut inside(&self.space, "nft", &["-f", "-"]), &rules).unwrap_or_else(|error| panic!("{error}"));
    }

    /// What went over its cable so far.
    ///
    /// # Panics
    /// The lab is gone.
    pub fn traffic(&self) -> Traffic {
        let table = self.within(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
        let table = table.expect("the kernel counts");
        let line = table.lines().find_map(|line| line.trim().strip_prefix(UPLINK)?.strip_prefix(':'));
        let figures: Vec<u64> = line
            .expect("a cable")
            .split_whitespace()
            .map(|figure| figure.parse().expect("a count"))
            .collect();
        // Eight figures of what was received, then those of what was sent; bytes come first.
        Traffic { received: figures[0], sent: figures[8] }
    }
}

/// Moves this thread into a namespace.
#[cfg(target_os = "linux")]
fn enter(space: &str) -> std::io::Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::os::fd::AsFd as _;
    let file = std::fs::File::open(Path::new("/run/netns").join(space))?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

#[cfg(not(target_os = "linux"))]
fn enter(_space: &str) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Ends a process. It may have ended meanwhile.
#[cfg(target_os = "linux")]
fn kill(pid: i32) {
    use rustix::process::{Pid, Signal, kill_process};
    // This process has threads in the namespace only while `within` runs, and then the lab is not dropped.
    if let Some(pid) = Pid::from_raw(pid).filter(|pid| *pid != rustix::process::getpid()) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[cfg(not(target_os = "linux"))]
fn kill(_pid: i32) {}

/// Lines of `ip` within a namespace.
fn ip(space: &str, lines: &str) -> Result<String, String> {
    run(Command::new("ip").args(["-n", space, "-batch", "-"]), lines)
}

/// Sets a value below `/proc/sys/net`.
fn set(space: &str, name: &str, value: u8) -> Result<String, String> {
    run(&mut inside(space, "tee", &[&format!("/proc/sys/net/{name}")]), &value.to_string())
}

fn inside(space: &str, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", space, program]).args(args);
    command
}

/// Runs a program on this input; what it prints.
fn run(command: &mut Command, input: &str) -> Result<String, String> {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let words = words.join(" ".as_ref()).to_string_lossy().into_owned();
    let failed = |what: &dyn std::fmt::Display| format!("{words}: {what}");
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().map_err(|error| failed(&error))?;
    // A program that reads nothing may have ended already; its status says how.
    drop(child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(&format!("{}: {}", output.status, said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
