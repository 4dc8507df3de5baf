//! Connections to one server that wait for the next request.

use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper::client::conn::http2;
use lomusai_core::sync::Mutex;
use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, sleep_until};

use super::connection::{Body, Connection, Http1};

/// How long a connection may wait. Servers and the networks before them close those that wait for some minutes.
const IDLE_MAX: Duration = Duration::from_secs(90);

/// What is open and not in use.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Open>);

#[derive(Default)]
struct Open {
    /// The one that waited least stands last.
    idle: Vec<Idle>,
    /// Whoever asks while it lives shares it.
    shared: Option<Shared>,
    /// Whether a task closes what has waited for too long.
    is_watched: bool,
}

struct Idle {
    connection: Box<Http1>,
    since: Instant,
    runtime: Id,
}

struct Shared {
    connection: http2::SendRequest<Body>,
    used: Instant,
    runtime: Id,
}

impl Pool {
    /// A connection that is open, as far as can be known. Must be called within a tokio runtime: a socket lives and dies with the one that
    /// opened it.
    pub(crate) fn take(&self) -> Option<Connection> {
        let (now, runtime) = (Instant::now(), Handle::current().id());
        loop {
            let mut connection = {
                let mut open = self.0.lock();
                open.shared.take_if(|shared| !shared.connection.is_ready());
                if let Some(shared) = open.shared.as_mut().filter(|shared| shared.runtime == runtime) {
                    shared.used = now;
                    return Some(Connection::Http2(shared.connection.clone()));
                }
                let at = open.idle.iter().rposition(|idle| idle.runtime == runtime)?;
                let idle = open.idle.remove(at);
                if now.duration_since(idle.since) > IDLE_MAX {
                    continue;
                }
                Connection::Http1(idle.connection)
            };
            // Beyond the lock: looking reads from the socket, and a closed one is dropped.
            if connection.is_usable() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(crate) fn park(self: &Arc<Self>, connection: Box<Http1>) {
        let idle = Idle { connection, since: Instant::now(), runtime: Handle::current().id() };
        self.keep(|open| open.idle.push(idle));
    }

    /// Shares a connection, unless another is shared already: that one is given.
    pub(crate) fn share(self: &Arc<Self>, connection: Connection) -> Connection {
        let Connection::Http2(connection) = connection else { return connection };
        let (used, runtime) = (Instant::now(), Handle::current().id());
        let mut shared = connection.clone();
        self.keep(|open| match &open.shared {
            Some(other) if other.runtime == runtime && other.connection.is_ready() => shared = other.connection.clone(),
            _ => open.shared = Some(Shared { connection, used, runtime }),
        });
        Connection::Http2(shared)
    }

    fn keep(self: &Arc<Self>, change: impl FnOnce(&mut Open)) {
        let unwatched = {
            let mut open = self.0.lock();
            change(&mut open);
            !std::mem::replace(&mut open.is_watched, true)
        };
        if unwatched {
            tokio::spawn(watch(Watch(Arc::downgrade(self))));
        }
    }

    /// Closes what has waited for too long, and says when to look again.
    fn close_old(&self) -> Option<Instant> {
        let now = Instant::now();
        let is_old = |since: Instant| now.duration_since(since) >= IDLE_MAX;
        // Dropped beyond the lock: a socket is closed.
        let (_old, _shared, next) = {
            let mut open = self.0.lock();
            let old: Vec<Idle> = open.idle.extract_if(.., |idle| is_old(idle.since)).collect();
            let shared = open.shared.take_if(|shared| is_old(shared.used));
            let since = open.idle.iter().map(|idle| idle.since);
            let next = since.chain(open.shared.as_ref().map(|shared| shared.used)).min();
            open.is_watched = next.is_some();
            (old, shared, next)
        };
        next.map(|since| since + IDLE_MAX)
    }
}

/// The watch over a pool. It ends with the pool, with the last connection in it, or with the runtime.
struct Watch(Weak<Pool>);

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.0.lock().is_watched = false;
        }
    }
}

async fn watch(watch: Watch) {
    let mut next = Some(Instant::now() + IDLE_MAX);
    while let Some(at) = next {
        sleep_until(at).await;
        next = watch.0.upgrade().and_then(|pool| pool.close_old());
    }
}
