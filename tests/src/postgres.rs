//! A server of PostgreSQL for tests, with as many databases as they ask for. It ends with the process that started it.

use crate::POLL;
use crate::netns::Host;
use potluck_relay::StoreUrl;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Relays of tests keep their records in PostgreSQL if this variable says `postgres`.
const STORE: &str = "POTLUCK_TEST_STORE";
/// The user of Debian's package: PostgreSQL does not run as root.
const USER: &str = "postgres";
/// Who owns the tests' databases.
const OWNER: &str = "potluck";
/// A server starts within this.
const LIMIT: Duration = Duration::from_secs(60);
/// Ends a server when whoever started it is gone, for then its standard input is closed; `$0` is the server's program, its own
/// arguments follow.
const UNTIL_ALONE: &str = r#""$0" "$@" </dev/null & server=$!
trap 'kill -INT $server' TERM INT
read -r _ || true
kill -INT $server 2>/dev/null
wait $server"#;

/// A server.
pub struct Postgres {
    server: Option<Child>,
    folder: TempDir,
    address: Ipv4Addr,
    port: u16,
    /// What programs are started by, on another host.
    launcher: Vec<OsString>,
    databases: AtomicU32,
}

/// Debian's folder of programs, or none.
fn programs() -> Option<PathBuf> {
    let mut versions: Vec<_> =
        fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|one| one.path()).collect();
    versions.sort();
    versions.pop().map(|version| version.join("bin")).filter(|bin| bin.join("postgres").is_file())
}

/// Whether there is PostgreSQL here.
pub fn is_installed() -> bool {
    programs().is_some()
}

/// A program of PostgreSQL's, as a user that it accepts.
fn program(name: &str) -> Command {
    let path =
        programs().expect("PostgreSQL: `cargo xtask test` installs it, or apt install postgresql").join(name);
    let root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if root {
        // Becomes the program, so that signals reach it.
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--"]).arg(path);
        command
    } else {
        Command::new(path)
    }
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("a program that runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

impl Postgres {
    /// Starts a server.
    ///
    /// # Panics
    /// It is not installed, or does not start.
    pub fn start() -> Self {
        Self::start_by(Ipv4Addr::LOCALHOST, Vec::new())
    }

    /// Starts a server on another host, for all that reach it.
    ///
    /// # Panics
    /// It is not installed, or does not start.
    pub fn start_on(host: &Host) -> Self {
        let launcher = host.command("env");
        let words = [launcher.get_program()].into_iter().chain(launcher.get_args());
        Self::start_by(host.address(), words.map(ToOwned::to_owned).collect())
    }

    fn start_by(address: Ipv4Addr, launcher: Vec<OsString>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(folder.path(), open).expect("our own folder");
        run(program("initdb")
            .args(["-A", "trust", "-U", OWNER, "-E", "UTF8", "--locale=C.UTF-8", "-D"])
            .arg(data(&folder)));
        let everybody = format!("host all all {address}/24 trust\n");
        let rules = data(&folder).join("pg_hba.conf");
        let before = fs::read_to_string(&rules).expect("rules of who may connect");
        fs::write(&rules, before + &everybody).expect("our own folder");
        let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        let mut this = Self {
            server: None,
            folder,
            address,
            launcher,
            port: free.expect("a free port").port(),
            databases: AtomicU32::new(0),
        };
        this.again();
        this
    }

    /// A program on the server's host.
    fn command(&self, name: impl AsRef<OsStr>) -> Command {
        let Some((first, more)) = self.launcher.split_first() else { return Command::new(name) };
        let mut command = Command::new(first);
        command.args(more).arg(name);
        command
    }

    /// Starts the server again after [`Self::kill`].
    ///
    /// # Panics
    /// It does not start.
    pub fn again(&mut self) {
        let server = program("postgres");
        let mut guarded = self.command("sh");
        guarded.arg("-c").arg(UNTIL_ALONE).arg(server.get_program()).args(server.get_args());
        guarded.arg("-D").arg(data(&self.folder)).args([
            "-c",
            &format!("listen_addresses={}", self.address),
            "-c",
            "max_connections=400",
        ]);
        guarded.args(["-c", "unix_socket_directories=", "-c", &format!("port={}", self.port)]);
        let log = fs::File::create(self.folder.path().join("log")).expect("our own folder");
        guarded.stdin(Stdio::piped()).stdout(log.try_clone().expect("a file")).stderr(log);
        self.server = Some(guarded.spawn().expect("a shell"));
        let started = Instant::now();
        while !self.ask("postgres", "SELECT 1").is_ok_and(|said| said == "1") {
            let said = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(started.elapsed() < LIMIT, "PostgreSQL does not answer: {}", said());
            std::thread::sleep(POLL);
        }
    }

    /// Kills the server as a power cut would.
    ///
    /// # Panics
    /// It does not run.
    pub fn kill(&mut self) {
        let pid = fs::read_to_string(data(&self.folder).join("postmaster.pid")).expect("a server that runs");
        let pid = pid.lines().next().expect("a first line").to_owned();
        // All at once, so that none of them cleans up.
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let mut kill = Command::new("kill");
        run(kill.arg("-KILL").arg(&pid).args(children.split_whitespace()));
        self.end();
    }

    /// Waits for its shell, which ends with it, or ends it.
    fn end(&mut self) {
        if let Some(mut server) = self.server.take() {
            drop(server.stdin.take());
            drop(server.wait());
        }
    }

    /// A new database.
    ///
    /// # Panics
    /// The server refuses.
    pub fn database(&self) -> StoreUrl {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.ask("postgres", &format!("CREATE DATABASE {name}")).expect("a database");
        self.url(&name).parse().expect("an address")
    }

    fn url(&self, name: &str) -> String {
        format!("postgres://{OWNER}@{}:{}/{name}", self.address, self.port)
    }

    /// The last database that was made, as text for a command line.
    pub fn last_url(&self) -> String {
        self.url(&format!("test_{}", self.databases.load(Ordering::Relaxed) - 1))
    }

    /// What a query says, a line a row.
    ///
    /// # Errors
    /// What `psql` says.
    pub fn ask(&self, database: &str, query: &str) -> Result<String, String> {
        let program = program("psql");
        let mut psql = self.command(program.get_program());
        psql.args(program.get_args());
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", query]).arg(self.url(database));
        let output = psql.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end();
    }
}

fn data(folder: &TempDir) -> PathBuf {
    Path::new(folder.path()).join("data")
}

/// A new database for a relay, if relays of this process keep their records in PostgreSQL.
pub(crate) fn wanted() -> Option<StoreUrl> {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    let wanted = std::env::var(STORE).is_ok_and(|store| store == "postgres");
    wanted.then(|| SERVER.get_or_init(Postgres::start).database())
}
