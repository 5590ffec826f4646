//! One request: its turn, its deadline, its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use settings::Http;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::body::{Body, Failure};
use super::instances::{Answer, Instances};
use super::report;
use super::ticker::Ticker;
use crate::stdio::Output;

/// How far the server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Serving,
    /// Nobody new is let in; who is in may still ask.
    Draining,
    /// Who is in and asks nothing is let go.
    Closing,
}

/// Something that is not over. The server ends when the last of them is dropped.
pub(super) type Open = mpsc::Sender<()>;

/// Answers requests.
pub(super) struct Service {
    pub(super) instances: Instances,
    pub(super) http: Http,
    pub(super) ticker: Ticker,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) turns: Arc<Semaphore>,
    pub(super) waiting: AtomicU32,
    /// Held for each request until its answer is complete.
    pub(super) answering: Arc<()>,
}

/// How a guest's work on a request has ended.
enum Ended {
    Returned,
    Failed,
    Late,
}

impl Service {
    /// Says whether a request is under way.
    pub(super) fn is_answering(&self) -> bool {
        Arc::strong_count(&self.answering) > 1
    }

    /// Answers a request; whatever goes wrong is an answer too.
    pub(super) async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        open: Open,
    ) -> Response<Body> {
        let answering = Arc::clone(&self.answering);
        let deadline = Instant::now() + self.http.deadline;
        let version = request.version();
        let mut response = if !has_one_host(&mut request) {
            refusal(StatusCode::BAD_REQUEST, "the request names no host, or several")
        } else {
            match self.turn(deadline).await {
                None => {
                    refusal(StatusCode::SERVICE_UNAVAILABLE, "too many requests; try again later")
                }
                Some(turn) => self.answer_by_guest(request, turn, deadline, open).await,
            }
        };
        response.body_mut().hold(answering);
        // HTTP/2 has its own way to say so.
        if *self.phase.borrow() >= Phase::Draining && version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Waits for the request's turn, if there is a place to wait.
    async fn turn(&self, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        if let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() {
            return Some(turn);
        }
        let _place = Place::among(&self.waiting, self.http.queue)?;
        let turn = timeout_at(deadline, Arc::clone(&self.turns).acquire_owned()).await;
        turn.ok().and_then(Result::ok)
    }

    async fn answer_by_guest(
        self: &Arc<Self>,
        request: Request<Incoming>,
        turn: OwnedSemaphorePermit,
        deadline: Instant,
        open: Open,
    ) -> Response<Body> {
        let label = report::label(&request);
        let failure = Failure::default();
        let (answer, answered) = oneshot::channel();
        let work = {
            let (service, label, failure) = (Arc::clone(self), label.clone(), failure.clone());
            async move {
                let _held = (turn, open);
                service.work(request, answer, &failure, deadline, &label).await
            }
        };
        // A task of its own: the guest may go on after it has answered. Until then it ends with
        // the client's connection.
        let mut task = EndedOnDrop(Some(tokio::spawn(work)));
        match answered.await {
            Ok(Ok(response)) => {
                task.0 = None;
                response.map(|body| Body::of_guest(body, failure))
            }
            Ok(Err(code)) => {
                task.0 = None;
                say(&format!("{label}: the guest has answered with the error {code:?}\n"));
                failed()
            }
            Err(_gone) => match task.ended().await {
                Ended::Late => refusal(StatusCode::GATEWAY_TIMEOUT, "no answer in time"),
                Ended::Failed => failed(),
                Ended::Returned => {
                    say(&format!("{label}: the guest has returned without an answer\n"));
                    failed()
                }
            },
        }
    }

    /// Has an instance work on the request, and reports what goes wrong.
    async fn work(
        &self,
        request: Request<Incoming>,
        answer: Answer,
        failure: &Failure,
        deadline: Instant,
        label: &str,
    ) -> Ended {
        let _busy = self.ticker.busy();
        let work = async {
            let instance = self.instances.take().await?;
            self.instances.answer(instance, request, answer, failure).await
        };
        match timeout_at(deadline, work).await {
            Ok(Ok(instance)) => {
                self.instances.put_back(instance);
                Ended::Returned
            }
            Ok(Err(error)) => {
                say(&report::line(label, &error));
                Ended::Failed
            }
            Err(_elapsed) => {
                let deadline = self.http.deadline;
                say(&format!(
                    "{label}: not done within {deadline:?}, the deadline of a request by annotation \
                     com.wasm.http.deadline, the node's [http] or default\n"
                ));
                Ended::Late
            }
        }
    }
}

/// A place among those who wait.
struct Place<'a>(&'a AtomicU32);

impl<'a> Place<'a> {
    fn among(waiting: &'a AtomicU32, most: u32) -> Option<Self> {
        let place = Self(waiting);
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        (before < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A task that ends when nobody wants its result any more.
struct EndedOnDrop(Option<JoinHandle<Ended>>);

impl EndedOnDrop {
    async fn ended(&mut self) -> Ended {
        let Some(task) = &mut self.0 else { return Ended::Failed };
        let ended = task.await;
        self.0 = None;
        ended.unwrap_or_else(|panicked| {
            say(&format!("internal error: {panicked}\n"));
            Ended::Failed
        })
    }
}

impl Drop for EndedOnDrop {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Says whether the request is for exactly one host, as the guest is told. Before HTTP/1.1 it need
/// not name one.
fn has_one_host<Body>(request: &mut Request<Body>) -> bool {
    let has_authority = request.uri().authority().is_some();
    let is_old = request.version() < Version::HTTP_11;
    let headers = request.headers_mut();
    let (named, readable) = headers
        .get_all(HOST)
        .iter()
        .fold((0, true), |(named, readable), host| (named + 1, readable && host.to_str().is_ok()));
    match named {
        0 if has_authority => true,
        0 if is_old => {
            headers.insert(HOST, HeaderValue::from_static("localhost"));
            true
        }
        1 => readable,
        _ => false,
    }
}

fn failed() -> Response<Body> {
    refusal(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be answered")
}

/// An answer of the server's own.
fn refusal(status: StatusCode, why: &str) -> Response<Body> {
    let mut response = Response::new(Body::text(format!("{why}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn say(line: &str) {
    Output::error().say(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_may_wait_and_no_more() {
        let waiting = AtomicU32::new(0);
        let first = Place::among(&waiting, 2);
        let second = Place::among(&waiting, 2);
        assert!(first.is_some() && second.is_some());
        assert!(Place::among(&waiting, 2).is_none());
        drop(first);
        assert!(Place::among(&waiting, 2).is_some());
        drop(second);
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
        assert!(Place::among(&waiting, 0).is_none());
    }

    #[test]
    fn a_request_is_for_one_host() {
        let host = |version, uri: &str, hosts: &[&[u8]]| {
            let mut builder = Request::builder().version(version).uri(uri);
            for host in hosts {
                builder = builder.header(HOST, HeaderValue::from_bytes(host).unwrap());
            }
            has_one_host(&mut builder.body(()).unwrap())
        };
        assert!(host(Version::HTTP_11, "/", &[b"a"]));
        assert!(host(Version::HTTP_2, "http://a/", &[]));
        assert!(host(Version::HTTP_10, "/", &[]));
        assert!(!host(Version::HTTP_11, "/", &[]));
        assert!(!host(Version::HTTP_11, "/", &[b"a", b"b"]));
        assert!(!host(Version::HTTP_11, "/", &[b"\xff"]));
    }

    #[test]
    fn who_is_turned_away_is_told_when_to_come_back() {
        let response = refusal(StatusCode::SERVICE_UNAVAILABLE, "full");
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert!(!failed().headers().contains_key(RETRY_AFTER));
    }
}
