//! New TCP connections of a real client at a steady pace: for a proxy, which sends nothing on before it has shaken
//! hands.
#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpStream},
    ops::Deref,
    time::Duration,
};

use anyhow::Result;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    gate::monotonic,
    host::Host,
    paced::{Deed, Paced},
};

/// How long a connection lives: time enough to be passed on.
const LIFE: Duration = Duration::from_millis(20);

/// A running load; stopped when dropped. It connects and says nothing; its ends are resets, so that no port waits.
#[derive(Debug)]
pub struct ConnectLoad(Paced);

impl Deref for ConnectLoad {
    type Target = Paced;

    fn deref(&self) -> &Paced {
        &self.0
    }
}

impl ConnectLoad {
    /// Starts connecting from a host.
    pub fn start(client: &Host, to: SocketAddr, per_second: u32) -> Result<Self> {
        let netns = client.netns().clone();
        let mut open: VecDeque<(Duration, TcpStream)> = VecDeque::new();
        let mut entered = false;
        let act = move |_| {
            if !entered {
                entered = netns.enter().is_ok();
                return Deed::Missed;
            }
            let now = monotonic();
            while open.front().is_some_and(|(since, _)| now.saturating_sub(*since) > LIFE) {
                open.pop_front();
            }
            match connect(to) {
                Some(stream) => {
                    open.push_back((now, stream));
                    Deed::Done
                }
                None => Deed::Missed,
            }
        };
        Ok(Self(Paced::start("connect-load", Duration::from_secs(1) / per_second, act)?))
    }
}

/// Starts a connect whose end will be a reset.
fn connect(to: SocketAddr) -> Option<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP)).ok()?;
    socket.set_linger(Some(Duration::ZERO)).ok()?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => None,
        _ => Some(socket.into()),
    }
}
