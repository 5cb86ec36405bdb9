//! A balancer as operators put before nodes of a relay: it sends each connection to the next one that is well, and closes those of
//! one that is not any more.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Time between two looks at a node, and for which it may take to answer one.
const LOOK: Duration = Duration::from_millis(500);

/// A node, as the balancer knows it.
#[derive(Debug)]
struct Backend {
    address: SocketAddr,
    well: AtomicBool,
    /// Connections that go there.
    open: Mutex<Vec<Weak<TcpStream>>>,
}

impl Backend {
    fn new(address: SocketAddr) -> Self {
        Self { address, well: AtomicBool::new(true), open: Mutex::default() }
    }

    fn opened(&self, near: &Arc<TcpStream>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|stream| stream.strong_count() > 0);
        open.push(Arc::downgrade(near));
    }

    fn close(&self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for stream in open.iter().filter_map(Weak::upgrade) {
            // Fails where it is closed already.
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

/// Ends with the process.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
}

impl Balancer {
    /// Listens on a port of `listen`'s address.
    ///
    /// # Panics
    /// It cannot be listened on.
    pub fn start(listen: SocketAddr, backends: impl IntoIterator<Item = SocketAddr>) -> Self {
        let backends: Arc<[Backend]> = backends.into_iter().map(Backend::new).collect();
        for index in 0..backends.len() {
            let backends = Arc::clone(&backends);
            std::thread::spawn(move || look_after(&backends[index]));
        }
        let listener = TcpListener::bind(listen).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let next = AtomicUsize::new(0);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                let order = (0..backends.len()).map(|step| &backends[(turn + step) % backends.len()]);
                let mut well = order.filter(|backend| backend.well.load(Ordering::Relaxed));
                let far = well.find_map(|backend| {
                    Some((backend, TcpStream::connect_timeout(&backend.address, LOOK).ok()?))
                });
                let Some((backend, far)) = far else { continue };
                let (near, far) = (Arc::new(near), Arc::new(far));
                backend.opened(&near);
                // Each way by itself; when one end is done the other is told.
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (Arc::clone(from), Arc::clone(to));
                    std::thread::spawn(move || pass_on(&from, &to));
                }
            }
        });
        Self { address }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Asks a node from time to time whether it is well.
fn look_after(backend: &Backend) {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(LOOK)).build().into();
    loop {
        let answer = agent.get(format!("http://{}/node", backend.address)).call();
        backend.well.store(answer.is_ok(), Ordering::Relaxed);
        if answer.is_err() {
            backend.close();
        }
        std::thread::sleep(LOOK);
    }
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream) {
    // However it ends, it ends for both.
    drop(io::copy(&mut from, &mut to));
    drop(to.shutdown(Shutdown::Both));
    drop(from.shutdown(Shutdown::Both));
}
