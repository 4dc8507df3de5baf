//! A connection that speaks HTTP. One of HTTP/1 serves one request at a time, and whoever waits for the answer drives it: there is no task
//! beside the run's own. One of HTTP/2 serves many at once, so that it needs a task.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use futures_util::future::poll_fn;
use futures_util::task::AtomicWaker;
use http::Request;
use http_body_util::Full;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::route::{Socket, Wire};

pub(crate) type Body = Full<Bytes>;

type Http1Connection = http1::Connection<TokioIo<Box<dyn Socket>>, Body>;

/// A connection that can take a request.
pub(crate) enum Connection {
    Http1(Box<Http1>),
    Http2(http2::SendRequest<Body>),
}

/// An answer whose head has come.
pub(crate) struct Answer {
    pub(crate) head: http::response::Parts,
    body: Incoming,
    /// The connection of HTTP/1 that the body comes through.
    connection: Option<Box<Http1>>,
    ended: bool,
}

/// A request that was not answered.
pub(crate) struct Unanswered {
    pub(crate) error: hyper::Error,
    /// Whether the server has certainly not begun to act on it.
    pub(crate) is_unprocessed: bool,
}

impl Connection {
    /// Speaks the protocol that both ends agreed on.
    pub(crate) async fn new(wire: Wire) -> hyper::Result<Self> {
        let socket = TokioIo::new(wire.socket);
        if !wire.is_http2 {
            let (sender, connection) = http1::handshake(socket).await?;
            return Ok(Self::Http1(Box::new(Http1::new(sender, connection))));
        }
        let (sender, connection) = http2::handshake(TokioExecutor::new(), socket).await?;
        // It ends when nobody has the sender any more and the last answer is read.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self::Http2(sender))
    }

    /// Whether it is open, as far as can be known without asking the server.
    pub(crate) fn is_usable(&mut self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_idle(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    /// Sends a request and waits for the head of the answer. Dropping the future closes the connection, or its stream.
    pub(crate) async fn send(self, request: Request<Body>) -> Result<Answer, Unanswered> {
        let (response, connection) = match self {
            Self::Http1(mut connection) => {
                let response = {
                    let mut response = pin!(connection.sender.try_send_request(request));
                    let driven = &mut connection.driven;
                    poll_fn(|context| driven.poll(context, |context| response.as_mut().poll(context))).await
                };
                (response, Some(connection))
            }
            Self::Http2(mut sender) => (sender.try_send_request(request).await, None),
        };
        match response {
            Ok(response) => {
                let (head, body) = response.into_parts();
                Ok(Answer { head, body, connection, ended: false })
            }
            Err(failed) => Err(failed.into()),
        }
    }
}

impl From<TrySendError<Request<Body>>> for Unanswered {
    fn from(mut failed: TrySendError<Request<Body>>) -> Self {
        // What hyper gives back it has not begun to send.
        let is_unsent = failed.take_message().is_some();
        let error = failed.into_error();
        let is_unprocessed = is_unsent || is_refused(&error);
        Self { error, is_unprocessed }
    }
}

/// Whether a server of HTTP/2 said that it did not look at the request: it was about to close the connection, or had too much to do.
fn is_refused(error: &hyper::Error) -> bool {
    let said = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    said.filter(|said| said.is_remote()).is_some_and(|said| match said.reason() {
        Some(h2::Reason::NO_ERROR) => said.is_go_away(),
        reason => reason == Some(h2::Reason::REFUSED_STREAM),
    })
}

impl Answer {
    /// The next piece of the body, or nothing at its end.
    pub(crate) async fn piece(&mut self) -> hyper::Result<Option<Bytes>> {
        poll_fn(|context| self.poll_piece(context)).await
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<Option<Bytes>>> {
        while !self.ended {
            let body = &mut self.body;
            let frame = match &mut self.connection {
                Some(connection) => connection.driven.poll(context, |context| Pin::new(&mut *body).poll_frame(context)),
                None => Pin::new(body).poll_frame(context),
            };
            let frame = ready!(frame).transpose()?;
            // Where the length was told, nothing says the end but the last piece.
            self.ended = frame.is_none() || self.body.is_end_stream();
            // What is no data is a trailer, which no provider uses.
            if let Some(Ok(piece)) = frame.map(|frame| frame.into_data()) {
                return Poll::Ready(Ok(Some(piece)));
            }
        }
        Poll::Ready(Ok(None))
    }

    /// The connection, once the body is read to its end and the server lets it be used again.
    pub(crate) fn take_idle(&mut self) -> Option<Box<Http1>> {
        if !self.ended {
            return None;
        }
        let mut connection = self.connection.take()?;
        connection.is_idle().then_some(connection)
    }
}

/// A connection of HTTP/1, and the handle that gives it requests.
pub(crate) struct Http1 {
    sender: http1::SendRequest<Body>,
    driven: Driven,
}

impl Http1 {
    fn new(sender: http1::SendRequest<Body>, connection: Http1Connection) -> Self {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        Self { sender, driven: Driven { connection: Some(connection), bell, waker } }
    }

    /// Whether it can take a request: the server has neither closed it nor sent what nobody asked for.
    fn is_idle(&mut self) -> bool {
        self.driven.advance(&mut Context::from_waker(Waker::noop()));
        self.driven.connection.is_some() && self.sender.is_ready()
    }
}

/// A connection that moves only while somebody waits for something of it.
struct Driven {
    /// Gone once it is over, so that whoever waits for it is told.
    connection: Option<Http1Connection>,
    bell: Arc<Bell>,
    waker: Waker,
}

impl Driven {
    /// How often the two are let go on by turns before other tasks may.
    const TURNS: usize = 8;

    /// Lets the connection go on, and then what waits for it: they wake each other, but are one task, so that this is seen here and costs
    /// no wake-up.
    fn poll<T>(&mut self, context: &mut Context<'_>, mut waiting: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        for _ in 0..Self::TURNS {
            self.bell.listen();
            // The waker is taken out for the time, since both are ours.
            let waker = std::mem::replace(&mut self.waker, Waker::noop().clone());
            let inner = &mut Context::from_waker(&waker);
            self.advance(inner);
            let done = waiting(inner);
            self.waker = waker;
            if done.is_ready() {
                self.bell.stop();
                return done;
            }
            if self.bell.sleep(context.waker()) {
                return Poll::Pending;
            }
        }
        self.bell.stop();
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn advance(&mut self, context: &mut Context<'_>) {
        // An error is told to whoever waits for the answer, too.
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(context).is_ready()
        {
            self.connection = None;
        }
    }
}

/// What the connection and the one who waits for it ring. While they are looked after, that is noted; else it wakes their task.
#[derive(Default)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Bell {
    /// Nobody looks: the task is to be woken.
    const ASLEEP: u8 = 0;
    const LISTENING: u8 = 1;
    const RUNG: u8 = 2;

    fn listen(&self) {
        self.state.store(Self::LISTENING, Ordering::SeqCst);
    }

    fn stop(&self) {
        self.state.store(Self::ASLEEP, Ordering::SeqCst);
    }

    /// Goes to sleep, unless it has rung since `listen`.
    fn sleep(&self, task: &Waker) -> bool {
        self.task.register(task);
        self.state.compare_exchange(Self::LISTENING, Self::ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let listening = self.state.compare_exchange(Self::LISTENING, Self::RUNG, Ordering::SeqCst, Ordering::SeqCst);
        if listening == Err(Self::ASLEEP) {
            self.task.wake();
        }
    }
}
