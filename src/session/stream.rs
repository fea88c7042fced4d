//! Events as a `Stream`, for any async runtime: a thread computes, wakers tell the task.

use std::pin::Pin;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;

use futures_core::Stream;

use super::{CancelToken, Event, GenerateOptions, Session};
use crate::error::{Error, Result};

/// Events that may wait for the task before the thread waits for it.
const WAITING: usize = 64;

/// A generation on a thread of its own. Dropping it cancels.
pub struct EventStream {
    events: Receiver<Result<Event>>,
    waker: Arc<Mutex<Option<Waker>>>,
    cancel: CancelToken,
    thread: Option<JoinHandle<Session>>,
}

/// Wakes the task, also when the thread ends.
struct Wake(Arc<Mutex<Option<Waker>>>);

impl Wake {
    fn now(&self) {
        let waker = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.now();
    }
}

fn compute(
    mut session: Session,
    prompt: &[u32],
    options: GenerateOptions,
    cancel: &CancelToken,
    events: &SyncSender<Result<Event>>,
    wake: &Wake,
) -> Session {
    match session.generate(prompt, options) {
        Err(error) => drop(events.send(Err(error))),
        Ok(generation) => {
            for event in generation.cancelled_by(cancel) {
                if events.send(event).is_err() {
                    break;
                }
                wake.now();
            }
        }
    }
    session
}

impl Session {
    /// As [`Session::generate`] on a thread of its own, as a stream of events that needs no particular runtime.
    ///
    /// Errors: the thread cannot be started. Those of the prompt are the stream's first event.
    pub fn stream(self, prompt: &[u32], options: GenerateOptions) -> Result<EventStream> {
        let (sender, events) = sync_channel(WAITING);
        let (waker, cancel) = (Arc::new(Mutex::new(None)), CancelToken::new());
        let (wake, stop, prompt) = (Wake(Arc::clone(&waker)), cancel.clone(), prompt.to_vec());
        let work = move || {
            let session = compute(self, &prompt, options, &stop, &sender, &wake);
            // The task learns of the end when the channel is closed.
            drop(sender);
            drop(wake);
            session
        };
        let thread = std::thread::Builder::new().name("vkllm stream".into()).spawn(work);
        let thread = thread.map_err(|source| Error::Io {
            path: "vkllm stream".into(),
            what: "the thread cannot be started",
            source,
        })?;
        Ok(EventStream { events, waker, cancel, thread: Some(thread) })
    }
}

impl EventStream {
    /// What cancels the generation from elsewhere.
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// Ends the generation and gives the session back, with the tokens that were computed until then. Blocks for at most a
    /// step. `None` if the thread panicked.
    pub fn into_session(mut self) -> Option<Session> {
        self.close()
    }

    fn close(&mut self) -> Option<Session> {
        self.cancel.cancel();
        // A thread that waits for room in the channel goes on and sees the flag.
        while self.events.recv().is_ok() {}
        self.thread.take()?.join().ok()
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.close();
    }
}

impl Stream for EventStream {
    type Item = Result<Event>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let take = || match self.events.try_recv() {
            Ok(event) => Some(Poll::Ready(Some(event))),
            Err(TryRecvError::Disconnected) => Some(Poll::Ready(None)),
            Err(TryRecvError::Empty) => None,
        };
        if let Some(ready) = take() {
            return ready;
        }
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
        // An event may have come before the waker was there.
        take().unwrap_or(Poll::Pending)
    }
}
