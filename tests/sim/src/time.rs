//! Virtual time: it stands still while any task can go on, and jumps to the next timer when none can.
//!
//! Not tokio's own paused time, because that is a feature of tokio (`test-util`) which a build of the whole workspace
//! would then switch on in every program. The runtime tells when its thread is about to park; that is the moment to jump.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::locked;

/// The time of one simulated world. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Time(Arc<Mutex<Timers>>);

#[derive(Debug, Default)]
struct Timers {
    now: Duration,
    /// By when they are due, then by when they were set.
    waiting: BTreeMap<(Duration, u64), Waker>,
    set: u64,
    /// The task that [`Time::ticks`].
    ticking: Option<Waker>,
}

impl Time {
    /// Since the beginning of the world.
    pub fn now(&self) -> Duration {
        locked(&self.0).now
    }

    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    pub fn sleep_until(&self, due: Duration) -> Sleep {
        Sleep { time: self.clone(), due, key: None }
    }

    /// Jumps to the next timer, and wakes all that are due then.
    fn jump(&self) {
        let mut timers = locked(&self.0);
        let Some((&(due, _), _)) = timers.waiting.first_key_value() else { return };
        timers.now = timers.now.max(due);
        let later = timers.waiting.split_off(&(due, u64::MAX));
        let ready = std::mem::replace(&mut timers.waiting, later);
        let ticking = timers.ticking.clone();
        drop(timers);
        ready.into_values().chain(ticking).for_each(Waker::wake);
    }

    /// Always has something to do after a jump: else the thread would park for good after one that woke nobody, because
    /// whoever set the timer does not wait for it any more.
    async fn ticks(self) {
        std::future::poll_fn(|context| {
            locked(&self.0).ticking = Some(context.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }

    /// Runs a world to its end, on this thread. Some task must always wait for a timer.
    ///
    /// # Panics
    ///
    /// If anything used a second thread: then one seed would not be one course of events.
    pub fn run<T: Send + 'static>(&self, world: impl Future<Output = T> + Send + 'static) -> T {
        let (time, second_thread) = (self.clone(), Arc::new(AtomicBool::new(false)));
        let noticed = second_thread.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .on_thread_park(move || time.jump())
            .on_thread_start(move || noticed.store(true, Ordering::Relaxed))
            .build()
            .expect("a runtime without drivers needs nothing of the machine");
        let ticks = self.clone().ticks();
        // As a task of its own: time must not go on while the world itself can.
        let result = runtime.block_on(async {
            tokio::spawn(ticks);
            tokio::spawn(world).await
        });
        locked(&self.0).ticking = None;
        drop(runtime);
        assert!(!second_thread.load(Ordering::Relaxed), "a second thread was used");
        match result {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// Waits until a moment.
#[derive(Debug)]
pub struct Sleep {
    time: Time,
    due: Duration,
    key: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let time = self.time.clone();
        let mut timers = locked(&time.0);
        if timers.now >= self.due {
            if let Some(key) = self.key.take() {
                timers.waiting.remove(&key);
            }
            return Poll::Ready(());
        }
        let due = self.due;
        let key = *self.key.get_or_insert_with(|| {
            timers.set += 1;
            (due, timers.set)
        });
        timers.waiting.insert(key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = locked(&self.time.0).waiting.remove(&key);
            // Outside of the lock: it may be the last to hold a task, with timers of its own.
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_jumps_from_timer_to_timer_in_order() {
        let time = Time::default();
        let inner = time.clone();
        let seen = time.run(async move {
            let tasks: Vec<_> = [3_600, 1, 60]
                .map(|seconds| {
                    let time = inner.clone();
                    tokio::spawn(async move {
                        time.sleep(Duration::from_secs(seconds)).await;
                        time.now().as_secs()
                    })
                })
                .into();
            futures::future::join_all(tasks).await.into_iter().map(Result::unwrap).collect::<Vec<_>>()
        });
        assert_eq!(seen, [3_600, 1, 60]);
        assert_eq!(time.now(), Duration::from_secs(3_600));
    }
}
