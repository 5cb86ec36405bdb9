//! An S3 service for tests, on a folder: `s3s-fs`, which checks signatures as others do.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{Builder as RuntimeBuilder, Runtime};

/// The bucket.
const NAME: &str = "potluck";
/// Who may use it.
const KEY: [&str; 2] = ["tester", "hush"];

/// A service with one bucket.
pub struct Bucket {
    folder: TempDir,
    address: SocketAddr,
    service: S3Service,
    running: Option<Runtime>,
}

impl Bucket {
    /// Starts a service.
    ///
    /// # Panics
    /// It does not start.
    pub fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// As [`Self::start`], at an address of the host of this thread.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_at(address: Ipv4Addr) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join(NAME)).expect("our own folder");
        let files = FileSystem::new(folder.path()).expect("a folder of files");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEY[0], KEY[1]));
        let any = SocketAddr::from((address, 0));
        let mut this = Self { folder, address: any, service: builder.build(), running: None };
        this.again();
        this
    }

    /// Starts the service again after [`Self::stop`], at the same address.
    ///
    /// # Panics
    /// It does not start.
    pub fn again(&mut self) {
        let runtime =
            RuntimeBuilder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind(self.address)).expect("its own port");
        self.address = listener.local_addr().expect("an address");
        let service = self.service.clone();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let server = Builder::new(TokioExecutor::new());
                    // Whoever leaves in the middle of a request is no matter of ours.
                    drop(server.serve_connection(TokioIo::new(socket), service).await);
                });
            }
        });
        self.running = Some(runtime);
    }

    /// Stops the service at once, whatever is under way.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
        }
    }

    /// What a program has to be told to use it.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY[0].to_owned()),
            ("AWS_SECRET_ACCESS_KEY", KEY[1].to_owned()),
        ]
    }

    /// Address of a place in the bucket.
    pub fn place(name: &str) -> String {
        format!("s3://{NAME}/{name}")
    }

    /// The folder of such a place.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(NAME).join(name)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // A runtime must not wait for its own threads within another one.
        self.stop();
    }
}
