//! The admin socket: made, guarded, served.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::operations::Operations;
use super::peer::Accounts;
use super::router::router;
use crate::failure::{Code, Failure};

/// Longest time for one request.
pub const REQUEST_TIME: Duration = Duration::from_secs(30);
/// Longest time for a request's head to arrive.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Longest life of a connection, the answer's delivery included.
const CONNECTION_TIME: Duration = Duration::from_secs(120);
/// Largest body of a request, in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;
/// Connections served at once; more wait in the socket's backlog.
const CONNECTIONS: usize = 64;
/// Pause after a failed accept (no file descriptors left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the socket cannot be made.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another daemon answers on it.
    #[error("bind {}: another weir answers on this socket; stop it, or give this one its own --socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The path holds something that is not a socket.
    #[error("bind {}: the path exists and is not a socket; move it away, or choose another --socket", path.display())]
    NotSocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("bind {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::new(Code::Failed, error.to_string())
    }
}

/// A bound admin socket. Dropping it removes the socket file, unless another daemon has replaced it.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Server {
    /// Makes the socket (0660, group weir where the host has it), and its directory where it is missing. A socket
    /// file that nobody answers on is replaced. Needs a tokio runtime.
    ///
    /// # Errors
    /// When another daemon answers, or the socket cannot be made.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        refuse_if_answered(path)?;
        // Made beside its place and moved there, so that nobody meets it before its mode is set.
        let fresh = fresh_path(path);
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        let inode = publish(&fresh, path, Accounts::of_host().operators()).map_err(|error| {
            // The attempt leaves nothing behind; its own failure is the one to tell.
            let _ = fs::remove_file(&fresh);
            failed(error)
        })?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    /// Answers requests until the future is dropped.
    pub async fn serve<O: Operations>(self, operations: Arc<O>) {
        let router = router(operations);
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let owner = rustix::process::geteuid().as_raw();
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) => {
                        // Read anew for each caller: a new member of the group operates at once.
                        let peer = Accounts::of_host().peer(peer.uid(), peer.gid(), owner);
                        let router = router.clone().layer(Extension(peer));
                        tokio::spawn(connection(stream, router, permit));
                    }
                    Err(error) => tracing::warn!(%error, "admin socket: a caller without credentials"),
                },
                Err(error) => {
                    tracing::warn!(%error, "admin socket: accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode);
        if ours {
            // A socket file left behind is recognised as stale by the next daemon.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Serves one request, then closes.
async fn connection(stream: UnixStream, router: Router, permit: OwnedSemaphorePermit) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).keep_alive(false);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_TIME, served).await {
        Ok(Err(error)) => tracing::debug!(%error, "admin socket: connection"),
        Err(_) => tracing::debug!("admin socket: a caller did not read its answer in time"),
        Ok(Ok(())) => {}
    }
    drop(permit);
}

fn refuse_if_answered(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(BindError::Io { path: path.to_owned(), source }),
        Ok(file) if !file.file_type().is_socket() => Err(BindError::NotSocket { path: path.to_owned() }),
        Ok(_) => match BlockingStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(_) => Err(BindError::InUse { path: path.to_owned() }),
            Err(source) => Err(BindError::Io { path: path.to_owned(), source }),
        },
    }
}

fn fresh_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Sets owner and mode, then moves the socket to its place; gives its inode.
fn publish(fresh: &Path, path: &Path, group: Option<u32>) -> io::Result<u64> {
    if group.is_some() {
        chown(fresh, None, group)?;
    }
    fs::set_permissions(fresh, fs::Permissions::from_mode(0o660))?;
    let inode = fs::symlink_metadata(fresh)?.ino();
    fs::rename(fresh, path)?;
    Ok(inode)
}
