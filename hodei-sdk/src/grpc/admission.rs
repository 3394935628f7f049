//! Admission of connections: limits the number and the age of connections without a token.
//!
//! Every connection starts as a stranger. Its first authorised call makes it a client's or an agent's. A stranger is
//! closed [`FIRST_CALL_TIMEOUT`] after its last call. If strangers use up their share, a new one replaces the oldest.
//! The remaining descriptors are for clients and agents, and a part of them for agents alone.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hodei_core::port::{BoxFuture, Clock, ClockExt};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codegen::http;
use tonic::transport::server::{Connected, TlsConnectInfo};

/// Time from the start of a connection, or from its last call without a token, to its first authorised call. It covers
/// the TLS handshake and the HTTP/2 preface.
const FIRST_CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Age from which a stranger may be replaced by a new one. An honest client needs only a few round trips.
const MIN_REPLACED_AGE: Duration = Duration::from_millis(250);
/// Maximum number of strangers, however many descriptors there are.
const MAX_STRANGERS: u64 = 512;
/// Divisor for the descriptors that are not for connections but for a database, log files and child processes.
const RESERVED_SHARE: u64 = 4;
/// Minimum number of descriptors that are not for connections.
const MIN_RESERVED: u64 = 64;

/// Maximum numbers of connections of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    strangers: usize,
    /// Clients. Agents may use the places that clients leave free.
    clients: usize,
    /// Clients and agents together.
    admitted: usize,
    /// The number of descriptors that the limits are computed from.
    descriptors: u64,
}

impl Room {
    /// Computes the limits from this process's soft limit of descriptors.
    pub(super) fn of_this_process() -> Self {
        Self::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn of(descriptors: u64) -> Self {
        let connections = descriptors.saturating_sub((descriptors / RESERVED_SHARE).max(MIN_RESERVED)).max(8);
        let strangers = (connections / 4).min(MAX_STRANGERS);
        let admitted = connections - strangers;
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            strangers: count(strangers),
            clients: count(admitted - admitted / 4),
            admitted: count(admitted),
            descriptors,
        }
    }
}

/// The kind of an admitted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Client,
    Agent,
}

/// The connections of a server.
#[derive(Debug)]
pub(super) struct Admission {
    room: Room,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Notified when a stranger leaves or is admitted.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By number, so the oldest is first.
    strangers: BTreeMap<u64, Stranger>,
    clients: usize,
    agents: usize,
    /// Whether the present lack of room has been logged.
    is_full_logged: bool,
}

#[derive(Debug)]
struct Stranger {
    since: Duration,
    last_call: Duration,
    evict: CancellationToken,
}

impl Admission {
    pub(super) fn new(room: Room, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { room, clock, state: Mutex::default(), freed: Notify::new() })
    }

    /// Takes a connection in as a stranger, and waits for room for it. Cancel safe: the connection is dropped.
    pub(super) async fn enter<S: Origin>(self: &Arc<Self>, stream: S) -> Guarded<S> {
        loop {
            let freed = self.freed.notified();
            match self.try_enter() {
                Ok((number, evict)) => {
                    let is_local = stream.is_local();
                    let (admission, standing) = (self.clone(), AtomicU8::new(STRANGER));
                    let peer = Peer(Arc::new(PeerState { admission, number, standing, is_local }));
                    let fate = Fate::Stranger(overdue(self.clone(), number, evict));
                    return Guarded { stream, peer, fate };
                }
                Err(wait) => drop(self.clock.timeout(wait, freed).await),
            }
        }
    }

    /// Adds a stranger and returns its number and the token that evicts it, or the time to wait if there is no room.
    fn try_enter(&self) -> Result<(u64, CancellationToken), Duration> {
        let mut state = self.state();
        let now = self.clock.monotonic();
        if state.strangers.len() >= self.room.strangers
            && let Some((_, oldest)) = state.strangers.first_key_value()
        {
            let age = now.saturating_sub(oldest.since);
            if age < MIN_REPLACED_AGE {
                return Err(MIN_REPLACED_AGE - age);
            }
            if let Some((_, oldest)) = state.strangers.pop_first() {
                tracing::debug!("a connection without a token was closed to make room for another");
                oldest.evict.cancel();
            }
        }
        let (number, evict) = (state.next, CancellationToken::new());
        state.next += 1;
        state.strangers.insert(number, Stranger { since: now, last_call: now, evict: evict.clone() });
        Ok((number, evict))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until a stranger must be closed: it is evicted, or makes no authorised call in time.
fn overdue(admission: Arc<Admission>, number: u64, evict: CancellationToken) -> BoxFuture<'static, ()> {
    let waits = async move {
        loop {
            let last_call = admission.state().strangers.get(&number).map(|stranger| stranger.last_call);
            let Some(last_call) = last_call else { return std::future::pending().await };
            let left = (last_call + FIRST_CALL_TIMEOUT).saturating_sub(admission.clock.monotonic());
            if left.is_zero() {
                return tracing::debug!("a connection without a token was closed: its time is over");
            }
            admission.clock.sleep(left).await;
        }
    };
    Box::pin(async move {
        tokio::select! { biased; () = evict.cancelled() => {}, () = waits => {} }
    })
}

/// The peer of a connection, attached to each of its calls. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Peer(Arc<PeerState>);

#[derive(Debug)]
struct PeerState {
    admission: Arc<Admission>,
    number: u64,
    standing: AtomicU8,
    is_local: bool,
}

const STRANGER: u8 = 0;
const CLIENT: u8 = 1;
const AGENT: u8 = 2;
const GONE: u8 = 3;

impl Peer {
    /// Returns the peer of a call; `None` if the connection did not pass through the admission.
    pub(super) fn of(extensions: &http::Extensions) -> Option<&Self> {
        let over_tls = || extensions.get::<TlsConnectInfo<Self>>().map(TlsConnectInfo::get_ref);
        extensions.get::<Self>().or_else(over_tls)
    }

    /// Whether the data of the connection stays on this machine.
    pub(super) fn is_local(&self) -> bool {
        self.0.is_local
    }

    /// Records a call, which restarts the timeout of a stranger.
    pub(super) fn called(&self) {
        if self.0.standing.load(Ordering::Acquire) != STRANGER {
            return;
        }
        let admission = &self.0.admission;
        let now = admission.clock.monotonic();
        if let Some(stranger) = admission.state().strangers.get_mut(&self.0.number) {
            stranger.last_call = now;
        }
    }

    /// Admits the connection after an authorised call: it has no timeout any more.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there is no room for this kind of connection.
    pub(super) fn admit(&self, holder: Holder) -> Result<(), Status> {
        if self.0.standing.load(Ordering::Acquire) != STRANGER {
            return Ok(());
        }
        let admission = &self.0.admission;
        let room = admission.room;
        let mut state = admission.state();
        let is_full = match holder {
            Holder::Client => state.clients >= room.clients || state.clients + state.agents >= room.admitted,
            Holder::Agent => state.clients + state.agents >= room.admitted,
        };
        if is_full {
            let (clients, agents, limit) = (state.clients, state.agents, room.descriptors);
            let why = format!(
                "the daemon has {clients} connections of clients and {agents} of agents, the maximum for its limit of \
                 {limit} descriptors: close some, or raise the limit (LimitNOFILE= of systemd, `ulimit -n`)"
            );
            if !std::mem::replace(&mut state.is_full_logged, true) {
                tracing::warn!("a connection is refused: {why}");
            }
            return Err(Status::resource_exhausted(why));
        }
        // It was evicted and is closing.
        if state.strangers.remove(&self.0.number).is_none() {
            return Ok(());
        }
        let standing = match holder {
            Holder::Client => {
                state.clients += 1;
                CLIENT
            }
            Holder::Agent => {
                state.agents += 1;
                AGENT
            }
        };
        self.0.standing.store(standing, Ordering::Release);
        drop(state);
        admission.freed.notify_one();
        Ok(())
    }

    fn is_stranger(&self) -> bool {
        self.0.standing.load(Ordering::Acquire) == STRANGER
    }

    fn leave(&self) {
        let admission = &self.0.admission;
        let mut state = admission.state();
        match self.0.standing.swap(GONE, Ordering::AcqRel) {
            CLIENT => state.clients = state.clients.saturating_sub(1),
            AGENT => state.agents = state.agents.saturating_sub(1),
            _ => drop(state.strangers.remove(&self.0.number)),
        }
        state.is_full_logged = false;
        drop(state);
        admission.freed.notify_one();
    }
}

/// Byte streams that know their origin.
pub(super) trait Origin: AsyncRead + AsyncWrite + Unpin {
    /// Whether the peer is on this machine.
    fn is_local(&self) -> bool;
}

impl Origin for TcpStream {
    fn is_local(&self) -> bool {
        self.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback())
    }
}

impl Origin for UnixStream {
    fn is_local(&self) -> bool {
        true
    }
}

/// A connection that fails if it is not admitted in time, or is replaced by another before.
pub(super) struct Guarded<S> {
    stream: S,
    peer: Peer,
    fate: Fate,
}

/// The state of a connection in the admission.
enum Fate {
    /// It is closed when this future ends, unless it is admitted before.
    Stranger(BoxFuture<'static, ()>),
    /// It was admitted.
    Stays,
    /// It is closed.
    Ends,
}

impl<S> Guarded<S> {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Fate::Stranger(overdue) = &mut self.fate {
            if !self.peer.is_stranger() {
                self.fate = Fate::Stays;
            } else if overdue.as_mut().poll(context).is_ready() {
                self.fate = Fate::Ends;
            }
        }
        match self.fate {
            Fate::Ends => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the connection showed no token in time"))
            }
            Fate::Stranger(_) | Fate::Stays => Ok(()),
        }
    }
}

impl<S> Drop for Guarded<S> {
    fn drop(&mut self) {
        self.peer.leave();
    }
}

impl<S> Connected for Guarded<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;
    use crate::clock::ManualClock;

    impl Origin for DuplexStream {
        fn is_local(&self) -> bool {
            false
        }
    }

    const TIGHT: Room = Room { strangers: 2, clients: 1, admitted: 2, descriptors: 9 };

    fn admission() -> (Arc<Admission>, ManualClock) {
        let clock = ManualClock::default();
        (Admission::new(TIGHT, Arc::new(clock.clone())), clock)
    }

    fn stream() -> DuplexStream {
        let (here, there) = duplex(8);
        // The peer stays connected and silent.
        std::mem::forget(there);
        here
    }

    async fn is_closed(connection: &mut Guarded<DuplexStream>) -> bool {
        let mut read = std::pin::pin!(connection.read_u8());
        std::future::poll_fn(|context| Poll::Ready(read.as_mut().poll(context).is_ready())).await
    }

    #[test]
    fn descriptors_are_shared_between_the_daemon_strangers_clients_and_agents() {
        for (descriptors, strangers, clients, admitted) in
            [(16, 2, 5, 6), (256, 48, 108, 144), (1024, 192, 432, 576), (1 << 20, 512, 589_440, 785_920)]
        {
            assert_eq!(Room::of(descriptors), Room { strangers, clients, admitted, descriptors });
        }
    }

    #[tokio::test]
    async fn a_stranger_has_ten_seconds_from_its_last_call_and_a_client_has_no_limit() {
        let (admission, clock) = admission();
        let (mut client, mut stranger) = (admission.enter(stream()).await, admission.enter(stream()).await);
        client.peer.admit(Holder::Client).unwrap();
        assert!(!is_closed(&mut stranger).await);
        clock.advance(FIRST_CALL_TIMEOUT - Duration::from_secs(1));
        stranger.peer.called();
        clock.advance(FIRST_CALL_TIMEOUT - Duration::from_secs(1));
        assert!(!is_closed(&mut stranger).await, "its call restarts the timeout");
        clock.advance(Duration::from_secs(1));
        assert!(is_closed(&mut stranger).await && !is_closed(&mut client).await);
    }

    #[tokio::test]
    async fn the_oldest_stranger_is_replaced_however_often_it_calls() {
        let (admission, clock) = admission();
        let (mut first, mut second) = (admission.enter(stream()).await, admission.enter(stream()).await);
        assert!(admission.try_enter().is_err(), "both are too new to be replaced");
        clock.advance(MIN_REPLACED_AGE);
        first.peer.called();
        let mut third = admission.enter(stream()).await;
        assert!(is_closed(&mut first).await);
        assert!(!is_closed(&mut second).await && !is_closed(&mut third).await);
        drop(second);
        assert!(admission.try_enter().is_ok(), "one has left");
        first.peer.admit(Holder::Client).unwrap();
        assert!(is_closed(&mut first).await, "an evicted connection cannot be admitted");
    }

    #[tokio::test]
    async fn clients_leave_room_for_agents_and_an_ended_connection_makes_room() {
        let (admission, _) = admission();
        let (client, other) = (admission.enter(stream()).await, admission.enter(stream()).await);
        client.peer.admit(Holder::Client).unwrap();
        let refused = other.peer.admit(Holder::Client).unwrap_err();
        assert!(refused.message().contains("limit of 9 descriptors"), "{refused}");
        other.peer.admit(Holder::Agent).unwrap();
        let third = admission.enter(stream()).await;
        assert!(third.peer.admit(Holder::Agent).is_err());
        drop(client);
        third.peer.admit(Holder::Agent).unwrap();
    }
}
