//! Work whose result must not be lost when whoever asked for it goes away.
//!
//! A ttrpc handler is dropped wherever it waits: when the request's deadline passes,
//! when containerd closes the connection. What such a handler was making would be
//! half made, and what it had made nobody's.

use tokio::sync::oneshot;

/// Runs `work` to its end, whatever becomes of the caller; `undo` gets the result if
/// the caller is gone by then. `None` when the work panicked.
pub(crate) async fn or_undone<T, U>(
    work: impl Future<Output = T> + Send + 'static,
    undo: impl FnOnce(T) -> U + Send + 'static,
) -> Option<T>
where
    T: Clone + Send + 'static,
    U: Future<Output = ()> + Send,
{
    let (answer, answered) = oneshot::channel();
    let (heard, hearing) = oneshot::channel();
    tokio::spawn(async move {
        let done = work.await;
        // An answer can be sent and still not be heard: the ear may be gone before
        // it listens. So only what comes back counts.
        drop(answer.send(done.clone()));
        if hearing.await.is_err() {
            undo(done).await;
        }
    });
    let answer = answered.await.ok()?;
    heard.send(()).ok().map(|()| answer)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_is_heard_is_kept_and_what_is_not_is_undone() {
        for (patience, kept) in [(Duration::from_secs(10), true), (Duration::ZERO, false)] {
            let (tell, mut undone) = tokio::sync::mpsc::channel(1);
            let work = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                7
            };
            let undo = move |made| async move { tell.send(made).await.expect("the test listens") };
            let answer = tokio::time::timeout(patience, or_undone(work, undo)).await;
            assert_eq!(answer.ok(), kept.then_some(Some(7)));
            assert_eq!(undone.recv().await, (!kept).then_some(7));
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_sent_and_never_read_is_undone() {
        let (tell, mut undone) = tokio::sync::mpsc::channel(1);
        let undo = move |made| async move { tell.send(made).await.expect("the test listens") };
        let mut asked = Box::pin(or_undone(async { 7 }, undo));
        // The first look starts the work; it is done while nobody looks again.
        assert!(look(asked.as_mut()).await.is_pending());
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(asked);
        assert_eq!(undone.recv().await, Some(7));
    }

    async fn look<F: Future>(mut future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await
    }

    #[tokio::test]
    async fn a_panic_is_no_answer() {
        let work = async { panic!("on purpose") };
        let answer: Option<u8> = or_undone(work, |_| async {}).await;
        assert_eq!(answer, None);
    }
}
